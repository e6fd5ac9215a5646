"""Dispatch: one public function, a reference, and faster alternatives in order; the first that does not refuse runs.

Which alternatives are tried depends on the device that a program is traced for, which need not be there: a program for
the mesh of a pod is compiled ahead of time on a laptop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxformers.core.sharding import mesh_in_use

_FORCED: ContextVar[dict[str, str] | None] = ContextVar("jaxformers_ops", default=None)


def target_device() -> Any:
    """A device of the kind that a program is traced for: of the mesh in use, or else jax's default one."""
    mesh = mesh_in_use()
    # A mesh without devices, for tables and shapes, names no platform.
    return jax.devices()[0] if mesh is None or not hasattr(mesh, "devices") else mesh.devices.flat[0]


def target_platform() -> str:
    """ "cpu", "tpu" or "gpu"."""
    platform = target_device().platform
    return "gpu" if platform in ("cuda", "rocm") else platform


@dataclass(frozen=True)
class Implementation:
    """One way to compute an op; it raises NotImplementedError("why") to pass."""

    name: str
    call: Callable[..., Any]
    platforms: tuple[str, ...]
    priority: int


@dataclass
class Op:
    """A function with a reference and faster implementations by platform."""

    name: str
    reference: Callable[..., Any]
    implementations: list[Implementation] = field(default_factory=list)

    def register(self, name: str, *, platforms: tuple[str, ...] = (), priority: int = 0) -> Callable:
        """Add an implementation; no platforms means all, higher priority is tried first."""

        def add(call: Callable[..., Any]) -> Callable[..., Any]:
            self.implementations.append(Implementation(name, call, platforms, priority))
            self.implementations.sort(key=lambda i: -i.priority)
            return call

        return add

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forced = (_FORCED.get() or {}).get(self.name)
        if forced == "reference":
            return self.reference(*args, **kwargs)
        reasons = []
        for one in self.implementations:
            if forced is not None and one.name != forced:
                continue
            if forced is None and one.platforms and target_platform() not in one.platforms:
                continue
            try:
                return one.call(*args, **kwargs)
            except NotImplementedError as why:
                reasons.append(f"{one.name}: {why}")
        if forced is not None:
            known = [i.name for i in self.implementations]
            raise ValueError(f"{self.name} was told to use {forced!r}, which refused or is unknown: {reasons or known}")
        return self.reference(*args, **kwargs)


@contextmanager
def use(**choices: str) -> Iterator[None]:
    """Force implementations while a function is traced: `with use(attention="reference")`."""
    token = _FORCED.set({**(_FORCED.get() or {}), **choices})
    try:
        yield
    finally:
        _FORCED.reset(token)
