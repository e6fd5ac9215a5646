"""quantize: a model whose matrices are small integers or 8-bit floats, rounded without calibration."""

from collections.abc import Iterable

from jaxformers.core.qtensor import is_quantized
from jaxformers.hub.abstract import abstract_params, flatten, unflatten
from jaxformers.hub.model import Model
from jaxformers.hub.progress import byte_bar
from jaxformers.hub.rounded import Rounding, Size


def quantize(
    model: Model,
    kind: str,
    *,
    group_size: Size = "auto",
    skip: str | Iterable[str] = (),
    heads: bool = False,
    progress: bool | None = None,
) -> Model:
    """Return the model with the matrices of its layers, and its experts, quantised: "int8", "int4" or "fp8".

    Values are the nearest ones to the weights; for int4 each group's scale is the one of a few that errs least.
    Embeddings, norms, biases, convolutions and routers stay as they are, and heads (such as the language-model head)
    and poolers unless `heads` says otherwise. group_size: inputs that share a scale, None for all of an output's;
    "auto" is 128 for int4 and None for the others. skip: patterns that are searched in names such as
    "layers/3/attn/q_proj". The model given stays as it was; beside both, memory is needed for one layer of one leaf.
    Raises ValueError for sizes that do not divide, and where there is nothing to quantise.
    """
    rounding = Rounding(kind, group_size, (skip,) if isinstance(skip, str) else tuple(skip), heads)
    leaves = flatten(model.params)
    chosen = rounding.chosen(abstract_params(model.module), model.blueprint)
    total = sum(leaves[path].size * leaves[path].dtype.itemsize for path in chosen)
    with byte_bar(f"quantising {model.config.model_type}", total, progress) as advance:
        return rounding.applied(model, advance)


def dequantize(model: Model) -> Model:
    """Return the model with ordinary matrices again: the values that the quantised ones stand for, in their dtypes."""
    leaves = flatten(model.params)
    return model.replace(
        params=unflatten({path: x.dequantize() if is_quantized(x) else x for path, x in leaves.items()})
    )
