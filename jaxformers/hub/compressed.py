"""Quantised checkpoints in the compressed-tensors layout, which transformers and vLLM read: its config and its tensors.

A matrix "m.weight" is stored as "m.weight_packed" (int32, 8 or 4 bits of each number, plus half their range),
"m.weight_scale" [out,groups] and "m.weight_shape"; 8-bit floats, and in some files int8, as "m.weight" itself with its
"m.weight_scale". Source: the package compressed-tensors.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.core.qtensor import BITS

log = logging.getLogger("jaxformers")
METHOD = "compressed-tensors"
FORMATS = {"pack-quantized": ("int8", "int4"), "int-quantized": ("int8",), "float-quantized": ("fp8",)}
FORMATS["naive-quantized"] = ("int8", "fp8")
PACKED, SCALE, SHAPE = "weight_packed", "weight_scale", "weight_shape"
UNREAD = ("weight_zero_point", "weight_g_idx", "input_scale", "input_zero_point", "weight_global_scale")


def take_scheme(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A config.json without its quantization_config, and that, if it is one whose checkpoints are read.

    Others stay, for `Config` to refuse. Raises ConfigError for parts of the format that are not supported.
    """
    found = raw.get("quantization_config")
    if not isinstance(found, Mapping) or found.get("quant_method") != METHOD:
        return dict(raw), None
    check_scheme(found)
    return {key: value for key, value in raw.items() if key != "quantization_config"}, dict(found)


def check_scheme(found: Mapping[str, Any]) -> None:
    """Raise ConfigError for what would compute something else."""
    if found.get("format") not in FORMATS:
        raise unsupported(f"format {found.get('format')!r}", f"one of {', '.join(FORMATS)}")
    if found.get("kv_cache_scheme") or (found.get("sparsity_config") or {}).get("format", "dense") != "dense":
        raise unsupported("a quantised cache or sparse weights", "quantised weights alone")
    for group in (found.get("config_groups") or {}).values():
        weights, inputs = group.get("weights") or {}, group.get("input_activations")
        if not weights.get("symmetric", True) or weights.get("strategy") not in ("channel", "group", "tensor"):
            name = "symmetric" if weights.get("symmetric", True) else "asymmetric"
            raise unsupported(f"{name} weights by {weights.get('strategy')}", "symmetric by channel, group or tensor")
        if group.get("output_activations") or inputs and not inputs.get("dynamic"):
            raise unsupported("activations quantised with fixed scales", "weights alone, or scales made on the fly")
        if inputs:
            log.warning("activations stay as they are: the checkpoint asks for them in %s bits", inputs.get("num_bits"))


def unsupported(found: str, expected: str) -> ConfigError:
    """What to say about a checkpoint that cannot be read."""
    return ConfigError(
        f"this checkpoint's quantization_config has {found}; jaxformers reads {expected}. Load the checkpoint it was "
        "made of, and quantise with from_pretrained(..., quantize=...)"
    )


