"""A Model without values: shapes with their shardings, for tables and ahead-of-time compilation at any size."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxformers.core.config import Config
from jaxformers.core.sharding import FSDP, AnyMesh, Rules, auto_mesh, named_shardings
from jaxformers.hub.abstract import abstract_params, as_dtype, flatten, unbox, unflatten
from jaxformers.hub.layout import relayout
from jaxformers.hub.model import Model
from jaxformers.models import blueprint


def abstract_model(
    config: Config,
    *,
    task: str | None = None,
    mesh: AnyMesh | None = None,
    rules: Rules = FSDP,
    dtype: Any = jnp.float32,
    compute_dtype: Any = None,
    scan: bool = False,
    remat: str | None = None,
) -> Model:
    """As `Model.init`, with `jax.ShapeDtypeStruct` leaves: nothing is allocated, and no device need exist."""
    mesh = auto_mesh(mesh, rules) if isinstance(mesh, Mesh) else mesh
    module = relayout(blueprint(config, task).module, scan=scan, remat=remat)
    boxed = abstract_params(module)
    places = {} if mesh is None else flatten(named_shardings(boxed, mesh, rules))

    def one(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        kind = as_dtype(dtype) if floating and dtype is not None else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, kind, sharding=places.get(path))

    params = unflatten({path: one(path, unbox(leaf)) for path, leaf in flatten(boxed).items()})
    about: dict[str, Any] = {"mesh": mesh, "rules": rules, "compute_dtype": as_dtype(compute_dtype)}
    return Model(params, module, config, task, **about)
