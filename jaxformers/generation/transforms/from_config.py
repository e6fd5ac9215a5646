"""The chain that a generation config asks for, in the order of transformers' `_get_logits_processor`.

Guidance is not in it: the loop combines the scores of both prompts before the chain sees them, which is where
transformers has its processor.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

import jax
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.seen import Seen
from jaxformers.generation.transform import Chain, LogitsTransform, chain
from jaxformers.generation.transforms.arguments import Tokens, Whole, token_ids
from jaxformers.generation.transforms.bias import bad_words, refuse_unknown, sequence_bias
from jaxformers.generation.transforms.cutoff import epsilon_cutoff, eta_cutoff, typical
from jaxformers.generation.transforms.finite import remove_invalid_values, renormalize_logits
from jaxformers.generation.transforms.force import (
    forced_bos,
    forced_eos,
    suppress_tokens,
    suppress_tokens_at_begin,
)
from jaxformers.generation.transforms.length import exponential_decay_length_penalty, min_length, min_new_tokens
from jaxformers.generation.transforms.ngrams import encoder_no_repeat_ngram, no_repeat_ngram
from jaxformers.generation.transforms.prefix import Allowed, prefix_constrained
from jaxformers.generation.transforms.repetition import encoder_repetition_penalty, repetition_penalty
from jaxformers.generation.transforms.synthid import synthid_watermark
from jaxformers.generation.transforms.warp import min_p, temperature, top_h, top_k, top_p
from jaxformers.generation.transforms.watermark import watermark

T = TypeVar("T")
OwnTransform = LogitsTransform | Callable[[jax.Array, Seen], jax.Array]


@dataclass(frozen=True)
class Around:
    """What the chain depends on besides the config."""

    beams: int
    eos: Tokens | None
    max_length: Whole | None
    padding: Whole | None
    has_encoder_tokens: bool
    vocab_size: int | None
    prefix_allowed_tokens_fn: Allowed | None
    rows: Whole | None


def transforms_of(
    config: GenerationConfig,
    *,
    own: Sequence[OwnTransform] | Chain = (),
    beams: int = 1,
    eos: Tokens | None = None,
    max_length: Whole | None = None,
    padding: Whole | None = None,
    encoder_real: jax.Array | np.ndarray | None = None,
    vocab_size: int | None = None,
    prefix_allowed_tokens_fn: Allowed | None = None,
    rows: Whole | None = None,
) -> Chain:
    """Build the chain of a config.

    own: the caller's transforms; they come before the warps, or in place of one of the same type. eos: tokens that end
    a text. max_length: tokens of prompt and continuation, by default the config's. padding Int [B]: columns of the
    prompt that the caller padded on the left, which a repetition penalty ignores. encoder_real: what
    `Seen.encoder_real` will be, None if nothing tells what an encoder read. vocab_size: needed for a watermark, and
    used to refuse tokens outside it. rows: how many rows are the caller's, beams included.
    """
    length = config.max_length if max_length is None else max_length
    function = prefix_allowed_tokens_fn
    around = Around(beams, eos, length, padding, encoder_real is not None, vocab_size, function, rows)
    rules = merged([*constraints(config, around), *shapings(config, around)], chain(*listed(own)).transforms)
    warps = sampling_warps(config, around) if config.do_sample else ()
    return Chain((*rules, *warps, *endings(config, around)))


def listed(own: Sequence[OwnTransform] | Chain | None) -> Sequence[OwnTransform]:
    """The caller's transforms one by one."""
    return (own,) if isinstance(own, Chain) or callable(own) else (own or ())


def merged(made: Sequence[LogitsTransform], own: Sequence[LogitsTransform]) -> list[LogitsTransform]:
    """The caller's transforms in place of those of the same type, then the rest of them."""
    replaced = [next((mine for mine in own if type(mine) is type(one)), one) for one in made]
    return replaced + [mine for mine in own if not any(mine is one for one in replaced)]


def constraints(config: GenerationConfig, around: Around) -> Iterator[LogitsTransform]:
    """Penalties and bans by what was seen."""
    if config.sequence_bias is not None:
        yield sequence_bias(config.sequence_bias, around.vocab_size)
    if asked(config.encoder_repetition_penalty, 1.0) and reads(around, "encoder_repetition_penalty"):
        yield encoder_repetition_penalty(config.encoder_repetition_penalty)
    if asked(config.repetition_penalty, 1.0):
        yield repetition_penalty(config.repetition_penalty, around.padding)
    if some(config.no_repeat_ngram_size):
        yield no_repeat_ngram(config.no_repeat_ngram_size)
    if some(config.encoder_no_repeat_ngram_size) and reads(around, "encoder_no_repeat_ngram_size"):
        yield encoder_no_repeat_ngram(config.encoder_no_repeat_ngram_size)
    if config.bad_words_ids is not None:
        yield bad_words(config.bad_words_ids, around.eos, around.vocab_size)
    if some(config.min_length) and around.eos is not None:
        yield min_length(config.min_length, around.eos)
    if some(config.min_new_tokens) and around.eos is not None:
        yield min_new_tokens(config.min_new_tokens, around.eos)
    if around.prefix_allowed_tokens_fn is not None:
        yield prefix_constrained(around.prefix_allowed_tokens_fn, around.beams, around.rows)


