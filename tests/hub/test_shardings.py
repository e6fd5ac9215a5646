"""The table of shardings says what the devices hold, and needs none of them."""

import json

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers import cli
from jaxformers.core.mesh import abstract_mesh
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.hub.shardings_shown import drawing, holders, ranges, text
from tests.hub import tiny

CONFIG = jf.AutoConfig.for_model("llama", **tiny.SIZES)
Q = "backbone/layers/0:4:1/0/attn/q_proj/weight"


@pytest.fixture(scope="module")
def model() -> jf.Model:
    """On eight devices, its layers stacked."""
    mesh = jf.make_mesh(data=2, fsdp=2, tensor=2)
    key = jax.random.key(0)
    return jf.Model.init(CONFIG, key, task="CausalLM", mesh=mesh, rules=jf.FSDP_TENSOR, scan=True)


def test_it_says_what_the_devices_hold(model: jf.Model) -> None:
    table = jf.shardings(model)
    leaves = jax.tree.leaves(model)
    assert len(table) == len(leaves)
    for row, leaf in zip(table, leaves, strict=True):
        assert row.shape == leaf.shape and row.shard == leaf.addressable_shards[0].data.shape
        assert row.bytes_per_device == leaf.addressable_shards[0].data.nbytes
    assert table.bytes == sum(x.nbytes for x in leaves) and table.parameters == sum(x.size for x in leaves)
    assert table[Q].shape == (4, 64, 64) and table[Q].cuts == (1, 2, 2) and table[Q].names[1:] == ("heads", "embed")


def test_shapes_and_abstract_meshes_will_do(model: jf.Model) -> None:
    want = jf.shardings(model)
    sizes = {"data": 2, "fsdp": 2, "tensor": 2}
    bare = abstract_model(CONFIG, task="CausalLM", mesh=abstract_mesh(sizes), rules=jf.FSDP_TENSOR, scan=True)
    assert [r.shard for r in jf.shardings(bare)] == [r.shard for r in want]
    assert [x.sharding.spec for x in jax.tree.leaves(bare)] == [x.sharding.spec for x in jax.tree.leaves(model)]
    other = jf.shardings(model, abstract_mesh(fsdp=64), jf.FSDP)
    assert other[Q].shard == (4, 64, 1)
    assert jf.shardings(jax.eval_shape(lambda m: m, model))[Q].shard == want[Q].shard
    with pytest.raises(ValueError, match="on no mesh"):
        jf.shardings(abstract_model(CONFIG))


def test_drawn_devices_are_those_that_hold_each_part(model: jf.Model) -> None:
    for row, leaf in zip(jf.shardings(model), jax.tree.leaves(model), strict=True):
        held = holders(row)
        for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
            starts = (s.indices(n)[0] for s, n in zip(index, leaf.shape, strict=True))
            part = tuple(start // size for start, size in zip(starts, row.shard, strict=True))
            assert device.id in held[part], row.path


def test_drawings_and_tables(model: jf.Model, capsys: pytest.CaptureFixture) -> None:
    table = jf.shardings(model)
    drawn = text(drawing(table[Q]))
    assert "layers:-, heads:tensor, embed:fsdp" in drawn and "│  :, 0:32, ... │ 0,4  │" in drawn
    assert "4 parts of [4, 32, 32], 16.0 KiB on a device, 2 copies of each" in drawn
    assert "8 parts" not in text(drawing(table["backbone/norm/scale"]))
    wide = text(drawing(jf.shardings(model, abstract_mesh(fsdp=64), jf.FSDP)[Q]))
    assert "48 parts are not drawn" in wide
    printed = str(table)
    assert "data=2, fsdp=2, tensor=2 (8 devices)" in printed and "4,32,32" in printed
    assert f"{table.parameters:,} parameters (float32)" in printed
    table.draw("mlp/up_proj")
    assert "mlp/up_proj/weight" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no parameter's path matches"):
        table.find("nothing")
    assert ranges([3, 0, 1, 2, 8]) == "0-3,8"


def test_equal_layers_share_a_line() -> None:
    bare = abstract_model(CONFIG, task="CausalLM", mesh=abstract_mesh(fsdp=2), rules=jf.FSDP)
    lines = dict(jf.shardings(bare).groups())
    assert len(lines["backbone/layers/*/attn/q_proj/weight"]) == 4
    assert sum(map(len, lines.values())) == len(jf.shardings(bare))


class TestCommand:
    @pytest.fixture
    def config(self, tmp_path) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**CONFIG.to_json(), "architectures": ["LlamaForCausalLM"]}))
        return str(path)

    def test_table(self, config: str, capsys: pytest.CaptureFixture) -> None:
        assert cli.main(["shard", config, "--mesh", "fsdp=2,tensor=4"]) == 0
        out = capsys.readouterr().out
        assert "(8 devices)" in out and "tensor, fsdp" in out
        assert cli.main(["shard", "--config", config, "--mesh", "fsdp=512", "--rules", "fsdp", "--every"]) == 0
        assert "it stays whole" not in capsys.readouterr().out

    def test_json_counts_the_parameters(self, config: str, capsys: pytest.CaptureFixture) -> None:
        asked = ["shard", config, "--mesh", "fsdp=2,tensor=4", "--scan", "--json", "--dtype", "bfloat16"]
        assert cli.main(asked) == 0
        found = json.loads(capsys.readouterr().out)
        bare = abstract_model(CONFIG, task="CausalLM")
        assert found["parameters"] == sum(int(np.prod(x.shape)) for x in jax.tree.leaves(bare))
        assert found["bytes"] == 2 * found["parameters"] and found["devices"] == 8
        assert found["rows"][Q]["spec"] == [None, "tensor", "fsdp"] and found["rows"][Q]["shard"] == [4, 16, 32]

    def test_drawing(self, config: str, capsys: pytest.CaptureFixture) -> None:
        assert cli.main(["shard", config, "--mesh", "fsdp=2,tensor=2", "--draw", "q_proj|embedding"]) == 0
        out = capsys.readouterr().out
        assert out.count("copies") == 0 and "layers/0/attn/q_proj" in out and "embed/embedding" in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--mesh", "x=2"], "rename one or the other"),
            (["--mesh", "fsdp"], "expected axes such as"),
            (["--mesh", "fsdp=2", "--rules", "ALL"], "expected one of REPLICATED, DATA"),
            (["--mesh", "fsdp=2", "--config", "other.json"], "one of the two"),
            (["--mesh", "fsdp=2", "--draw", "nothing"], "no parameter's path"),
        ],
    )
    def test_mistakes(self, config: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
        assert cli.main(["shard", config, *arguments]) == 2
        assert message in capsys.readouterr().err
