"""How likely the tokens were that `generate` chose."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def transition_scores(
    sequences: jax.Array,
    scores: Sequence[jax.Array],
    beam_indices: jax.Array | None = None,
    normalize_logits: bool = False,
) -> jax.Array:
    """The score of each new token, Float [B,N]; of tokens after a beam's end, 0.

    The arguments are fields of an output of `generate` with output_scores=True. normalize_logits: scores as
    log-probabilities. What transformers calls compute_transition_scores.
    """
    steps = jnp.stack([jnp.asarray(s) for s in scores])  # [N,R,V]
    if normalize_logits:
        steps = jax.nn.log_softmax(steps, axis=-1)
    if beam_indices is None:
        rows = np.broadcast_to(np.arange(steps.shape[1])[:, None], (steps.shape[1], len(steps)))
    else:
        rows = np.asarray(beam_indices)
        rows = rows[:, : int((rows >= 0).sum(axis=1).max())]
    count = rows.shape[1]
    tokens = jnp.asarray(sequences)[:, -count:] if count else jnp.zeros((len(rows), 0), jnp.int32)
    picked = steps[jnp.arange(count)[None], jnp.maximum(rows, 0), tokens]
    return jnp.where(rows < 0, 0.0, picked)
