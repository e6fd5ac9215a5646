"""Which matrices of a model are quantised, and how: by default those of its layers, and none of its heads or tables."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding

from jaxformers.core.keymap import layer_names
from jaxformers.core.qtensor import STORED, QTensor, is_quantized
from jaxformers.core.sharding import Rules, spec
from jaxformers.hub.abstract import Path, abstract_params, flatten, unflatten
from jaxformers.hub.adapted import is_stacked
from jaxformers.models import Blueprint
from jaxformers.ops.rounding import check_group, round_matrix

GROUPS: dict[str, int | None] = {"int8": None, "int4": 128, "fp8": None}  # None: one scale for each output
Size = int | None | Literal["auto"]


@dataclass(frozen=True)
class Rounding:
    """How to quantise a model: `from_pretrained(..., quantize=Rounding("int4", 64))`.

    group_size: inputs that share a scale, None for all of them; "auto" is 128 for int4 and None for the others. skip:
    patterns that are searched in names such as "layers/3/attn/q_proj". heads: quantise what lies outside the backbone,
    such as the language-model head, and poolers, as well.
    """

    kind: str
    group_size: Size = "auto"
    skip: tuple[str, ...] = ()
    heads: bool = False

    def __post_init__(self) -> None:
        if self.kind not in STORED:
            raise ValueError(f"cannot quantise to {self.kind!r}; expected one of {', '.join(STORED)}")
        skip = (self.skip,) if isinstance(self.skip, str) else tuple(self.skip)
        object.__setattr__(self, "skip", skip)

    @property
    def group(self) -> int | None:
        """The group size that is meant."""
        return GROUPS[self.kind] if self.group_size == "auto" else self.group_size

    def chosen(self, boxed: Any, plan: Blueprint) -> dict[Path, tuple]:
        """{path: logical names} of what to quantise. Raises ValueError where that is nothing, or sizes do not fit."""
        out, unused = {}, set(self.skip)
        for path, leaf in flatten(boxed).items():
            names = getattr(leaf, "names", ())
            if not is_matrix(path, names) or (is_head(path, plan) and not self.heads):
                continue
            found = [self.skipped(name.replace(".", "/")) for name in layer_names(path[:-1])]
            unused -= {pattern for pattern in found if pattern}
            if any(found) and not all(found):
                raise ValueError(
                    f"{'/'.join(path)} stacks layers of which only some are to be skipped: load with scan=False"
                )
            if not any(found):
                self.check(path, leaf)
                out[path] = tuple(name for name in names if name != "layers")
        if unused:
            raise ValueError(f"the pattern {min(unused)!r} skips nothing; names are such as 'layers/0/attn/q_proj'")
        if not out:
            raise ValueError("nothing is quantised: the model has no matrices but those that are skipped")
        return out

    def applied(self, model: Any, advance: Callable[[int], None] = lambda n: None) -> Any:
        """A `Model` with its matrices quantised, of arrays or of shapes; `advance` is told the bytes that are done."""
        leaves = flatten(model.params)
        if any(map(is_quantized, leaves.values())):
            raise ValueError("the model is quantised already: begin from the weights as they were")
        for path, axes in self.chosen(abstract_params(model.module), model.blueprint).items():
            before = leaves[path]
            leaves[path] = round_leaf(path, before, axes, self, model.mesh, model.rules)
            advance(before.size * before.dtype.itemsize)
        return model.replace(params=unflatten(leaves))

    @classmethod
    def of_scheme(cls, scheme: Mapping[str, Any]) -> "Rounding":
        """How a checkpoint's matrices are quantised, by the first group of its quantization_config."""
        weights = next(iter(scheme["config_groups"].values()))["weights"]
        return cls("fp8" if weights["type"] == "float" else f"int{weights['num_bits']}", weights.get("group_size"))

    def skipped(self, name: str) -> str | None:
        """The pattern that skips a module."""
        return next((pattern for pattern in self.skip if re.search(pattern, name)), None)

    def check(self, path: Path, leaf: Any) -> None:
        """Raise ValueError for a matrix whose inputs do not divide into groups."""
        try:
            check_group(leaf.value.shape[-2 if is_turned(path) else -1], self.kind, self.group)
        except ValueError as error:
            raise ValueError(f"{'/'.join(path)}: {error}") from None


def names_of(boxed: Any) -> dict[Path, tuple]:
    """The logical names of every leaf."""
    return {path: getattr(leaf, "names", ()) for path, leaf in flatten(boxed).items()}


def is_head(path: Path, plan: Blueprint) -> bool:
    """Whether a parameter belongs to a head (or a pooler), which a pretrained checkpoint may lack."""
    at = tuple(plan.at.split(".")) if plan.at else ()
    return path[: len(at)] != at or "pooler" in path


def is_turned(path: Path) -> bool:
    """Whether a leaf is stored [in,out]: the kernels of experts are, a Linear's weight is not."""
    return path[-1] == "kernel"


def is_matrix(path: Path, names: tuple[str | None, ...]) -> bool:
    """Whether a leaf is the matrix of a Linear or the kernels of experts."""
    own = [name for name in names if name != "layers"]
    return len(own) == 2 if path[-1] == "weight" else path[-1] == "kernel" and len(own) == 3 and own[0] == "expert"


def round_leaf(path: Path, leaf: Any, axes: tuple, rounding: Rounding, mesh: Any, rules: Rules) -> QTensor:
    """A leaf of a model, an array or a shape, quantised where it lies; one layer at a time."""
    kind = (rounding.kind, rounding.group, is_turned(path))
    shapes = with_names(jax.eval_shape(partial(rounded, *kind), jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)), axes)
    places = None if mesh is None else places_of(shapes, mesh, rules)
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        both = None if places is None else (places.values, places.scale)
        return with_names(program(*kind, is_stacked(path), both)(leaf), axes)
    if places is None:
        return shapes
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)


def rounded(kind: str, group: int | None, turned: bool, w: jax.Array, dtype: Any = None) -> QTensor:
    """`round_matrix` without names, which would be compiled anew for each."""
    return round_matrix(w, kind, group, axes=(None,) * min(w.ndim, 2), turned=turned, dtype=dtype)


def with_names(leaf: QTensor, axes: tuple) -> QTensor:
    """The leaf with the logical names of the matrix that it stands for."""
    axes = (*axes[:-2], axes[-1], axes[-2]) if leaf.turned else axes
    return leaf.replace(axes=axes)  # type: ignore[attr-defined]


@cache
def program(kind: str, group: int | None, turned: bool, stacked: bool, places: tuple | None = None, dtype: Any = None):
    """`rounded`, compiled once for each shape; places: of the values and of the scales."""
    one = partial(rounded, kind, group, turned, dtype=dtype)

    def both(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = jax.lax.map(one, w) if stacked else one(w)
        return found.values, found.scale

    arrays = jax.jit(both, out_shardings=places)

    def run(w: Any) -> QTensor:
        values, scale = arrays(w)
        return jax.eval_shape(one, jax.ShapeDtypeStruct(w.shape, w.dtype)).replace(values=values, scale=scale)  # type: ignore[attr-defined]

    return run


def places_of(leaf: QTensor, mesh: Mesh, rules: Rules) -> QTensor:
    """The shardings of both arrays, in their places."""
    arrays = {"values": leaf.values, "scale": leaf.scale}
    specs = {name: spec(leaf.names[name], x.shape, mesh, rules, say=True) for name, x in arrays.items()}
    return leaf.replace(**{name: NamedSharding(mesh, one) for name, one in specs.items()})  # type: ignore[attr-defined]