class Stored:
    """One quantised matrix of a file: as numbers when it is asked for, a shape before."""

    def __init__(self, tensors: Mapping[str, np.ndarray], name: str) -> None:
        self.tensors, self.name = tensors, name
        self.packed = f"{name}.{PACKED}" in tensors
        values = tensors[f"{name}.{PACKED if self.packed else 'weight'}"]
        shape = tensors[f"{name}.{SHAPE}"] if self.packed else values.shape
        self.shape = tuple(int(n) for n in shape)
        self.kind = kind_of(name, values, self.shape, self.packed)

    @property
    def dtype(self) -> np.dtype:
        """Of the matrix that it stands for."""
        return self.tensors[f"{self.name}.{SCALE}"].dtype

    @property
    def size(self) -> int:
        """How many weights there are."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """In the file, as far as they are read."""
        return self.tensors[f"{self.name}.{PACKED if self.packed else 'weight'}"].nbytes

    def values(self) -> np.ndarray:
        """[out,in], int8 or float8_e4m3fn."""
        if not self.packed:
            return self.tensors[f"{self.name}.weight"]
        return unpack_words(self.tensors[f"{self.name}.{PACKED}"], BITS[self.kind], self.shape[-1])

    def scale(self) -> np.ndarray:
        """[out,groups]."""
        scale = self.tensors[f"{self.name}.{SCALE}"]
        groups = scale.size // self.shape[0]
        if scale.size == 1:
            return np.broadcast_to(scale.reshape(1, 1), (self.shape[0], 1))
        if scale.shape not in ((self.shape[0],), (self.shape[0], groups)) or self.shape[1] % max(groups, 1):
            raise CheckpointError(f"{self.name}.{SCALE} has shape {scale.shape}; {self.name} is {self.shape}")
        return scale.reshape(self.shape[0], groups)


def kind_of(name: str, values: np.ndarray, shape: tuple[int, ...], packed: bool) -> str:
    """The kind of a stored matrix. Raises CheckpointError for bits that are not read."""
    if packed:
        for kind in ("int4", "int8"):
            if values.dtype == np.int32 and len(shape) == 2 and values.shape == (shape[0], words(shape[1], BITS[kind])):
                return kind
    elif values.dtype in (np.int8, ml_dtypes.float8_e4m3fn):
        return "int8" if values.dtype == np.int8 else "fp8"
    found = f"{name} is stored as {values.dtype} {values.shape}"
    raise CheckpointError(f"{found}; expected 8 or 4 bits for each of {shape}, as quantization_config says")


class CompressedCheckpoint(Mapping[str, Any]):
    """A checkpoint whose quantised matrices stand under their usual names, "m.weight", as `Stored`."""

    def __init__(self, tensors: Any) -> None:
        self.tensors = tensors
        ends = tuple(f".{end}" for end in UNREAD)
        if odd := next((key for key in tensors if key.endswith(ends)), None):
            raise unsupported(f"a tensor {odd}", "symmetric weights in the order of their inputs")
        names = [key.removesuffix(f".{SCALE}") for key in tensors if key.endswith(f".{SCALE}")]
        self.stored = {f"{name}.weight": Stored(tensors, name) for name in names}
        hidden = {f"{name}.{end}" for name in names for end in (PACKED, SCALE, SHAPE)}
        self.keys_seen = [*self.stored, *(key for key in tensors if key not in hidden and key not in self.stored)]

    def __getitem__(self, key: str) -> Any:
        return self.stored[key] if key in self.stored else self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_seen)

    def __len__(self) -> int:
        return len(self.keys_seen)

    @property
    def nbytes(self) -> int:
        return self.tensors.nbytes

    def release(self, key: str) -> None:
        """As `Checkpoint.release`."""
        if key not in self.stored:
            self.tensors.release(key)
        elif self.stored[key].packed:
            self.tensors.release(f"{key}_packed")
        else:
            self.tensors.release(key)


def words(count: int, bits: int) -> int:
    """How many int32 hold a row of numbers."""
    return -(-count * bits // 32)


def pack_words(values: np.ndarray, bits: int) -> np.ndarray:
    """Int8 values [out,in] -> int32 [out,words]; the first number in the lowest bits."""
    raised = (values.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    padded = np.pad(raised, ((0, 0), (0, -values.shape[1] % (32 // bits))))
    if bits == 4:
        padded = padded[:, ::2] | (padded[:, 1::2] << 4)
    return np.ascontiguousarray(padded).view("<i4").astype(np.int32, copy=False)


def unpack_words(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Undo `pack_words`."""
    bytes_ = np.ascontiguousarray(packed).astype("<i4", copy=False).view(np.uint8)
    if bits == 4:
        bytes_ = np.stack([bytes_ & 15, bytes_ >> 4], axis=-1).reshape(len(packed), -1)
    return (bytes_[:, :count].astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
