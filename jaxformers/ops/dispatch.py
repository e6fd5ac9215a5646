"""Dispatch: one public function, a reference, and faster alternatives in order; the first that does not refuse runs.

Which alternatives are tried depends on the device that a program is traced for, which need not be there: a program for
the mesh of a pod is compiled ahead of time on a laptop.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxformers.core.sharding import mesh_in_use

Names = tuple[str, ...]

VARIABLE = "JAXFORMERS_OPS"  # for debugging: "attention=reference,moe=ragged/dense"

_FORCED: ContextVar[dict[str, Names] | None] = ContextVar("jaxformers_ops", default=None)
_SEEN: ContextVar[list["Call"] | None] = ContextVar("jaxformers_op_calls", default=None)


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
    platforms: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True)
class Call:
    """What became of one call of an op: its arguments, the implementation that ran, and why those before it did not."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    chosen: str
    refused: dict[str, str]


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

    def known(self) -> dict[str, Implementation]:
        """Every implementation in the order in which they are tried, the reference last."""
        return {one.name: one for one in (*self.implementations, Implementation("reference", self.reference))}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forced, known, refused = names_forced(self.name), self.known(), {}
        for name in forced or known:
            one = known.get(name)
            if one is None:
                refused[name] = f"unknown; there are {', '.join(known)}"
                continue
            if not forced and one.platforms and target_platform() not in one.platforms:
                refused[name] = f"for {' and '.join(one.platforms)}, not {target_platform()}"
                continue
            try:
                out = one.call(*args, **kwargs)
            except NotImplementedError as why:
                refused[name] = str(why)
                continue
            if (seen := _SEEN.get()) is not None:
                seen.append(Call(self.name, args, kwargs, name, refused))
            return out
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise ValueError(f"{self.name} was told to use {'/'.join(forced)!r}, which refused or is unknown: {reasons}")


def names_forced(op: str) -> Names:
    """The implementations that `use`, or else the environment, allows an op; none means all."""
    forced = _FORCED.get() or {}
    return forced[op] if op in forced else read_choices(os.environ.get(VARIABLE, "")).get(op, ())


def read_choices(text: str) -> dict[str, Names]:
    """{op: implementations} from "attention=flash_tpu/reference,moe=dense". Raises ValueError for anything else."""
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        op, _, names = part.partition("=")
        if not op or not names:
            raise ValueError(f"{VARIABLE} is {text!r}; expected op=implementation, such as attention=reference")
        found[op] = tuple(names.split("/"))
    return found


@contextmanager
def use(**choices: str | Names) -> Iterator[None]:
    """Force implementations while a function is traced: `with use(attention="reference")`, or several names in order.

    Raises ValueError, in the op, when all that are named refuse.
    """
    named = {op: (names,) if isinstance(names, str) else tuple(names) for op, names in choices.items()}
    token = _FORCED.set({**(_FORCED.get() or {}), **named})
    try:
        yield
    finally:
        _FORCED.reset(token)


@contextmanager
def watch_calls() -> Iterator[list[Call]]:
    """Collect every call of an op that is traced meanwhile."""
    calls: list[Call] = []
    token = _SEEN.set(calls)
    try:
        yield calls
    finally:
        _SEEN.reset(token)
