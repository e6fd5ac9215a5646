"""What a GenerationConfig may not say: each field by itself, and all of them once a request is complete."""

from typing import TYPE_CHECKING, Any

from jaxformers.core.errors import ConfigError

if TYPE_CHECKING:
    from jaxformers.generation.config import GenerationConfig

CACHES = ("dynamic", "static", "quantized", "paged")
# transformers' other names; offloading and hybrid layouts are of no concern here.
CACHE_NAMES = {
    "offloaded": "dynamic",
    "offloaded_static": "static",
    "hybrid": "dynamic",
    "hybrid_chunked": "dynamic",
    "offloaded_hybrid": "dynamic",
    "offloaded_hybrid_chunked": "dynamic",
    "sliding_window": "dynamic",
    "dynamic_full": "dynamic",
}
# Fields that would change the tokens and that nothing here reads.
NOT_DONE = ("token_healing", "dola_layers", "assistant_early_exit")


def check(c: "GenerationConfig") -> None:
    """Raise ConfigError for a field whose value means nothing."""
    if c.early_stopping not in (None, True, False, "never"):
        raise ConfigError(f"early_stopping is {c.early_stopping!r}; expected True, False or 'never'")
    for name in ("max_new_tokens", "num_beams", "num_return_sequences", "num_beam_groups"):
        above(name, getattr(c, name), 0)
    above("max_time", c.max_time, 0)
    if c.cache_implementation not in (None, *CACHES, *CACHE_NAMES):
        raise ConfigError(f"cache_implementation is {c.cache_implementation!r}; expected one of {', '.join(CACHES)}")
    weight = c.assistant_ensemble_weight
    if weight is not None and not 0.0 < weight < 1.0:
        raise ConfigError(f"assistant_ensemble_weight is {weight}; expected a number between 0 and 1, or None")


def check_complete(c: "GenerationConfig") -> None:
    """Raise ConfigError when fields contradict each other, defaults being filled in."""
    several(c)
    forced(c)
    for name in NOT_DONE:
        if getattr(c, name):
            raise ConfigError(f"{name} is {getattr(c, name)!r}, which is not implemented here; leave it out")


def above(name: str, value: Any, least: float) -> None:
    """Raise ConfigError unless a number that is given is greater than `least`."""
    if value is not None and not value > least:
        raise ConfigError(f"{name} is {value}; it must be greater than {least}")


def several(c: "GenerationConfig") -> None:
    """Raise ConfigError when more texts are asked for than the strategy can give."""
    count, beams = c.num_return_sequences or 1, c.num_beams or 1
    if count > 1 and beams == 1 and c.do_sample is not True:
        raise ConfigError(
            f"num_return_sequences is {count}, and greedy search has one answer only: set do_sample=True, or num_beams"
        )
    if beams > 1 and count > beams:
        raise ConfigError(f"num_return_sequences ({count}) must not be more than num_beams ({beams})")


def forced(c: "GenerationConfig") -> None:
    """Raise ConfigError when every token that is forced is suppressed as well."""
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        tokens = getattr(c, name)
        tokens = {tokens} if isinstance(tokens, int) else set(tokens or ())
        if tokens and c.suppress_tokens is not None and tokens <= set(c.suppress_tokens):
            raise ConfigError(f"{name} {sorted(tokens)} is in suppress_tokens too; take it out of one of them")
