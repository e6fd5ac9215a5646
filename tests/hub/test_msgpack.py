"""Flax files: what flax.serialization writes, under PyTorch's names and layouts."""

import json

import flax.linen as nn
import flax.serialization as serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from jaxformers.core.errors import CheckpointError
from jaxformers.hub import msgpack
from jaxformers.hub.checkpoint import open_checkpoint

random = np.random.default_rng(0)


def array(*shape, dtype="float32"):
    return random.standard_normal(shape).astype(dtype)


def write(path, tree):
    path.write_bytes(serialization.to_bytes(tree))
    return path


def test_names_and_layouts(tmp_path):
    tree = {
        "h": {"0": {"dense": {"kernel": array(3, 5), "bias": array(5)}, "norm": {"scale": array(5), "bias": array(5)}}},
        "wte": {"embedding": array(7, 3)},
        "conv": {"kernel": array(2, 4, 3, 6)},
        "conv1d": {"kernel": array(2, 3, 6)},
        "logit_scale": array(),
        "half": {"kernel": array(3, 2, dtype=ml_dtypes.bfloat16)},
        "empty": {"bias": array(0)},
    }
    read = msgpack.read(write(tmp_path / "flax_model.msgpack", tree))
    dense = tree["h"]["0"]["dense"]
    assert np.array_equal(read["h.0.dense.weight"], dense["kernel"].T)
    assert np.array_equal(read["h.0.dense.bias"], dense["bias"])
    assert np.array_equal(read["h.0.norm.weight"], tree["h"]["0"]["norm"]["scale"])
    assert np.array_equal(read["wte.weight"], tree["wte"]["embedding"])
    assert np.array_equal(read["conv.weight"], tree["conv"]["kernel"].transpose(3, 2, 0, 1))
    assert np.array_equal(read["conv1d.weight"], tree["conv1d"]["kernel"].transpose(2, 1, 0))
    assert read["logit_scale"] == tree["logit_scale"] and read["logit_scale"].shape == ()
    assert read["half.weight"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(read["half.weight"], tree["half"]["kernel"].T)
    assert len(read) == len(list(read)) == 10
    assert not read["wte.weight"].flags.writeable


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_convolutions_compute_the_same(tmp_path, groups):
    """Ordinary, grouped and depthwise kernels all follow one rule."""
    conv = nn.Conv(6, (3, 2), feature_group_count=groups, padding="VALID")
    x = array(1, 8, 9, 6)
    params = conv.init(jax.random.key(0), x)
    weight = msgpack.read(write(tmp_path / "a.msgpack", params))["weight"]
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(weight.copy()), groups=groups
    )
    np.testing.assert_allclose(conv.apply(params, x), theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_batch_statistics_join_the_parameters(tmp_path):
    tree = {
        "params": {"bn": {"scale": array(3), "bias": array(3)}},
        "batch_stats": {"bn": {"mean": array(3), "var": array(3)}},
    }
    read = msgpack.read(write(tmp_path / "a.msgpack", tree))
    assert set(read) == {"bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"}
    assert np.array_equal(read["bn.running_var"], tree["batch_stats"]["bn"]["var"])


def test_chunked_arrays_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    tree = {"a": {"kernel": array(10, 12)}, "b": {"embedding": array(5, 7)}, "c": {"bias": array(3)}}
    path = write(tmp_path / "flax_model.msgpack", jax.tree.map(np.copy, tree))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    checkpoint = open_checkpoint(tmp_path)
    for _ in range(2):
        assert np.array_equal(checkpoint["a.weight"], tree["a"]["kernel"].T)
        assert np.array_equal(checkpoint["b.weight"], tree["b"]["embedding"])
        checkpoint.release("a.weight")
    assert checkpoint.nbytes == 4 * (120 + 35 + 3)


def test_every_dtype_and_scalars_beside_arrays(tmp_path):
    names = "bool uint8 int8 int16 int32 int64 uint32 float16 bfloat16 float32 float64 complex64".split()
    made = {name: {"bias": random.integers(0, 2, (2, 3)).astype(jnp.dtype(name))} for name in names}
    other = {"step": 3, "big": 1 << 40, "minus": -5, "long": -(1 << 40), "rate": 0.5, "name": "x" * 40, "flag": True}
    other |= {"none": None, "raw": b"abc", "list": [1, 2], "complex": 1 + 2j, "scalar": np.float32(2)}
    read = msgpack.read(write(tmp_path / "a.msgpack", {**made, "other": other}))
    assert set(read) == {f"{name}.bias" for name in names} | {"other.scalar"}
    for name in names:
        assert read[f"{name}.bias"].dtype == jnp.dtype(name)
        assert np.array_equal(read[f"{name}.bias"], made[name]["bias"])


def test_sharded_checkpoints(tmp_path):
    shards = {
        "flax_model-00001-of-00002.msgpack": {"enc": {"0": {"dense": {"kernel": array(3, 5)}}}},
        "flax_model-00002-of-00002.msgpack": {
            "enc": {"0": {"norm": {"scale": array(5)}}},
            "emb": {"embedding": array(2, 3)},
        },
    }
    for name, tree in shards.items():
        write(tmp_path / name, tree)
    first, second = shards
    places = {"enc/0/dense/kernel": first, "enc/0/norm/scale": second, "emb/embedding": second}
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": places}))
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint) == {"enc.0.dense.weight", "enc.0.norm.weight", "emb.weight"}
    assert np.array_equal(checkpoint["enc.0.dense.weight"], shards[first]["enc"]["0"]["dense"]["kernel"].T)
    assert checkpoint.source("emb.weight") == second


def packed(shape, dtype, data) -> bytes:
    import msgpack as package

    return package.packb({"a": package.ExtType(1, package.packb((shape, dtype, data)))})


BAD = {
    "empty": b"",
    "list": b"\x90",
    "unused tag": b"\x81\xa1a\xc1",
    "bytes after the end": packed([2], "uint8", b"ab") + b"\x00",
    "truncated": packed([2], "uint8", b"ab")[:-1],
    "no array": b"\x81\xa1a\x01",
    "key twice": b"\x82\xa1a\x01\xa1a\x02",
    "key is a number": b"\x81\x01\x02",
    "deep": b"\x81\xa1a" * 5000,
    "wrong size": packed([3], "uint8", b"ab"),
    "negative shape": packed([-1], "uint8", b""),
    "object dtype": packed([1], "object", b"12345678"),
    "structured dtype": packed([1], "f4,f4", b"12345678"),
    "data is text": packed([2], "uint8", "ab"),
    "huge list": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "huge text": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "bad text": b"\x81\xa2\xff\xfe\x01",
    "chunks missing": b"\x81\xa1a\x82\xb9__msgpack_chunked_array__\xc3\xa5shape\x80",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    (tmp_path / "a.msgpack").write_bytes(BAD[name])
    with pytest.raises(CheckpointError, match=r"a\.msgpack: .*; expected"):
        msgpack.read(tmp_path / "a.msgpack")


def test_two_leaves_of_one_name_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"two leaves named 'a\.weight'"):
        msgpack.read(write(tmp_path / "a.msgpack", {"a": {"scale": array(2), "kernel": array(2)}}))
