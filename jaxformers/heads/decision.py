"""Decision head: the options of questions in a prompt, scored in one forward pass at marked places."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.outputs import LogitsOutput
from jaxformers.heads.lm import records_of
from jaxformers.nn.linear import Linear


class DecisionHead(nn.Module):
    """Linear scores of single-token labels at the token before each question's mark.

    labels: how many there are, for all kinds of question. offsets: the first label of each kind, in the order of
    `question_type_ids`.
    """

    backbone: nn.Module
    labels: int
    offsets: tuple[int, ...]
    softcap: float | None = None

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        one = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        return {**self.backbone.dummy_inputs(), "marks": one, "num_options": one, "question_type_ids": one}

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array | None = None,
        marks: jax.Array | None = None,
        num_options: jax.Array | None = None,
        question_type_ids: jax.Array | None = None,
        **kwargs,
    ) -> LogitsOutput:
        """Score Q questions of each prompt: marks, num_options and question_type_ids are [B,Q].

        logits [B,Q,labels] hold the score of option j in column j, and -inf where a question has no such option:
        transformers returns the finite ones of one prompt, one question after another, which no traced shape can be.
        """
        if marks is None or num_options is None or question_type_ids is None:
            raise ValueError("a decision needs marks, num_options and question_type_ids, [prompts, questions] each")
        out = self.backbone(input_ids, **kwargs)
        x = jnp.take_along_axis(out.last_hidden_state, jnp.asarray(marks)[..., None] - 1, axis=1)
        scores = Linear(self.labels, True, ("embed", None), name="head")(x)
        if self.softcap is not None:
            scores = self.softcap * jnp.tanh(scores / self.softcap)
        options = jnp.arange(self.labels)
        rows = jnp.asarray(self.offsets)[jnp.asarray(question_type_ids)][..., None] + options
        picked = jnp.take_along_axis(scores, jnp.minimum(rows, self.labels - 1), axis=-1)
        real = (options < jnp.asarray(num_options)[..., None]) & (rows < self.labels)
        return LogitsOutput(logits=jnp.where(real, picked, -jnp.inf), **records_of(out))
