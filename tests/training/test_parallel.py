"""On eight virtual devices every kind of parallelism computes the loss and gradients of one, by the right exchanges."""

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.sharding import PRESETS, Rules
from tests.training.parallel import CONFIGS, IDS, T, check, collectives, cut_shapes, tiny

Mix = tuple[dict[str, int], Rules]
BY_PRESET: dict[str, dict[str, int]] = {
    "DATA": dict(data=8),
    "FSDP": dict(data=2, fsdp=4),
    "TENSOR": dict(data=2, tensor=4),
    "FSDP_TENSOR": dict(fsdp=2, tensor=4),
    "EXPERT": dict(fsdp=2, expert=4),
    "SEQUENCE": dict(fsdp=2, sequence=4),
}
MIXES: dict[str, Mix] = {
    "data fsdp tensor": (dict(data=2, fsdp=2, tensor=2), jf.FSDP_TENSOR),
    "fsdp tensor sequence": (dict(fsdp=2, sequence=2, tensor=2), jf.SEQUENCE),
    "data sequence tensor, keys gathered": (dict(data=2, sequence=2, tensor=2), (*jf.SEQUENCE, ("keys", None))),
    "fsdp expert tensor": (dict(fsdp=2, expert=2, tensor=2), jf.EXPERT),
    "data expert sequence": (
        dict(data=2, expert=2, sequence=2),
        (*jf.EXPERT, ("length", "sequence"), ("keys", "sequence")),
    ),
}
# Where a preset has most to do; all other pairs are slow tests.
QUICK = {("vit", "DATA"), ("llama", "FSDP"), ("t5", "TENSOR"), ("mixtral", "EXPERT"), ("llama", "SEQUENCE")}


def cases() -> list:
    """Every family with every preset."""
    pairs = [(kind, name) for kind in CONFIGS for name in BY_PRESET]
    return [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(("kind", "name"), cases())
def test_presets(kind: str, name: str) -> None:
    """Scanned: the numbers, and how they come about."""
    model, program = check(kind, True, BY_PRESET[name], PRESETS[name])
    moved = collectives(program.as_text())
    assert_exchanges(kind, name, moved)
    # ZeRO-3: parameters are gathered layer by layer, never all layers at once.
    whole = cut_shapes(model)
    assert bool(whole) == (name != "DATA")
    assert not whole & set(moved.get("all-gather", ())), whole & set(moved["all-gather"])


def assert_exchanges(kind: str, name: str, moved: dict) -> None:
    """The collectives that a preset is about are there; pure data parallelism gathers nothing."""
    assert "all-reduce" in moved or "reduce-scatter" in moved
    if name == "DATA":
        assert set(moved) == {"all-reduce"}
    if "FSDP" in name:
        assert "all-gather" in moved
    if name == "EXPERT" and kind == "mixtral":
        assert "all-to-all" in moved
    if name == "SEQUENCE" and kind in ("llama", "mixtral"):
        assert "collective-permute" in moved


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_mixes(kind: str, mix: str) -> None:
    check(kind, True, *MIXES[mix])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FSDP", "SEQUENCE", "EXPERT"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_layer_by_layer(kind: str, name: str) -> None:
    """Without a scan."""
    check(kind, False, BY_PRESET[name], PRESETS[name])


def test_parameters_are_never_all_in_one_place() -> None:
    """What a device needs besides its own shards is far less than the parameters."""
    from jaxformers.hub.abstract_model import abstract_model

    config = jf.AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=128, num_hidden_layers=24, intermediate_size=256, num_attention_heads=4
    )
    model = abstract_model(config, task="CausalLM", mesh=jf.make_mesh(fsdp=8), rules=jf.FSDP, scan=True, remat="full")
    ids = jax.ShapeDtypeStruct((8, 4), "int32", sharding=jax.NamedSharding(model.mesh, jax.P("fsdp")))
    places = jax.tree.map(lambda x: x.sharding, model)
    step = jax.jit(jax.grad(lambda m, ids: m(input_ids=ids).logits.sum()), out_shardings=places)
    sizes = step.lower(model, ids).compile().memory_analysis()
    table = jf.shardings(model)
    assert sizes.argument_size_in_bytes < 1.01 * table.bytes_per_device + 1024
    assert sizes.temp_size_in_bytes < table.bytes / 4, (sizes.temp_size_in_bytes, table.bytes)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mix"), [("llama", "fsdp tensor sequence"), ("mixtral", "data expert sequence")])
def test_the_train_step(kind: str, mix: str) -> None:
    """Packed documents, the task's own loss, two micro-batches and remat, on one device and on eight."""
    axes, rules = MIXES[mix]
    model = tiny(kind, True)
    ids = np.concatenate([IDS, IDS[:, ::-1]])
    segments = np.where(np.arange(T) < 6, 1, np.where(np.arange(T) < T - 2, 2, 0)) * np.ones((len(ids), 1), int)
    batch = {"input_ids": ids, "labels": np.where(segments > 0, ids, -100), "segment_ids": segments}
    settings = {"optimizer": jf.optimizer("adamw", 1e-2), "accumulate": 2, "remat": "full"}
    one = jf.make_train_step(jf.loss_for(model), **settings)
    many = jf.make_train_step(jf.loss_for(model), **settings, mesh=jf.make_mesh(**axes), rules=rules)
    alone, spread = one.init(model, jax.random.key(1)), many.init(model, jax.random.key(1))
    for _ in range(2):
        alone, left = one(alone, batch)
        spread, right = many(spread, batch)
        for name in ("loss", "grad_norm", "weight"):
            assert float(left[name]) == pytest.approx(float(right[name]), rel=1e-5), name
