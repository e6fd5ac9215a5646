"""The same inputs through PyTorch's model and ours: how far the outputs are apart, and where they part first."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxformers.core.keymap import HOLE, Part
from jaxformers.export.torch_model import Calls, module_names, run
from jaxformers.hub.abstract import flatten
from jaxformers.hub.layout import restack
from jaxformers.hub.model import Model

# Caches and losses; everything else that PyTorch returns is compared.
NOT_COMPARED = {"past_key_values", "cache_params", "loss", "encoder_past_key_values"}
HIDDEN = ("encoder_hidden_states", "decoder_hidden_states", "hidden_states")


@dataclass(frozen=True)
class Field:
    """One output field. relative: the largest difference over the largest value. at: the first entry that differs."""

    name: str
    entries: int
    absolute: float
    relative: float
    at: int | None

    @property
    def equal(self) -> bool:
        """Whether no entry differs by more than the tolerance."""
        return self.at is None


@dataclass(frozen=True)
class Difference:
    """The first place where the two models part. module: our path; theirs: PyTorch's name of it.

    input_equal: whether what the module reads still agrees, so that the module itself is at fault.
    """

    layer: str | None
    module: str | None = None
    theirs: str | None = None
    absolute: float = 0.0
    relative: float = 0.0
    input_equal: bool | None = None


@dataclass(frozen=True)
class Report:
    """Every output field, and the first difference; None when all fields are equal."""

    fields: tuple[Field, ...]
    first: Difference | None

    @property
    def equal(self) -> bool:
        """Whether every field is equal within the tolerance."""
        return all(field.equal for field in self.fields)


@dataclass(frozen=True)
class Pair:
    """A module of ours and the PyTorch module that holds the same weight; part: which rows of it, when it is fused."""

    ours: str
    theirs: str
    part: Part


def compare(
    torch_model: Any, model: Model, inputs: Mapping[str, np.ndarray], *, tolerance: float = 1e-4, **options: Any
) -> Report:
    """Run both on the same arguments and compare every field that PyTorch returns, then module by module.

    tolerance: of max |ours - theirs| / max |theirs|. Further keywords go to both models.
    """
    options = {"output_hidden_states": True, "output_attentions": True, **options}
    theirs, their_calls = run(torch_model, inputs, **options)
    ours = model(**inputs, **options)
    fields = tuple(compare_fields(ours, theirs, tolerance))
    if all(field.equal for field in fields):
        return Report(fields, None)
    our_calls = run_modules(model, inputs, **options)
    return Report(fields, first_difference(fields, pairs(torch_model, model), our_calls, their_calls, tolerance))


def distance(ours: Any, theirs: Any) -> tuple[float, float]:
    """Largest difference, alone and relative to the largest value; infinite for other shapes and for NaN."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return float("inf"), float("inf")
    both_low = np.isneginf(ours) & np.isneginf(theirs)  # scores of what is masked
    gap = np.where(both_low, 0.0, np.abs(np.where(both_low, 0.0, ours) - np.where(both_low, 0.0, theirs)))
    if not np.isfinite(gap).all():
        return float("inf"), float("inf")
    largest = float(gap.max(initial=0.0))
    return largest, largest / max(float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)), 1e-6)


def compare_fields(ours: Any, theirs: Mapping[str, Any], tolerance: float, prefix: str = "") -> Iterator[Field]:
    """A Field for each array, or tuple of arrays, that PyTorch returned; nested outputs are `outer.inner`."""
    for name, reference in theirs.items():
        mine = getattr(ours, name, None)
        if name in NOT_COMPARED or not isinstance(reference, (np.ndarray, tuple, dict)):
            continue
        if isinstance(reference, dict):
            yield from compare_fields(mine, reference, tolerance, f"{prefix}{name}.")
            continue
        reference = reference if isinstance(reference, tuple) else (reference,)
        reference = tuple(r for r in reference if isinstance(r, np.ndarray))
        if not reference:
            continue
        entries = mine if isinstance(mine, tuple) else () if mine is None else (mine,)
        if len(entries) != len(reference):
            yield Field(prefix + name, len(reference), float("inf"), float("inf"), min(len(entries), len(reference)))
            continue
        gaps = [distance(a, b) for a, b in zip(entries, reference, strict=True)]
        at = next((n for n, (_, relative) in enumerate(gaps) if not relative < tolerance), None)
        yield Field(prefix + name, len(gaps), max(g[0] for g in gaps), max(g[1] for g in gaps), at)


