"""Dataclasses of ours are pytrees whose structure tells their type."""

import dataclasses
import pickle

import jax
import pytest
from flax import serialization, struct

from jaxformers.core.pytree import dataclass


@dataclass
class Sum:
    by: float
    times: int = struct.field(pytree_node=False, default=1)

    def __call__(self, x):
        return x + self.by * self.times


@dataclass
class Product:
    by: float
    times: int = struct.field(pytree_node=False, default=1)

    def __call__(self, x):
        return x * self.by**self.times


@dataclass
class Twice(Sum):
    """Inherits every field."""

    def __call__(self, x):
        return 2 * super().__call__(x)


def test_equal_fields_do_not_make_types_equal():
    structures = [jax.tree.structure(cls(3.0)) for cls in (Sum, Product, Twice)]
    assert len({*structures}) == 3
    assert all(a != b for a in structures for b in structures if a is not b)
    assert jax.tree.structure(Sum(3.0)) == jax.tree.structure(Sum(4.0)) != jax.tree.structure(Sum(3.0, times=2))


def test_a_compiled_function_does_not_confuse_them():
    run = jax.jit(lambda transform, x: transform(x))
    for _ in range(2):
        assert [float(run(cls(3.0), 5.0)) for cls in (Sum, Product, Twice)] == [8.0, 15.0, 16.0]


def test_is_a_frozen_dataclass_of_flax():
    value = Sum(3.0).replace(times=4)
    assert value == Sum(3.0, 4) != Sum(3.0) and repr(value) == "Sum(by=3.0, times=4)"
    assert jax.tree.map(lambda x: x + 1, value) == Sum(4.0, 4)
    assert pickle.loads(pickle.dumps(value)) == value
    assert serialization.to_state_dict(value) == {"by": 3.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.by = 1.0