def shapings(config: GenerationConfig, around: Around) -> Iterator[LogitsTransform]:
    """What is forced, removed or suppressed by place."""
    if config.forced_bos_token_id is not None:
        yield forced_bos(within(config.forced_bos_token_id, around.vocab_size, "forced_bos_token_id"))
    if config.forced_eos_token_id is not None:
        ends = within(config.forced_eos_token_id, around.vocab_size, "forced_eos_token_id")
        yield forced_eos(needed(around.max_length, "forced_eos_token_id", "max_length"), ends)
    if config.remove_invalid_values is True:
        yield remove_invalid_values()
    if config.exponential_decay_length_penalty is not None:
        ends = needed(around.eos, "exponential_decay_length_penalty", "eos_token_id")
        yield exponential_decay_length_penalty(config.exponential_decay_length_penalty, ends)
    if config.suppress_tokens is not None:
        yield suppress_tokens(config.suppress_tokens)
    if config.begin_suppress_tokens is not None:
        forced = int(config.forced_bos_token_id is not None)
        yield suppress_tokens_at_begin(config.begin_suppress_tokens, forced=forced)


def sampling_warps(config: GenerationConfig, around: Around) -> Iterator[LogitsTransform]:
    """Warps of the distribution that is drawn from. Beams need one token more than there are ends."""
    ends = 1 if around.eos is None else len(token_ids("eos_token_id", around.eos))
    keep = ends + 1 if around.beams > 1 else 1
    if asked(config.temperature, 1.0):
        yield temperature(config.temperature)
    if config.top_h is not None:
        yield top_h(config.top_h)
    if asked(config.top_k, 0):
        yield top_k(config.top_k, keep)
    if config.top_p is not None and config.top_p < 1.0:
        yield top_p(config.top_p, keep)
    if config.min_p is not None:
        yield min_p(config.min_p, keep)
    if config.typical_p is not None and config.typical_p < 1.0:
        yield typical(config.typical_p, keep)
    if share(config.epsilon_cutoff):
        yield epsilon_cutoff(config.epsilon_cutoff, keep)
    if share(config.eta_cutoff):
        yield eta_cutoff(config.eta_cutoff, keep)


def endings(config: GenerationConfig, around: Around) -> Iterator[LogitsTransform]:
    """What comes after the warps."""
    if config.watermarking_config is not None:
        yield watermark_of(config.watermarking_config, around.vocab_size)
    if config.renormalize_logits is True:
        yield renormalize_logits()


def watermark_of(settings: Any, vocab_size: int | None) -> LogitsTransform:
    """The watermark of a `watermarking_config`, a mapping or transformers' object; keys tell SynthID from the other."""
    values: dict[str, Any] = dict(settings if isinstance(settings, Mapping) else settings.to_dict())
    if "ngram_len" in values:
        return synthid_watermark(**values)
    return watermark(needed(vocab_size, "watermarking_config", "vocab_size"), **values)


def asked(value: T | None, neutral: float) -> TypeGuard[T]:
    """Whether a field is set to something that has an effect."""
    return value is not None and value != neutral


def some(value: T | None) -> TypeGuard[T]:
    """Whether a field is set to a number above zero."""
    number: Any = value
    return number is not None and number > 0


def share(value: float | None) -> TypeGuard[float]:
    """Whether a field is set to a number between 0 and 1."""
    return value is not None and 0.0 < value < 1.0


def reads(around: Around, field: str) -> bool:
    """Whether something tells which tokens were read; if not, a field that needs them has no effect but a warning."""
    if not around.has_encoder_tokens:
        warnings.warn(f"`{field}` has no effect: the model reads no tokens with an encoder", UserWarning, stacklevel=4)
    return around.has_encoder_tokens


def needed(value: Any, field: str, what: str) -> Any:
    """The value, or ConfigError."""
    if value is None:
        raise ConfigError(f"`{field}` needs `{what}`, which is not set: give it to generate or set it in the config")
    return value


def within(ids: Tokens, vocab_size: int | None, field: str) -> Tokens:
    """Tokens that can be forced, or ConfigError: forcing others would leave nothing to write."""
    found = token_ids(field, ids)
    refuse_unknown({(int(token),): 0.0 for token in np.asarray(found)}, vocab_size)
    return found
