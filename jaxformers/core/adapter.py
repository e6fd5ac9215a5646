"""What adapters a model has, as a static value; their arrays are `Model.adapters`, leaves beside the parameters."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxformers.core.frozen import FrozenDict
from jaxformers.core.keymap import layer_names

LORA, SAVED = "lora", "saved"  # the kinds of leaves: low-rank updates, and trained copies of parameters


@dataclass(frozen=True)
class Site:
    """One module of PyTorch's model that has a low-rank update: W + scale * B A, with A [rank,in] and B [out,rank].

    module: its name there. paths: the modules of ours that it is made of; they share A, which the first of them holds,
    and each has its rows of B.
    """

    module: str
    paths: tuple[str, ...]
    rank: int
    scale: float
    embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """All sites of one adapter.

    saved: logical paths of parameters with a trained copy. kept: those of parameters that go into the file as well,
    untrained: tables of words that the base model on disk has not. config: adapter_config.json.
    """

    sites: tuple[Site, ...]
    saved: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    dropout: float = 0.0
    config: FrozenDict = FrozenDict()

    @cached_property
    def _hash(self) -> int:
        return hash((self.sites, self.saved, self.kept, self.dropout, self.config))

    def __hash__(self) -> int:
        return self._hash  # hundreds of sites, hashed on every call, would cost a millisecond

    @cached_property
    def by_path(self) -> dict[str, Site]:
        """The site that a module of ours belongs to, by the module's logical path."""
        return {path: site for site in self.sites for path in site.paths}

    @cached_property
    def _saved(self) -> frozenset[str]:
        return frozenset(self.saved)

    def sites_at(self, module: tuple[str, ...]) -> list[Site | None]:
        """The site of each layer that lies at one place of the tree; None for a layer that has none."""
        return [self.by_path.get(name) for name in layer_names(module)]

    def saved_rows(self, path: tuple[str, ...]) -> np.ndarray:
        """Which layers of a leaf have a trained copy."""
        return np.array([n for n, name in enumerate(layer_names(path)) if name in self._saved], int)
