"""Meshes: sizes that fit, devices of this process or of all, and slices or hosts that a slower network joins."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxformers.core.mesh import abstract_mesh, granule_key, hybrid_grid, make_mesh, read_mesh, spread_granules


def devices(count: int, per_group: int, key: str, platform: str = "cpu") -> list[SimpleNamespace]:
    """Stand-ins for devices in groups."""
    fields = {"platform": platform, "device_kind": "none", "process_index": 0}
    return [SimpleNamespace(**{**fields, "id": n, key: n // per_group}) for n in range(count)]


def groups(grid: np.ndarray, key: str) -> np.ndarray:
    return np.vectorize(lambda d: getattr(d, key))(grid)


def test_what_is_left() -> None:
    mesh = make_mesh(data=2, fsdp=-1, tensor=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert dict(make_mesh({"fsdp": -1}, devices="local").shape) == {"fsdp": 8}
    assert dict(make_mesh(stage=2, expert=2, sequence=1, devices=jax.devices()[:4]).shape)["sequence"] == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(data=3), "3 places for 8 devices"),
        (dict(data=3, fsdp=-1), "6 places for 8 devices"),
        (dict(data=-1, fsdp=-1), "one of them may be -1"),
        (dict(data=0), "sizes are 1 or more"),
        (dict(data=8, devices="remote"), "expected 'global', 'local' or a list"),
        (dict(data=8, dcn={"fsdp": 2}), r"dcn \{'fsdp': 2\} does not divide"),
        (dict(data=8, dcn={"data": 2}), "names 2 parts; the devices lie in 1 processes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes)


def test_slices_are_joined_by_the_axes_that_bear_it() -> None:
    assert spread_granules({"data": 4, "tensor": 4}, 4, must=True) == {"data": 4}
    assert spread_granules({"tensor": 4, "fsdp": 4, "data": 2}, 4, must=True) == {"data": 2, "fsdp": 2}
    assert spread_granules({"tensor": 2, "stage": 2, "data": 2}, 2, must=True) == {"stage": 2}
    with pytest.raises(ValueError, match="does not divide over 3 slices"):
        spread_granules({"data": 4, "tensor": 4}, 3, must=True)
    assert spread_granules({"data": 4, "tensor": 4}, 3, must=False) == {}


def test_which_groups_there_are() -> None:
    assert granule_key(devices(8, 4, "slice_index"), asked=False) == "slice_index"
    assert granule_key(devices(8, 8, "slice_index"), asked=False) is None
    assert granule_key(devices(8, 4, "process_index", "gpu"), asked=False) == "process_index"
    assert granule_key(devices(8, 1, "process_index", "gpu"), asked=False) is None, "a process for each GPU is no host"
    assert granule_key(devices(8, 4, "process_index"), asked=False) is None, "CPUs have one network"
    assert granule_key(devices(8, 4, "process_index"), asked=True) == "process_index"


@pytest.mark.parametrize("key", ["slice_index", "process_index"])
def test_an_axis_runs_over_slices_first(key: str) -> None:
    grid = hybrid_grid({"data": 4, "tensor": 4}, {"data": 2}, devices(16, 8, key), key)
    assert grid.shape == (4, 4)
    np.testing.assert_array_equal(groups(grid, key), [[0] * 4, [0] * 4, [1] * 4, [1] * 4])
    grid = hybrid_grid({"data": 4, "tensor": 4}, {"data": 2, "tensor": 2}, devices(16, 4, key), key)
    np.testing.assert_array_equal(groups(grid, key)[:, 0], [0, 0, 2, 2])
    np.testing.assert_array_equal(groups(grid, key)[0], [0, 0, 1, 1])


def test_a_mesh_in_words() -> None:
    assert read_mesh(" fsdp=2, tensor=4,") == {"fsdp": 2, "tensor": 4}
    for text in ("fsdp", "fsdp=two", "fsdp=2,fsdp=4", "2=fsdp"):
        with pytest.raises(ValueError, match="expected axes such as fsdp=2,tensor=4"):
            read_mesh(text)
    assert abstract_mesh(fsdp=64, tensor=8).size == 512
    with pytest.raises(ValueError, match="give every axis a size"):
        abstract_mesh(fsdp=-1)