def run_modules(model: Model, inputs: Mapping[str, np.ndarray], **options: Any) -> Calls:
    """{our module path: (input, output) of each call}, layers one by one."""
    model = restack(model, scan=False)

    def traced(variables: Any, arrays: Any) -> Any:
        calls: dict[str, list] = {}

        def watch(function, args, kwargs, context):
            out = function(*args, **kwargs)
            read, made = first_array((args, kwargs)), first_array(out)
            if context.method_name == "__call__" and made is not None:
                calls.setdefault("/".join(context.module.path), []).append((read, made))
            return out

        with nn.intercept_methods(watch):
            model.module.apply(variables, **arrays, **options)
        return calls

    return jax.tree.map(np.asarray, jax.jit(traced)(model.variables, dict(inputs)))


def first_array(tree: Any) -> jax.Array | None:
    """The first array in a tree; options that are bools and numbers are passed over."""
    return next((x for x in jax.tree.leaves(tree) if getattr(x, "ndim", 0)), None)


def pairs(torch_model: Any, model: Model) -> list[Pair]:
    """Modules on both sides that hold the same weight, found through the key map."""
    names = module_names(torch_model)
    keys = model.blueprint.keys()
    out: dict[str, Pair] = {}
    for path in flatten(restack(model, scan=False).params):
        part, candidates = keys.find(".".join(path))
        theirs = next((names[k] for k in candidates if k in names), None)
        if theirs is not None and not any(HOLE.search(k) for k in candidates):
            # A weight says best how a fused tensor is cut, so it may replace what a bias said.
            ours = "/".join(path[:-1])
            if ours not in out or path[-1] != "bias":
                out[ours] = Pair(ours, theirs, part)
    return list(out.values())


def first_difference(
    fields: tuple[Field, ...], found: list[Pair], ours: Calls, theirs: Calls, tolerance: float
) -> Difference:
    """The first layer by its hidden states; in it, the first module in PyTorch's order whose output differs."""
    layer = first_layer(fields)
    order = list(theirs)
    found = sorted((p for p in found if p.theirs in theirs and p.ours in ours), key=lambda p: order.index(p.theirs))
    inside = [p for p in found if layer is not None and re.search(rf"(^|/){layer}/", p.ours)]
    for pair in (*inside, *found):
        mine, reference = ours[pair.ours], theirs[pair.theirs]
        if len(mine) != len(reference):
            continue
        for (our_input, our_output), (their_input, their_output) in zip(mine, reference, strict=True):
            absolute, relative = nearest(our_output, cut(pair.part, their_output))
            if not relative < tolerance:
                same = False
                if our_input is not None and their_input is not None:
                    same = nearest(our_input, their_input)[1] < tolerance
                if layer is not None and not same and pair not in inside:
                    return Difference(layer)  # it only hands on what went wrong in the layer
                return Difference(layer_of(pair.ours), pair.ours, pair.theirs, absolute, relative, same)
    return Difference(layer)


def first_layer(fields: tuple[Field, ...]) -> str | None:
    """The layer whose output is the first hidden state to differ; entry 0 is what the layers read."""
    for name in HIDDEN:
        for field in fields:
            if field.name.rpartition(".")[2] == name and field.at:
                side = name.partition("_")[0]
                return f"layers/{field.at - 1}" if side == "hidden" else f"{side}/layers/{field.at - 1}"
    return None


def layer_of(path: str) -> str | None:
    """The layer in one of our paths."""
    match = re.search(r"^(.*/)?layers/\d+", path)
    return match[0] if match else None


def cut(part: Part, output: np.ndarray) -> np.ndarray:
    """The outputs of a fused module that belong to our part of it."""
    if part.shape is None or output.shape[-1] != int(np.prod(part.shape)) and -1 not in part.shape:
        return output
    rows = np.moveaxis(output, -1, 0)
    rows = rows.reshape(*part.shape, *rows.shape[1:])[part.index]
    return np.moveaxis(rows.reshape(-1, *output.shape[:-1]), 0, -1)


def nearest(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The distance in the layout that fits best: as it is, channels last, or heads after length.

    Outputs of other sizes are not comparable and count as equal.
    """
    views = [theirs] if theirs.ndim < 3 else [theirs, np.moveaxis(theirs, 1, -1), np.swapaxes(theirs, 1, 2)]
    gaps = [distance(ours, view.reshape(ours.shape)) for view in views if view.size == ours.size]
    return min(gaps, key=lambda gap: gap[1], default=(0.0, 0.0))
