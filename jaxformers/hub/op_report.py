"""Which implementation of each op a model would take: its forward pass is traced on shapes, without weights."""

from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxformers.core.mask import Mask
from jaxformers.core.qtensor import QTensor, dtype_of
from jaxformers.core.sharding import use_mesh
from jaxformers.hub.model import Model
from jaxformers.ops.dispatch import Call, watch_calls


@dataclass(frozen=True)
class OpUse:
    """A kind of call that a forward pass makes of an op."""

    op: str
    shapes: str
    chosen: str
    refused: tuple[tuple[str, str], ...]  # (implementation, reason) of those that come before
    calls: int  # layers of a scanned stack count once
    step: str = "forward"  # or "decode": one token of each row, with a cache of the length


def op_report(model: Model, batch: int = 1, length: int = 1024) -> list[OpUse]:
    """List the ops of a forward pass over `batch` rows of `length` tokens, or pictures or sounds of the usual size.

    For models that write texts also those of writing one token more with `length` tokens in the cache. model: as
    `abstract_model` makes it; its mesh decides for which device.
    """
    dtype = dtype_of(model.params)
    inputs = {name: widened(x, batch, length, dtype) for name, x in model.module.dummy_inputs().items()}  # type: ignore[attr-defined]
    found = traced(model, inputs)
    if decodes(model):
        token = jax.ShapeDtypeStruct((batch, 1), jax.numpy.int32)
        cache = jax.eval_shape(lambda: model.module.init_cache(batch, length, dtype))  # type: ignore[attr-defined]
        one = {"input_ids": token, "past_key_values": cache}
        found += [replace(use, step="decode") for use in traced(model, one)]
    return found


def decodes(model: Model) -> bool:
    """Whether a model writes a text from tokens alone."""
    only_tokens = set(model.module.dummy_inputs()) == {"input_ids"}  # type: ignore[attr-defined]
    backbone = getattr(model.module, "backbone", model.module)
    return model.task == "CausalLM" and only_tokens and getattr(backbone, "causal", True)


def traced(model: Model, inputs: dict[str, Any]) -> list[OpUse]:
    """The ops of one call of the model on shapes."""
    static = model._static
    with use_mesh(static.mesh, static.rules), watch_calls() as calls:
        jax.eval_shape(lambda params, inputs: model.module.apply({"params": params}, **inputs), model.params, inputs)
    return summed(calls)


def widened(x: jax.ShapeDtypeStruct, batch: int, length: int, dtype: Any) -> jax.ShapeDtypeStruct:
    """A dummy input [1,...] for a batch; sequences of two, which stand for any length, get theirs."""
    rest = (length,) if x.shape[1:2] == (2,) else x.shape[1:2]
    floating = jax.numpy.issubdtype(x.dtype, jax.numpy.floating)
    return jax.ShapeDtypeStruct((batch, *rest, *x.shape[2:]), dtype if floating else x.dtype)


def summed(calls: list[Call]) -> list[OpUse]:
    """Equal calls once, with their number, in the order of the first."""
    found: dict[tuple, int] = {}
    for call in calls:
        key = (call.op, describe(call), call.chosen, tuple(call.refused.items()))
        found[key] = found.get(key, 0) + 1
    return [OpUse(*key, count) for key, count in found.items()]


def describe(call: Call) -> str:
    """Dtype and shapes of a call's arrays, and the rules of its mask."""
    arrays = [x for x in call.args if hasattr(x, "shape") and hasattr(x, "dtype")]
    parts = [" ".join(str(list(x.shape)).replace(" ", "") for x in arrays)]
    parts[:0] = [str(arrays[0].dtype)] if arrays else []
    parts += [f"{x.kind} by {x.group_size}" for x in call.args if isinstance(x, QTensor)]
    parts += [mask_rules(x) for x in call.args if isinstance(x, Mask)]
    given = [name for name, x in call.kwargs.items() if x is not None and name in ("bias", "softcap", "sinks")]
    return ", ".join(filter(None, [*parts, *given]))


def mask_rules(mask: Mask) -> str:
    """The rules that are set, in words."""
    words = []
    if mask.left is not None or mask.right is not None:
        words.append("causal" if mask.left is None and mask.right == 0 else f"window {mask.left}..{mask.right}")
    names = {"keys": "padding", "q_segments": "segments", "prefix": "prefix", "dense": "dense mask"}
    return " ".join([*words, *(word for name, word in names.items() if getattr(mask, name) is not None)])
