"""Scoring: a language model's last step, told and not taken, for losses that never hold the scores of all words."""

from typing import Any

from flax import struct

from jaxformers.core.outputs import Array


@struct.dataclass
class Scoring:
    """Scores are cap(scale * (hidden matrix^T + bias)), cap(s) being softcap * tanh(s / softcap).

    records: what else the head's output would hold.
    """

    hidden: Array  # [B,T,D]
    matrix: Array  # [V,D]
    bias: Array | None = None  # [V]
    records: dict[str, Any] = struct.field(default_factory=dict)
    scale: float = struct.field(pytree_node=False, default=1.0)
    softcap: float | None = struct.field(pytree_node=False, default=None)
