"""What a caller asked to see of every step: scores, logits, hidden states, attentions; cut to the caller's rows."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxformers.generation.outputs import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput, GenerateOutput
from jaxformers.generation.request import Request
from jaxformers.generation.writer import EncoderDecoderWriter


@dataclass
class Recording:
    """Steps seen so far. steps: whether any are wanted, which makes the host look at each."""

    names: tuple[str, ...] = ()
    taken: dict[str, list] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> "Recording":
        """What a request wants."""
        c = request.config
        if not c.return_dict_in_generate:
            return cls()
        asked = [n for n in ("scores", "logits", "hidden_states", "attentions") if getattr(c, f"output_{n}")]
        return cls(tuple(asked), {n: [] for n in ("scores", "logits") if n in asked})

    @property
    def steps(self) -> bool:
        """Whether anything is wanted of each step."""
        return bool(self.names)

    @property
    def last_scores(self) -> tuple | None:
        """Scores of all steps so far, where they are wanted."""
        return tuple(self.taken["scores"]) if "scores" in self.taken else None

    def add(self, request: Request, seen: dict[str, Any], columns: int) -> None:
        """Note one step; the first call is the prompt's. columns: keys there are."""
        if not self.steps:
            return
        rows = request.rows * (request.config.num_return_sequences or 1)
        for name in ("scores", "logits"):
            if name in self.taken:
                self.taken[name].append(seen[name][:rows])
        start = int(request.prompt.start)
        first = not any(n not in ("scores", "logits") for n in self.taken)
        end = request.prompt.width if first else columns
        for name, layers in seen["records"].items():
            cut = tuple(self.cut(request, name, x, first, start, end) for x in layers)
            self.taken.setdefault(name, []).append(cut)

    def cut(self, request: Request, name: str, x: jax.Array, first: bool, start: int, end: int) -> jax.Array:
        """The caller's rows and columns of one layer's record."""
        copies = request.config.num_return_sequences or 1
        if first:  # the prompt is read once for all texts that go on from it
            x = x[np.repeat(np.arange(request.rows), copies)]
        x = x[: request.rows * copies]
        queries = slice(start if first else 0, None)
        if name.endswith("hidden_states"):
            return x[:, queries]
        if name == "cross_attentions":
            return x[:, :, queries, : source_length(request, x.shape[-1])]
        return x[:, :, queries, start:end]

    def output(self, request: Request, sequences: jax.Array, state: Any) -> GenerateOutput:
        """The output with transformers' names."""
        steps = {name: tuple(values) for name, values in self.taken.items()}
        cache = None if state is None else state.cache
        if not isinstance(request.writer, EncoderDecoderWriter):
            steps = {k: v for k, v in steps.items() if k != "cross_attentions"}
            return GenerateDecoderOnlyOutput(sequences=sequences, past_key_values=cache, **steps)
        steps |= self.encoder(request)
        return GenerateEncoderDecoderOutput(sequences=sequences, past_key_values=cache, **steps)

    def encoder(self, request: Request) -> dict[str, Any]:
        """The encoder's records, cut to the caller's rows and columns."""
        out = {}
        rows = np.repeat(np.arange(request.rows), request.config.num_return_sequences or 1)
        encoded = request.prompt.extra["encoder_outputs"]
        for name in ("hidden_states", "attentions"):
            layers = getattr(encoded, name, None)
            if name in self.names and layers is not None:
                width = source_length(request, layers[0].shape[-1 if name == "attentions" else 1])
                cut = (slice(None), slice(width)) if name == "hidden_states" else (..., slice(width), slice(width))
                out[f"encoder_{name}"] = tuple(x[rows][cut] for x in layers)
        return out


def source_length(request: Request, width: int) -> int:
    """How many of the encoder's columns the caller gave."""
    real = request.prompt.encoder_real
    return width if real is None else int(np.sum(real))
