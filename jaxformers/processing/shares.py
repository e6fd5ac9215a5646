"""From scores to shares of one: softmax and sigmoid on the host."""

import numpy as np


def softmax(scores: np.ndarray) -> np.ndarray:
    """Shares along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow for either sign."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)
