"""Dataclasses that are pytrees, and whose type is a part of their structure.

jax compares the structures of registered dataclasses (flax's struct.dataclass registers its own) by their fields alone:
two types with equal fields have structures that are equal, though their hashes differ (jax 0.10). `jit` looks programs
up by structure, so where two such hashes collide, about once in a hundred processes, it runs the program of the other
type. Where a value of one type can stand in the place of another's, declare both with this decorator.
"""

from typing import Any, TypeVar, dataclass_transform

from flax import struct

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field,))
def dataclass(cls: type[T]) -> type[T]:
    """flax's struct.dataclass with one more static field, which names the type."""
    named: Any = cls
    named.__annotations__ = {**cls.__annotations__, "type_name": str}
    name = f"{cls.__module__}.{cls.__qualname__}"
    named.type_name = struct.field(pytree_node=False, default=name, kw_only=True, repr=False)
    return struct.dataclass(cls)
