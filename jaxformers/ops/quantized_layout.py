"""How a quantised matrix is cut over devices: values and scales alike, and never through a group."""

from typing import Any

from jax.sharding import PartitionSpec

from jaxformers.core.qtensor import QTensor


def specs_of(w: QTensor, outputs: Any, inputs: Any, *lead: Any) -> QTensor:
    """A PartitionSpec in the place of each array of w, of which outputs and inputs are cut so."""
    groups = inputs if w.groups > 1 else None
    return w.replace(values=PartitionSpec(*lead, outputs, inputs), scale=PartitionSpec(*lead, groups, outputs))  # type: ignore[attr-defined]


def check_cut(w: QTensor, parts: int) -> None:
    """Raise NotImplementedError where w's inputs cannot be cut into so many parts."""
    if parts > 1 and w.groups == 1 and w.span:
        raise NotImplementedError("the inputs of an int4 matrix are cut, and all of them share one group")
    if w.groups > 1 and w.inputs % (parts * (w.span or w.group_size)):
        raise NotImplementedError(f"{w.inputs} inputs are cut into {parts} parts, which are no whole groups")
