"""Attention in float64 with numpy, gradients written out: what every kernel is compared with."""

from typing import NamedTuple

import numpy as np


class Truth(NamedTuple):
    """Outputs, and gradients of sum(out * grad) + sum(lse * grad_lse)."""

    out: np.ndarray  # [B,T,H,Dv]
    lse: np.ndarray  # [B,H,T], -1e30 where nothing is seen
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    bias: np.ndarray | None
    sinks: np.ndarray | None


def attention(q, k, v, seen, grads, *, scale, softcap=None, bias=None, sinks=None) -> Truth:
    """Arrays as the kernels take them; seen Bool [1|B,T,S] or None, grads (out, lse)."""
    q, k, v, grad, grad_lse = (np.asarray(x, np.float64) for x in (q, k, v, *grads))
    (b, t, h, d), (s, kv) = q.shape, k.shape[1:3]
    groups = h // kv
    wide_k, wide_v = np.repeat(k, groups, 2), np.repeat(v, groups, 2)
    raw = np.einsum("bthd,bshd->bhts", q, wide_k) * scale
    bent = raw if softcap is None else np.tanh(raw / softcap) * softcap
    slope = np.ones_like(raw) if softcap is None else 1 - (bent / softcap) ** 2
    scores = bent if bias is None else bent + np.asarray(bias, np.float64)
    seen = np.ones((1, 1, t, s), bool) if seen is None else np.asarray(seen)[:, None]
    scores = np.where(seen, scores, -np.inf)
    parts = scores
    if sinks is not None:
        extra = np.broadcast_to(np.asarray(sinks, np.float64)[None, :, None, None], (b, h, t, 1))
        parts = np.concatenate([scores, extra], -1)
    top = parts.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    mass = np.exp(parts - top).sum(-1, keepdims=True)
    some = mass > 0
    p = np.where(some, np.exp(scores - top) / np.where(some, mass, 1.0), 0.0)
    out = np.einsum("bhts,bshd->bthd", p, wide_v)
    lse = np.where(some, top + np.log(np.where(some, mass, 1.0)), -1e30)[..., 0]
    d_p = np.einsum("bthd,bshd->bhts", grad, wide_v)
    delta = (p * d_p).sum(-1, keepdims=True) - grad_lse[..., None]
    d_scores = p * (d_p - delta)
    d_raw = d_scores * slope * scale
    d_k = np.einsum("bhts,bthd->bshd", d_raw, q).reshape(b, s, kv, groups, d).sum(3)
    d_v = np.einsum("bhts,bthd->bshd", p, grad).reshape(b, s, kv, groups, -1).sum(3)
    d_bias = None if bias is None else summed(d_scores, np.shape(bias))
    d_sinks = None
    if sinks is not None:
        share = np.where(some, np.exp(np.asarray(sinks, np.float64)[None, :, None, None] - top) / mass, 0.0)
        d_sinks = -(share * delta).sum((0, 2, 3))
    return Truth(out, lse, np.einsum("bhts,bshd->bthd", d_raw, wide_k), d_k, d_v, d_bias, d_sinks)


def summed(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the axes along which an array of `shape` was spread."""
    return x.sum(tuple(a for a, size in enumerate(shape) if size == 1 and x.shape[a] != 1), keepdims=True)
