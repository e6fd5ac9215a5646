"""How a quantised product is cut into blocks: fixed by what fits fast memory, not yet measured."""

import math
from dataclasses import dataclass

LANES = 128
DEEPEST = 6144  # inputs of one block
STEP = 512  # inputs that are turned into floats at a time
PIECES = 48  # a block's code is written out for each group; more take long to compile,
FEW_PIECES = 16  # and longer still where groups do not begin at a whole register


@dataclass(frozen=True)
class Piece:
    """A run of a block's inputs with one scale; places are in the block."""

    inputs: slice  # of x
    stored: slice  # of the values: bytes for int4
    shift: int  # int4: where the four bits begin
    row: int  # of the scales, counted from the block's first


@dataclass(frozen=True)
class Plan:
    """Sizes of a product x [T,D] times W [F,D] transposed."""

    inputs: int
    outputs: int
    group: int
    span: int  # of QTensor; 0 where each value has a byte of its own
    depth: int  # inputs of one block

    @property
    def groups(self) -> int:
        """Scales of each output."""
        return self.inputs // self.group

    @property
    def stored(self) -> int:
        """Values, or bytes, of one output in a block."""
        return self.depth // 2 if self.span else self.depth

    @property
    def rows(self) -> int:
        """Scales of one output in a block; 0 where a block is a part of the only group."""
        return self.depth // self.group if self.groups > 1 else 0

    def pieces(self) -> list[Piece]:
        """What a block is computed in."""
        size = min(self.group, STEP) if self.groups > 1 else STEP
        if not self.span:
            starts = range(0, self.depth, size)
            return [self.piece(slice(n, min(n + size, self.depth)), n, 0) for n in starts]
        half, out = self.span // 2, []
        for begin in range(0, self.depth, self.span):
            for n in range(0, half, STEP):
                for shift, first in ((0, begin + n), (4, begin + half + n)):
                    out.append(self.piece(slice(first, first + min(STEP, half - n)), begin // 2 + n, shift))
        return out

    def piece(self, inputs: slice, stored: int, shift: int) -> Piece:
        """A piece whose inputs have one scale."""
        row = inputs.start // self.group if self.groups > 1 else 0
        return Piece(inputs, slice(stored, stored + inputs.stop - inputs.start), shift, row)


def plan(inputs: int, outputs: int, group: int, span: int) -> Plan:
    """Cut the inputs. Raises NotImplementedError where no block fits."""
    deepest = min(DEEPEST, group * (PIECES if group % LANES == 0 else FEW_PIECES)) if group < inputs else DEEPEST
    unit = math.lcm(LANES, span or 1, group if group < inputs else 1)
    fitting = [depth for depth in range(unit, deepest + 1, unit) if inputs % depth == 0]
    if inputs > deepest and not fitting:
        raise NotImplementedError(f"{inputs} inputs cannot be cut into blocks of whole groups of {group}")
    return Plan(inputs, outputs, group, span, inputs if inputs <= deepest else fitting[-1])
