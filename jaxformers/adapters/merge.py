"""An adapter added to the weights, or taken out of them again."""

from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.adapters.targets import targets_of
from jaxformers.core.adapter import LORA
from jaxformers.core.errors import AdapterError
from jaxformers.core.qtensor import is_quantized
from jaxformers.hub.abstract import Path, flatten, unflatten
from jaxformers.hub.adapted import collection, overlaid
from jaxformers.hub.model import Model
from jaxformers.ops.dot import einsum


def merge_adapters(model: Model) -> Model:
    """Return a model without adapters whose weights hold what they did: W + scale * B A, in the weights' own dtypes.

    Raises AdapterError when there is no adapter, and when a table would change the head that shares it.
    """
    if model.adapters is None:
        raise AdapterError("the model has no adapter to merge")
    check_untied(model)
    return model.replace(params=moved(model.params, model, 1.0), adapters=None)


def unmerge_adapters(merged: Model, adapted: Model | str | FilePath) -> Model:
    """Undo `merge_adapters`: the weights less the adapter's updates, and the adapter beside them again.

    adapted: a model that has the adapter (its weights are not looked at), or the adapter's folder. Equal to the model
    before the merge up to rounding; modules that were trained whole keep their trained values in both places.
    """
    if merged.adapters is not None:
        raise AdapterError("the model has an adapter beside its weights already: it is not merged")
    if not isinstance(adapted, Model):
        from jaxformers.adapters.load import load_adapter

        adapted = load_adapter(merged, adapted)
    if adapted.adapters is None:
        raise AdapterError("the second model has no adapter to take out")
    both = merged.replace(adapters=adapted.adapters, adapter=adapted.adapter)
    return both.replace(params=moved(merged.params, both, -1.0))


def moved(params: Any, model: Model, sign: float) -> Any:
    """The parameters with the adapter's updates added `sign` times; trained copies take their places."""
    adapter = model.adapter
    assert adapter is not None

    def move(params: Any, adapters: Any) -> Any:
        # Taken out again, trained copies leave their values behind: what was there before is not known.
        out = flatten(overlaid(params, adapters, adapter) if sign > 0 else params)
        updates = flatten(collection(adapters.get(LORA, {}), adapter))
        for module in {path[:-1] for path in updates}:
            path = weight_of(module, out)
            if is_quantized(out[path]):
                raise AdapterError(
                    f"{'/'.join(path)} is quantised, and what is added to it would be rounded away: keep the adapter "
                    "beside the weights, or merge it into the model as it was before it was quantised"
                )
            a, b, scale = (updates[*module, name] for name in ("a", "b", "scale"))
            delta = einsum("...or,...ri->...oi", b, a) * scale[..., None, None].astype(a.dtype)
            turned = jnp.swapaxes(delta, -1, -2) if path[-1] != "weight" else delta
            out[path] = (out[path] + sign * turned).astype(out[path].dtype)
        return unflatten(out)

    places = jax.tree.map(lambda x: x.sharding, params)
    return jax.jit(move, out_shardings=places)(params, model.adapters)


def weight_of(module: Path, params: dict[Path, Any]) -> Path:
    """The path of a module's matrix: [out,in] is called weight, what is stored the other way round is not."""
    return next((*module, name) for name in ("weight", "kernel", "embedding") if (*module, name) in params)


def check_untied(model: Model) -> None:
    """Raise AdapterError for an adapter at a table that the language-model head reads as well."""
    table = {target.paths: target for target in targets_of(model).values()}
    for site in model.adapter.sites if model.adapter is not None else ():
        if site.paths in table and table[site.paths].tied:
            raise AdapterError(
                f"{site.module} is also the language-model head's matrix, which the adapter does not change: merged, "
                "it would change the head too. Keep the adapter beside the weights, or untie the head"
            )
