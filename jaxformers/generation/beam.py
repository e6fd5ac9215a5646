"""Beam search and beam sampling, with the books of transformers 5; and the host's side of every beam search."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.generation.beam_loop import Search, Strategy, begin, judged, lengthen, seen_by, write, write_one
from jaxformers.generation.beam_state import (
    BeamRules,
    Beams,
    Hypotheses,
    breadth,
    drawn,
    extended,
    first_beams,
    first_numbers,
    likeliest,
    newest,
    settled,
)
from jaxformers.generation.buckets import length_bucket
from jaxformers.generation.outputs import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateOutput,
)
from jaxformers.generation.record import Recording
from jaxformers.generation.request import Request
from jaxformers.generation.sample import LOOK, first_length
from jaxformers.generation.seen import Seen
from jaxformers.generation.stopping import Criterion, Ends
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.writer import EncoderDecoderWriter


@dataclass(frozen=True)
class BeamSearch:
    """K beams, of whose continuations the likeliest go on, or some that are drawn."""

    width: int
    pick: Callable[[jax.Array, int, Any], jax.Array] = likeliest
    criteria: tuple[Criterion, ...] = ()

    def start(self, tokens: jax.Array, frame: Seen, rules: BeamRules) -> Beams:
        """Equal beams, of which the first counts."""
        return first_beams(tokens, self.width, rules.fill, frame.begin)

    def step(
        self,
        books: Beams,
        logits: jax.Array,
        frame: Seen,
        transforms: LogitsTransform,
        rules: BeamRules,
        key: jax.Array | None,
    ) -> tuple[Beams, jax.Array]:
        """Look at twice as many continuations as there are beams; keep the best that go on, and the best that ended."""
        scores = transforms(jax.nn.log_softmax(logits, axis=-1), seen_by(frame, books.running))
        batch = len(books.open)
        total = scores.reshape(batch, self.width, -1) + books.running.scores[:, :, None]
        places = self.pick(total.reshape(batch, -1), breadth(self.width, rules.eos.size), key)
        found = extended(books.running, total, places, frame.end, first_numbers(batch, self.width))
        ended = jnp.isin(newest(found.tokens, frame.end), rules.eos) | (frame.end + 1 >= rules.limit)
        ended = ended | judged(self.criteria, found.tokens, frame, frame.end + 1, rules.rows)
        return settled(books, found, ended, frame.new + 1, rules), scores


def beam_search(request: Request) -> GenerateOutput | jax.Array:
    """The mode of beam search and beam sampling."""
    pick = drawn if request.config.do_sample else likeliest
    ends = Ends.of(request)
    strategy = BeamSearch(request.config.num_beams, pick, ends.criteria)
    search, recording = searched(request, strategy, beam_rules(request), ends)
    return answer(request, search, search.books.finished, recording)


def beam_rules(request: Request) -> BeamRules:
    """The numbers of a request. A text's score is divided by its length to the power of length_penalty."""
    c = request.config
    lengths = np.maximum(np.arange(length_bucket(request.capacity) + 1), 1).astype(np.float64)
    hopes = c.early_stopping == "never" and c.length_penalty > 0
    return BeamRules(
        eos=jnp.asarray(c.eos, jnp.int32),
        fill=jnp.asarray(filling(request), jnp.int32),
        pad=jnp.asarray(c.pad or 0, jnp.int32),
        rows=jnp.asarray(request.rows, jnp.int32),
        limit=jnp.asarray(request.capacity, jnp.int32),
        pause=jnp.asarray(request.capacity, jnp.int32),
        penalties=jnp.asarray(lengths**c.length_penalty, jnp.float32),
        hope=jnp.asarray(request.new_tokens if hopes else 0, jnp.int32),
        content=jnp.asarray(c.early_stopping is True),
    )


def filling(request: Request) -> int:
    """What follows a text's end: the padding token, but the end token where that is 0, as transformers 5 has it."""
    c = request.config
    return (c.pad or c.eos[0]) if c.eos else -1


def searched(request: Request, strategy: Strategy, rules: BeamRules, ends: Ends) -> tuple[Search, Recording]:
    """Write until the search is over: grow caches, look at the clock, note what steps saw."""
    # A step is seen of all beams, as of so many texts to return.
    wide = request.replace(config=request.config.update(num_return_sequences=strategy.width))
    recording = Recording.of(wide)
    last, at, length = request.capacity, request.prompt.width + 1, first_length(request)
    given = (request.model, request.writer)
    search, seen = begin(
        *given,
        request.prompt,
        request.transforms,
        rules,
        request.key,
        capacity=length,
        dtype=None,
        strategy=strategy,
    )
    recording.add(wide, seen, length)
    while not bool(search.books.over):
        if at >= length:
            length = min(length_bucket(2 * length), length_bucket(last))
            search = lengthen(search, rules.fill, length=length)
        late = time.monotonic() > ends.deadline
        pace = LOOK if ends.deadline != float("inf") else last
        stop = at + 1 if late or recording.steps else min(last, length, at + pace)
        now = rules.replace(pause=jnp.asarray(stop, jnp.int32), limit=jnp.asarray(stop if late else last, jnp.int32))
        if recording.steps:
            search, seen = write_one(*given, search, request.transforms, now, strategy=strategy)
            recording.add(wide, seen, at)
        else:
            search = write(*given, search, request.transforms, now, strategy=strategy)
        at = int(search.frame.end)
    return search, recording


def answer(request: Request, search: Search, best: Hypotheses, recording: Recording) -> GenerateOutput | jax.Array:
    """The first texts of each prompt, cut to the longest. best: [B,K], in order."""
    c = request.config
    start, width = int(request.prompt.start), request.prompt.width
    tokens, scores, origins = (
        np.asarray(x)[: request.rows, : c.num_return_sequences or 1].reshape(-1, *x.shape[2:])
        for x in (best.tokens, best.scores, best.origins)
    )
    origins = origins[:, width:]
    new = int((origins >= 0).sum(axis=1).max())
    sequences = jnp.asarray(tokens[:, start : width + new])
    if not c.return_dict_in_generate:
        return sequences
    steps = {name: tuple(values) for name, values in recording.taken.items()}
    fields = dict(
        sequences=sequences,
        sequences_scores=jnp.asarray(scores) if c.output_scores else None,
        beam_indices=jnp.asarray(origins[:, :new]),
        past_key_values=search.cache,
    )
    if isinstance(request.writer, EncoderDecoderWriter):
        return GenerateBeamEncoderDecoderOutput(**fields, **steps, **recording.encoder(request))
    steps.pop("cross_attentions", None)
    return GenerateBeamDecoderOnlyOutput(**fields, **steps)
