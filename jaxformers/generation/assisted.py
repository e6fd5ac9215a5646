"""Assisted generation: the draft is written by a smaller model that has the same words."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.core.rows import rewind
from jaxformers.generation.asking import unstacked, vocabulary
from jaxformers.generation.config import DEFAULTS
from jaxformers.generation.drafting import Drafting, checked, refuse_recurrence
from jaxformers.generation.loop import Choice, draw, greedy
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.request import Request
from jaxformers.generation.rounds import Draft, RoundRules, RoundState, placed
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.verify import matching, speculative
from jaxformers.generation.writer import EncoderDecoderWriter, Prompt, Writer, writer_of
from jaxformers.hub.model import Model

SCHEDULES = ("constant", "heuristic", "heuristic_transient")


@dataclass(frozen=True)
class Assistant:
    """A model drafts, with the transforms of the other. scores: whether its scores are needed to check the draft."""

    writer: Writer
    choose: Choice = greedy
    scores: bool = False

    def draft(
        self, aid: Model, state: RoundState, transforms: LogitsTransform, rules: RoundRules, width: int, most: jax.Array
    ) -> Draft:
        """Write until there are `most` tokens, or one is the end, or is too unlikely."""
        seen, key = state.text.seen, state.text.key

        def more(carry: tuple[Draft, jax.Array]) -> tuple[Draft, jax.Array]:
            draft, n = carry[0], carry[0].count
            shown = placed(seen, draft.tokens, jnp.arange(width) < n).replace(end=seen.end + n)
            # Two are read: when the whole draft before this one stood, its last token is not read yet.
            last = jax.lax.dynamic_slice_in_dim(shown.tokens, shown.end - 2, 2, axis=1)
            scores, cache, _ = self.writer.step(aid, last, rewind(draft.cache, shown.end - 2))
            scores = transforms(scores[:, -1], shown)
            # Keys of their own, so that what checks a draft is independent of it.
            token = self.choose(scores, None if key is None else jax.random.fold_in(key, -1 - shown.new))[0]
            likely = jax.nn.softmax(scores[0])[token] >= rules.threshold
            going = likely & ~jnp.isin(token, rules.text.eos) & (n + 1 < most)
            kept = draft.scores.at[n].set(scores[0]) if self.scores else None
            return Draft(draft.tokens.at[n].set(token), n + 1, kept, cache), going

        kept = jnp.zeros((width, vocabulary(aid.config)), jnp.float32) if self.scores else None
        empty = Draft(jnp.zeros((width,), jnp.int32), jnp.zeros((), jnp.int32), kept, state.cache)
        return jax.lax.while_loop(lambda carry: carry[1], more, (empty, most > 0))[0]


def assisted_generation(request: Request) -> GenerateOutput | jax.Array:
    """The mode of a draft model. Greedy search writes the same tokens as without it, sampling the same distribution."""
    given = request.options["assistant_model"]
    refuse_assistant(request, given)
    request = checked(request, "assistant_model")
    aid, told = unstacked(given), given.generation_config
    writer = writer_of(aid, rings=False)
    prompt = prompt_for(request, aid, writer)
    count, schedule, threshold = (
        setting(request.config, told, name)
        for name in ("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold")
    )
    if schedule not in SCHEDULES:
        raise ConfigError(f"num_assistant_tokens_schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}")
    if int(count) < 1:
        raise ConfigError(f"num_assistant_tokens is {count}; it must be 1 or more")
    samples, weight = bool(request.config.do_sample), request.config.assistant_ensemble_weight
    drafting = Drafting(
        Assistant(writer, draw if samples else greedy, samples or weight is not None),
        speculative if samples else matching,
        int(count),
        grows=schedule != "constant",
        threshold=threshold or 0.0,
        weight=weight,
        aid=aid,
        writer=writer,
        prompt=prompt,
    )
    return drafting.answer(request)


def setting(config: Any, assistant: Any, name: str) -> Any:
    """What the call says, else the assistant's generation config, else the default."""
    value = getattr(config, name)
    told = None if assistant is None else getattr(assistant, name)
    return told if told is not None and value == DEFAULTS[name] else value


def refuse_assistant(request: Request, given: Any) -> None:
    """Raise ConfigError for what cannot draft for the request's model."""
    if not isinstance(given, Model):
        raise ConfigError(f"assistant_model is a {type(given).__name__}; expected a model as from_pretrained gives it")
    if "assistant_tokenizer" in request.options:
        raise ConfigError(
            "an assistant with another tokenizer is not supported: leave assistant_tokenizer out, and choose an "
            "assistant of the same family"
        )
    words = [vocabulary(model.config) for model in (request.model, given)]
    if words[0] != words[1]:
        raise ConfigError(
            f"the model has {words[0]} words and its assistant {words[1]}; expected an assistant of the same family, "
            "with the same tokenizer"
        )
    refuse_recurrence(given, "assistant_model")


def prompt_for(request: Request, aid: Model, writer: Writer) -> Prompt:
    """The same prompt for the assistant. Raises ConfigError for prompts that are not of text alone."""
    prompt = request.prompt
    tokens, real = (np.asarray(x)[:1, int(prompt.start) :] for x in (prompt.tokens, prompt.real))
    two, other = (isinstance(w, EncoderDecoderWriter) for w in (request.writer, writer))
    if two != other:
        raise ConfigError("the model and its assistant must both be encoder-decoders, or both decoders alone")
    if prompt.encoder_tokens is None or (prompt.extra and not two):
        raise ConfigError("assistant_model goes with prompts of tokens; found pictures, sounds or embeddings")
    if not two:
        return writer.prompt(aid, {"input_ids": tokens, "attention_mask": real}, request.config)
    length = int(np.sum(prompt.encoder_real))
    inputs = {
        "input_ids": np.asarray(prompt.encoder_tokens)[:1, :length],
        "attention_mask": np.asarray(prompt.extra["attention_mask"])[:1, :length],
        "decoder_input_ids": tokens,
        "decoder_attention_mask": real,
    }
    made = writer.prompt(aid, inputs, request.config)
    if made.width != prompt.width:
        raise ConfigError("the model and its assistant begin their texts differently; set decoder_start_token_id")
    return made
