"""The static part of a Model, as one value that hashes once."""

from typing import Any

from flax import linen as nn

from jaxformers.core.adapter import Adapter
from jaxformers.core.config import Config
from jaxformers.core.sharding import Rules
from jaxformers.hub.carried import Carried


class Static:
    """What `jax.jit` must know but not trace; compares by value, hashes once."""

    __slots__ = (
        *("module", "config", "task", "mesh", "rules", "compute_dtype", "carried", "generation_config", "adapter"),
        "_hash",
    )

    def __init__(
        self,
        module: nn.Module,
        config: Config,
        task: str | None,
        mesh,
        rules: Rules,
        compute_dtype: Any,
        carried: tuple[Carried, ...] = (),
        generation_config: Any = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.module, self.config, self.task = module, config, task
        self.mesh, self.rules, self.compute_dtype = mesh, rules, compute_dtype
        self.carried, self.generation_config, self.adapter = carried, generation_config, adapter
        self._hash = hash((module, config, task, mesh, rules, str(compute_dtype), carried, generation_config, adapter))

    def _key(self) -> tuple:
        return tuple(getattr(self, name) for name in self.__slots__ if name != "_hash")

    def computing(self) -> "Static":
        """What programs depend on: without how to generate, so that changing that recompiles nothing."""
        if self.generation_config is None:
            return self
        fields = (self.module, self.config, self.task, self.mesh, self.rules, self.compute_dtype, self.carried)
        return Static(*fields, adapter=self.adapter)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Static) and self._hash == other._hash and self._key() == other._key()
