"""From host batches to global arrays on a mesh of 8 virtual devices."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxformers as jf
from jaxformers.training.data.device import host_count, host_share, row_parts

BATCH = {"input_ids": np.arange(24).reshape(8, 3), "weight": np.linspace(0, 1, 8), "scale": np.float64(2)}


def test_without_a_mesh_arrays_go_to_the_default_device() -> None:
    out = jf.to_device(BATCH)
    assert {name: value.dtype.name for name, value in out.items()} == {
        "input_ids": "int32", "weight": "float32", "scale": "float32",
    }  # fmt: skip
    np.testing.assert_array_equal(out["input_ids"], BATCH["input_ids"])


def test_rows_are_split_by_the_axes_of_the_batch() -> None:
    mesh = jf.make_mesh(data=2, fsdp=2, tensor=2)
    out = jf.to_device(BATCH, mesh, jf.FSDP_TENSOR)
    assert out["input_ids"].sharding.spec == PartitionSpec(("data", "fsdp"))
    assert out["input_ids"].addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(out["input_ids"], BATCH["input_ids"])
    assert float(out["scale"]) == 2


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OverflowError, match="'ids' of the batch holds 1..1099511627776, beyond int32"):
        jf.to_device({"ids": np.array([1, 1 << 40])})
    with pytest.raises(TypeError, match="'text' of the batch"):
        jf.to_device({"text": np.array(["a"])})


def test_a_loader_places_batches_ahead_of_time() -> None:
    mesh = jf.make_mesh(data=8)
    loader = jf.DataLoader(
        {"x": np.arange(32)}, batch_size=8, epochs=1, place=lambda batch: jf.to_device(batch, mesh, jf.DATA)
    )
    batches = list(loader)
    assert len(batches) == 4 and all(len(batch["x"].addressable_shards) == 8 for batch in batches)
    assert isinstance(batches[0]["x"], jax.Array)


def topology():
    """Four processes with four devices each."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices


def test_processes_read_what_their_devices_hold() -> None:
    devices = sorted(topology(), key=lambda device: (device.process_index, device.id))
    count = len({device.process_index for device in devices})
    assert count > 1
    mesh = jf.make_mesh(data=16, devices=devices)
    assert sorted(host_share(mesh, jf.DATA, 32, process) for process in range(count)) == [
        (process, count) for process in range(count)
    ]
    assert host_count(mesh, jf.DATA, 32 // count) == count
    whole = jf.make_mesh(tensor=16, devices=devices)
    assert {host_share(whole, jf.FSDP_TENSOR, 32, process) for process in range(count)} == {(0, 1)}
    assert host_count(whole, jf.FSDP_TENSOR, 32) == 1
    half = jf.make_mesh(data=2, tensor=8, devices=devices)
    assert len(row_parts(half, jf.FSDP_TENSOR, 32)[1]) == 2
    assert host_count(half, jf.FSDP_TENSOR, 16) == 2
