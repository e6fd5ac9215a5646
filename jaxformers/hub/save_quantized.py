"""Quantised leaves back to tensors of the compressed-tensors layout, and the config that says how to read them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jaxformers.core.errors import CheckpointError
from jaxformers.core.keymap import KeyMap, Piece, their_shape
from jaxformers.core.qtensor import BITS, QTensor, is_quantized, unpack
from jaxformers.hub.abstract import Path, flatten
from jaxformers.hub.compressed import METHOD, PACKED, SCALE, SHAPE, pack_words, words
from jaxformers.hub.gathered import gathered
from jaxformers.hub.safetensors import Entry

Parts = list[tuple[QTensor, Piece]]
FORMAT = {"int8": "pack-quantized", "int4": "pack-quantized", "fp8": "float-quantized"}


def quantized_entries(keys: KeyMap, leaves: Mapping[Path, QTensor]) -> dict[str, Entry]:
    """{their key: entry} of every tensor that quantised leaves become; values are made when an entry is read."""
    matrices: dict[str, Parts] = {}
    for path, leaf in leaves.items():
        for piece in keys.pieces(path, leaf.shape):
            check_storable(path, piece)
            matrices.setdefault(piece.keys[0].removesuffix(".weight"), []).append((leaf, piece))
    out: dict[str, Entry] = {}
    for name in sorted(matrices):
        out |= matrix_entries(name, matrices[name])
    return out


def check_storable(path: Path, piece: Piece) -> None:
    """Raise CheckpointError for a matrix that PyTorch does not keep as the weight of a Linear."""
    if piece.part.in_out or len(piece.shape) != 2 or not piece.keys[0].endswith(".weight"):
        raise CheckpointError(
            f"{'/'.join(path)} is {piece.keys[0]} in PyTorch, which is not the weight of a Linear, and the format has "
            "nothing else: save the model as it was, and quantise it when it is loaded: from_pretrained(quantize=...)"
        )


def matrix_entries(name: str, parts: Parts) -> dict[str, Entry]:
    """The tensors of one matrix, which several leaves may share. Raises CheckpointError where these differ."""
    first, piece = parts[0]
    if len({(leaf.kind, leaf.groups, str(leaf.scale.dtype)) for leaf, _ in parts}) > 1:
        raise CheckpointError(f"{name} is made of matrices that are quantised in different ways: quantise them alike")
    outputs, inputs = piece.part.whole((piece.shape[1], piece.shape[0]) if first.turned else piece.shape)
    bits, dtype = BITS[first.kind], np.dtype(first.scale.dtype)

    def scale() -> np.ndarray:
        return together(parts, (outputs, first.groups), dtype, lambda leaf, at: gathered(leaf.scale, at).T)

    def values() -> np.ndarray:
        plain = np.dtype(np.int8) if first.span else np.dtype(first.values.dtype)
        return together(parts, (outputs, inputs), plain, numbers_of)

    out = {f"{name}.{SCALE}": Entry((outputs, first.groups), dtype, scale)}
    if first.kind == "fp8":
        return {f"{name}.weight": Entry((outputs, inputs), np.dtype(first.values.dtype), values), **out}
    out[f"{name}.{SHAPE}"] = Entry((2,), np.dtype(np.int64), partial(np.array, (outputs, inputs), np.int64))
    packed = Entry((outputs, words(inputs, bits)), np.dtype(np.int32), lambda: pack_words(values(), bits))
    return {f"{name}.{PACKED}": packed, **out}


def numbers_of(leaf: QTensor, at: tuple[int, ...]) -> np.ndarray:
    """The values [out,in] of one layer or expert, one by one."""
    values = gathered(leaf.values, at)
    return unpack(values, leaf.span, np) if leaf.span else values


def together(parts: Parts, shape: tuple[int, ...], dtype: np.dtype, read: Any) -> np.ndarray:
    """One tensor of the rows of several leaves."""
    out = np.zeros(shape, dtype)
    for leaf, piece in parts:
        view = piece.part.view(out)
        view[...] = read(leaf, piece.at).reshape(view.shape)
    return out


def scheme_of(model: Any) -> dict[str, Any]:
    """{"quantization_config": ...} for config.json; {} for a model that is not quantised."""
    leaves, plan = flatten(model.params), model.blueprint
    keys, schemes, others = plan.keys(), {}, set()
    for path, leaf in leaves.items():
        for piece in keys.pieces(path, tuple(leaf.shape)):
            name = plan.module_name(piece.keys[0].removesuffix(".weight"))
            if is_quantized(leaf):
                group = leaf.group_size if leaf.groups > 1 else None
                schemes.setdefault((leaf.kind, group), []).append(name)
            elif path[-1] != "embedding" and len(their_shape(path[-1], piece.shape)) == 2:
                others.add(name)
    if not schemes:
        return {}
    formats = {FORMAT[kind] for kind, _ in schemes}
    if len(formats) > 1:
        raise CheckpointError("a file holds whole numbers or 8-bit floats, not both: quantise the model to one kind")
    # A language model's layers are meant all together, which every reader understands; else matrices are named.
    whole = len(schemes) == 1 and model.task == "CausalLM"
    groups = {
        f"group_{n}": {"targets": ["Linear"] if whole else sorted(set(names)), **weights_of(kind, group)}
        for n, ((kind, group), names) in enumerate(schemes.items())
    }
    ignore = sorted({*others, "lm_head"}) if whole else []
    return {
        "quantization_config": {
            "quant_method": METHOD, "format": formats.pop(), "quantization_status": "compressed",
            "config_groups": groups, "ignore": ignore, "kv_cache_scheme": None, "global_compression_ratio": None,
        }
    }  # fmt: skip


def weights_of(kind: str, group: int | None) -> dict[str, Any]:
    """How the weights of one group of matrices are stored, in the format's words."""
    weights = {
        "num_bits": BITS[kind], "type": "float" if kind == "fp8" else "int", "symmetric": True,
        "strategy": "channel" if group is None else "group", "group_size": group, "dynamic": False,
    }  # fmt: skip
    return {"weights": weights, "input_activations": None, "output_activations": None}
