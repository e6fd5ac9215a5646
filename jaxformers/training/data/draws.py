"""Random numbers of data: functions of the seed, the epoch and a row's place, so that a resumed run draws the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draws:
    """Generators for the rows of one batch. A row's depends on its place in the epoch, not on who collates it."""

    seed: int
    epoch: int
    places: Sequence[int]  # of each row of the batch in the epoch's order

    @classmethod
    def fresh(cls, rows: int) -> "Draws":
        """Draws that never come again, for collators called by hand."""
        return cls(int(np.random.SeedSequence().entropy) % 2**63, 0, range(rows))

    def row(self, index: int) -> np.random.Generator:
        """The generator of row `index` of the batch."""
        return np.random.default_rng((self.seed, self.epoch, int(self.places[index])))

    def batch(self) -> np.random.Generator:
        """The generator of what concerns the whole batch, such as which rows are mixed."""
        return np.random.default_rng((self.seed, self.epoch, int(self.places[0]) if len(self.places) else 0, 1))
