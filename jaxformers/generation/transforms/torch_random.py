"""The numbers that torch's CPU generator draws, without torch: watermarks are keyed with them.

torch seeds a 32-bit Mersenne twister with the low half of its seed. `randint(0, 2)` is a draw modulo 2, and `randperm`
is a Fisher-Yates shuffle: step i exchanges places i and i + draw % (n - i). Compared with torch 2.13 in the tests.
"""

import numpy as np

WORD = 0xFFFFFFFF


def draws(seed: int, count: int) -> np.ndarray:
    """The first numbers of `torch.Generator().manual_seed(seed)`, UInt32 [count]."""
    return np.random.RandomState(seed & WORD).randint(0, 2**32, size=count, dtype=np.uint32)


def coin_flips(seed: int, count: int) -> np.ndarray:
    """`torch.randint(0, 2, (count,))`, UInt8 [count]."""
    return (draws(seed, count) & 1).astype(np.uint8)


def exchanges(seed: int, size: int, steps: int) -> np.ndarray:
    """With which place each step of the shuffle exchanges its own, Int [steps]; a shuffle has size - 1 of them."""
    step = np.arange(min(steps, size - 1))
    return step + draws(seed, len(step)).astype(np.int64) % (size - step)


def permutation(seed: int, size: int) -> np.ndarray:
    """`torch.randperm(size)`, Int [size]."""
    return shuffled(size, exchanges(seed, size, size))


def shuffled(size: int, exchanges: np.ndarray) -> np.ndarray:
    """The numbers below `size` after some steps of the shuffle; the first places are final."""
    places = list(range(size))
    for here, there in enumerate(exchanges.tolist()):
        places[here], places[there] = places[there], places[here]
    return np.asarray(places)


def comes_first(value: int, exchanges: np.ndarray) -> bool:
    """Whether `value` is among the first `len(exchanges)` of the permutation, without making the permutation.

    It starts at its own number's place. A step that picks its place fetches it to the front for good; the step of its
    own place, if it comes before that, sends it on to another.
    """
    steps, step, place = len(exchanges), 0, value
    while not np.any(exchanges[step : place + 1] == place):
        if place >= steps:
            return False
        step, place = place + 1, int(exchanges[place])
    return True
