"""Model: parameters as a pytree, the module and config as static parts, and a jitted call."""

import importlib
import inspect
from functools import partial
from pathlib import Path as FilePath
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from jaxformers.core.adapter import LORA, Adapter
from jaxformers.core.config import Config
from jaxformers.core.qtensor import dtype_of, is_quantized
from jaxformers.core.sharding import FSDP, Rules, auto_mesh, use_mesh
from jaxformers.core.state import Cache
from jaxformers.hub.abstract import abstract_params, as_dtype, unflatten
from jaxformers.hub.adapted import variables
from jaxformers.hub.carried import Carried
from jaxformers.hub.init import init_params
from jaxformers.hub.layout import relayout
from jaxformers.hub.static import Static
from jaxformers.models import Blueprint, blueprint


@jax.tree_util.register_pytree_with_keys_class
class Model:
    """A pytree whose leaves are the parameters, and adapters where there are some; calling it runs the jitted pure
    function `module.apply`.
    """

    adapters: Any = None  # {"lora": ..., "saved": ...}, made by `jaxformers.lora`
    source: str | None = None  # where it was loaded from, as far as this very object knows: no part of the pytree

    def __init__(
        self,
        params: Any,
        module: nn.Module,
        config: Config,
        task: str | None = None,
        *,
        mesh: Mesh | None = None,
        rules: Rules = FSDP,
        compute_dtype: Any = None,
        carried: tuple[Carried, ...] = (),
        generation_config: Any = None,
        adapters: Any = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.params = params
        if adapters is not None:
            if adapter is None:
                raise ValueError("adapters without their description: pass adapter=, the other model's, as well")
            self.adapters = adapters
        self._static = Static(module, config, task, mesh, rules, compute_dtype, carried, generation_config, adapter)

    @property
    def module(self) -> nn.Module:
        """The linen module; `module.apply(model.variables, **batch)` is the same function in the open."""
        return self._static.module

    @property
    def config(self) -> Config:
        """The architecture's config."""
        return self._static.config

    @property
    def mesh(self) -> Mesh | None:
        """The mesh it is spread over; None on one device."""
        return self._static.mesh

    @property
    def rules(self) -> Rules:
        """How logical axes lie on the mesh."""
        return self._static.rules

    @property
    def carried(self) -> tuple[Carried, ...]:
        """The checkpoint's tensors that the model does not compute with and writes back."""
        return self._static.carried

    @property
    def adapter(self) -> Adapter | None:
        """What adapters there are; their arrays are `adapters`."""
        return self._static.adapter

    @property
    def variables(self) -> dict[str, Any]:
        """The collections that `module.apply` takes: {"params": ...}, and "lora" where there are adapters."""
        return variables(self.params, self.adapters, self._static.adapter)

    @property
    def task(self) -> str | None:
        """The head's task, such as "CausalLM"; None for a base model."""
        return self._static.task

    @property
    def generation_config(self) -> Any:
        """How the model generates where the caller does not say; made from the config when no file told it."""
        given = self._static.generation_config
        if given is None and hasattr(self.module, "init_cache"):
            return above("generation.config").GenerationConfig.from_model_config(self.config)
        return given

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self._static = self.replace(generation_config=value)._static

    def tree_flatten_with_keys(self):
        children = {"params": self.params} | ({} if self.adapters is None else {"adapters": self.adapters})
        return tuple((jax.tree_util.GetAttrKey(name), child) for name, child in children.items()), self._static

    @classmethod
    def tree_unflatten(cls, static: Static, children) -> Self:
        new = object.__new__(cls)
        new.params, *adapters = children
        if adapters:
            (new.adapters,) = adapters
        new._static = static
        return new

    def __repr__(self) -> str:
        count = sum(getattr(x, "size", 0) for x in jax.tree.leaves(self.params, is_leaf=is_quantized))
        more = sum(getattr(x, "size", 0) for x in jax.tree.leaves(self.adapters))
        adapters = f", adapters={more:,}" if more else ""
        return f"Model({self.config.model_type}, task={self.task}, parameters={count:,}{adapters})"

    def replace(self, **changes: Any) -> Self:
        """A copy with other params, adapters, module, config, task, mesh, rules, compute_dtype or generation_config.

        Without adapters (None) it is the model as it was before it had some.
        """
        names = Static.__slots__[:-1]
        fields = {name: getattr(self._static, name) for name in names}
        fields |= {"params": self.params, "adapters": self.adapters} | changes
        if fields["adapters"] is None:
            fields["adapter"] = None
        new = type(self)(**fields)
        new.source = self.source
        return new

    def cast(self, dtype: Any) -> Self:
        """A copy with all floating leaves in a dtype; None changes nothing."""
        if dtype is None:
            return self
        return self.replace(params=cast_floating(self.params, dtype), adapters=cast_floating(self.adapters, dtype))

    def __call__(self, *args: Any, key: jax.Array | None = None, **kwargs: Any) -> Any:
        """Run the model. Arguments are transformers': input_ids, attention_mask, pixel_values [B,C,H,W], ...

        Bools and numbers are static, arrays are traced; `train=True` needs `key` for dropout.
        """
        c = self.config
        for name in ("output_hidden_states", "output_attentions", "output_router_logits"):
            if kwargs.get(name) is None and getattr(c, name, False):
                kwargs[name] = True
        for name in ("labels", "return_dict"):
            if kwargs.pop(name, None) is not None and name == "labels":
                raise TypeError(
                    "models return no loss: take it from the logits, so that it can be differentiated and changed"
                )
        caches = kwargs.pop("use_cache", None)
        if caches and kwargs.get("past_key_values") is None:
            raise ValueError(
                "use_cache=True needs a cache to fill: pass past_key_values=model.init_cache(batch, length)"
            )
        if (getattr(c, "use_cache", True) if caches is None else caches) is False and takes(self.module, "use_cache"):
            kwargs["use_cache"] = False
        kwargs = {k: v for k, v in kwargs.items() if v is not None}
        options = {k: v for k, v in kwargs.items() if isinstance(v, (bool, int, float, str))}
        arrays = {k: v for k, v in kwargs.items() if k not in options}
        if options.get("train") and key is None:
            raise ValueError("train=True drops values at random: pass key=jax.random.key(...)")
        options = tuple(sorted(options.items()))
        return _forward(self._static.computing(), options, self.params, self.adapters, args, arrays, key)

    def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
        """The texts' embeddings, for models that have a text tower; arguments as the module's method takes them."""
        return self(*args, method="get_text_features", **kwargs)

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """The images' embeddings, for models that have an image tower; arguments as the module's method takes them."""
        return self(*args, method="get_image_features", **kwargs)

    def init_cache(self, batch: int, length: int, dtype: Any = None, **kwargs: Any) -> Cache:
        """An empty cache for `length` tokens, to pass as `past_key_values`; by default in the model's own dtype."""
        if not hasattr(self.module, "init_cache"):
            raise TypeError(f"{self.config.model_type} with task {self.task} does not decode: it has no cache")
        if dtype is None:
            dtype = self._static.compute_dtype or dtype_of(self.params)
        return self.module.init_cache(batch, length, as_dtype(dtype), **kwargs)  # type: ignore[attr-defined]

    def generate(self, inputs: Any = None, **kwargs: Any) -> Any:
        """Write on from a prompt; see `jaxformers.generation.generate.generate` for the arguments."""
        return above("generation.generate").generate(self, inputs, **kwargs)

    def detect_language(self, input_features: Any = None, **kwargs: Any) -> Any:
        """Return the token of the language spoken in whisper's features [B,mels,frames], Int [B]."""
        return above("generation.whisper_hearing").detect_language(self, input_features, **kwargs)

    @property
    def blueprint(self) -> Blueprint:
        """The family, task and key tables behind this model."""
        return blueprint(self.config, self.task)

    @classmethod
    def init(
        cls,
        config: Config,
        key: jax.Array,
        *,
        task: str | None = None,
        mesh: Mesh | None = None,
        rules: Rules = FSDP,
        dtype: Any = None,
        compute_dtype: Any = None,
        scan: bool = False,
        remat: str | None = None,
    ) -> Self:
        """Make a model with fresh parameters by transformers' scheme; float32 unless `dtype` says otherwise."""
        mesh = None if mesh is None else auto_mesh(mesh, rules)
        plan = blueprint(config, task)
        module = relayout(plan.module, scan=scan, remat=remat)
        boxed = abstract_params(module)
        flat = init_params(module, boxed, plan.family, config, key, mesh=mesh, rules=rules, dtype=as_dtype(dtype))
        return cls(unflatten(flat), module, config, task, mesh=mesh, rules=rules, compute_dtype=as_dtype(compute_dtype))

    def resize_token_embeddings(self, new_num_tokens: int, **kwargs: Any) -> "Model":
        """The model for another number of tokens; see `jaxformers.hub.resize.resize_token_embeddings`."""
        from jaxformers.hub.resize import resize_token_embeddings

        return resize_token_embeddings(self, new_num_tokens, **kwargs)

    @classmethod
    def from_pretrained(cls, source: str | FilePath, **kwargs: Any) -> Self:
        """Load a checkpoint; see `jaxformers.hub.pretrained.load_pretrained` for the arguments."""
        from jaxformers.hub.pretrained import load_pretrained

        return load_pretrained(cls, source, **kwargs)

    def save_pretrained(self, path: str | FilePath, **kwargs: Any) -> None:
        """Write a Hugging Face folder that PyTorch loads; see `jaxformers.hub.pretrained.save_pretrained`."""
        from jaxformers.hub.pretrained import save_pretrained

        save_pretrained(self, path, **kwargs)


def above(name: str) -> Any:
    """A module of a floor above, found by name as families are: a model offers what is built on it."""
    return importlib.import_module(f"jaxformers.{name}")


def takes(module: nn.Module, name: str) -> bool:
    """Whether the innermost backbone has an argument of this name."""
    inner = getattr(module, "backbone", None) or getattr(module, "classifier", None)
    if isinstance(inner, nn.Module):
        return takes(inner, name)
    return name in inspect.signature(type(module).__call__).parameters


def cast_floating(tree: Any, dtype: Any) -> Any:
    """Cast floating leaves to `dtype`; None changes nothing. Quantised ones keep what they hold."""
    if dtype is None:
        return tree
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree, is_leaf=is_quantized
    )


@partial(jax.jit, static_argnums=(0, 1))
def _forward(
    static: Static,
    options: tuple,
    params: Any,
    adapters: Any,
    args: tuple,
    arrays: dict[str, Any],
    key: jax.Array | None,
):
    """The one jitted entry: equal modules and options share a compilation."""
    rngs = {} if key is None else {"dropout": key}
    if key is not None and adapters is not None and dict(options).get("train"):
        rngs[LORA] = jax.random.fold_in(key, 1)  # linen draws the same numbers for the same key in any stream
    params, adapters = (cast_floating(tree, static.compute_dtype) for tree in (params, adapters))
    collections = variables(params, adapters, static.adapter)
    with use_mesh(static.mesh, static.rules):
        return static.module.apply(collections, *args, **arrays, **dict(options), rngs=rngs or None)
