"""Request: everything one call of `generate` was asked, after defaults, checks and bucketing; what every mode takes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.transform import Chain
from jaxformers.generation.writer import Prompt, Writer
from jaxformers.hub.model import Model


@dataclass(frozen=True)
class Request:
    """A mode is a function of one of these: `mode(request) -> GenerateOutput`.

    config: complete, with max_length and min_length of the whole text. transforms: built from the config and the
    caller's own, in transformers' order.
    """

    model: Model
    writer: Writer
    prompt: Prompt
    config: GenerationConfig
    transforms: Chain = Chain()
    key: jax.Array | None = None
    new_tokens: int = 20  # at most
    tokenizer: Any = None
    streamer: Any = None
    criteria: tuple[Callable, ...] = ()  # the caller's stopping criteria
    options: dict[str, Any] = field(default_factory=dict)  # arguments of one mode: assistant_model, constraints, ...

    @property
    def rows(self) -> int:
        """How many rows the caller gave."""
        return int(self.prompt.rows)

    @property
    def capacity(self) -> int:
        """Columns from the bucket's first to the last token that may be written."""
        return self.prompt.width + self.new_tokens

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt, as transformers counts them: padding by the caller is one of them."""
        return self.prompt.width - int(self.prompt.start)

    def replace(self, **changes: Any) -> "Request":
        """A copy with some parts changed."""
        return replace(self, **changes)
