"""Writing with drafts, the host's side: what can be checked in rounds, caches that grow, streams, ends, records."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.core.state import SsmState
from jaxformers.generation.buckets import length_bucket
from jaxformers.generation.loop import Choice, Rules, State, begin, draw, greedy
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.record import Recording
from jaxformers.generation.request import Request
from jaxformers.generation.rounds import (
    Drafter,
    RoundRules,
    RoundState,
    Verify,
    forget_ahead,
    lengthen,
    read_prompt,
    write,
    write_one,
)
from jaxformers.generation.sample import first_length, pace, prompt_ids, sample, take, tell, turning_column
from jaxformers.generation.stopping import Ends
from jaxformers.generation.writer import Prompt, Writer
from jaxformers.hub.model import Model


@dataclass(frozen=True)
class Drafting:
    """How drafts are made and checked. aid, writer and prompt: the model that helps, if one does."""

    drafter: Drafter
    verify: Verify
    tokens: int  # of a draft, at first
    grows: bool = False
    threshold: float = 0.0
    weight: float | None = None
    aid: Model | None = None
    writer: Writer | None = None
    prompt: Prompt | None = None

    def answer(self, request: Request) -> GenerateOutput | jax.Array:
        """Write until the end."""
        if request.new_tokens < 3:  # the first token has no draft, nor has the last
            return sample(request)
        ends, recording = Ends.of(request), Recording.of(request)
        state: State | None = None
        try:
            tell(request, prompt_ids(request))
            ends.start(prompt_ids(request))
            for now, columns in self.chunks(request, ends, recording):
                state = now
                for column in columns:
                    tell(request, column)
        finally:
            if request.streamer is not None:
                request.streamer.end()  # after an error too: another thread may be waiting
        sequences = jnp.asarray(ends.ids)
        if not request.config.return_dict_in_generate:
            return sequences
        return recording.output(request, sequences, state.replace(cache=forget_ahead(state)))

    def chunks(self, request: Request, ends: Ends, recording: Recording) -> Iterator[tuple[State, list[np.ndarray]]]:
        """The state and the tokens [1] of each new column, whenever the host looked."""
        choose = draw if request.config.do_sample else greedy
        rules, length, most = self.rules(request, ends), first_length(request), request.new_tokens - 2
        state = self.begin(request, rules, length, choose, recording)
        at = request.prompt.width
        yield state.text, take(state.text, ends, at, at + 1, recording)
        at, width = at + 1, min(self.tokens, most)
        while at < request.capacity and not ends.over:
            width = min(2 * width, most) if int(state.count) > width else width
            while length < min(request.capacity, at + width + 1):
                length = min(length_bucket(2 * length), length_bucket(request.capacity))
                state = lengthen(state, length=length)
            room = request.capacity if length >= request.capacity else length - width
            limit = jnp.asarray(min(room, at + pace(request, ends, recording)), jnp.int32)
            state, seen = self.advance(
                request, state, rules.replace(text=rules.text.replace(limit=limit)), (choose, width), recording
            )
            stop, columns = int(state.text.seen.end), []
            for n, scores in enumerate(split(seen)[: stop - at]):  # a criterion of the caller may end the text here
                recording.add(request, scores, length)
                columns += take(state.text, ends, at + n, at + n + 1, recording)
                if ends.done.all():
                    break
            yield state.text, columns if recording.steps else take(state.text, ends, at, stop, recording)
            at = stop

    def rules(self, request: Request, ends: Ends) -> RoundRules:
        """The numbers of a request."""
        last = jnp.asarray(request.capacity, jnp.int32)
        text = Rules(
            eos=jnp.asarray(ends.eos, jnp.int32),
            pad=jnp.asarray(ends.pad or 0, jnp.int32),
            rows=jnp.asarray(1, jnp.int32),
            limit=last,
        )
        return RoundRules(
            text,
            last,
            most=jnp.asarray(request.new_tokens - 2, jnp.int32),
            grows=jnp.asarray(self.grows),
            threshold=jnp.asarray(self.threshold, jnp.float32),
            weight=jnp.asarray(1.0 if self.weight is None else self.weight, jnp.float32),
        )

    def begin(
        self, request: Request, rules: RoundRules, length: int, choose: Choice, recording: Recording
    ) -> RoundState:
        """Both models read the prompt, and the first token is written without a draft."""
        text, seen = begin(
            request.model,
            request.writer,
            request.prompt,
            None,
            request.transforms,
            rules.text,
            request.key,
            capacity=length,
            dtype=None,
            choose=choose,
        )
        recording.add(request, seen, length)
        cache = None if self.aid is None else read_prompt(self.aid, self.writer, self.prompt, capacity=length)
        return RoundState(text, cache, jnp.asarray(min(self.tokens, request.new_tokens - 2), jnp.int32))

    def advance(
        self, request: Request, state: RoundState, rules: RoundRules, how: tuple[Choice, int], recording: Recording
    ) -> tuple[RoundState, dict[str, Any]]:
        """Some rounds, or one when steps are recorded."""
        given = ((request.model, self.aid), request.writer, state, request.transforms, rules)
        how = (self.drafter, self.verify, *how)
        return write_one(*given, how=how) if recording.steps else (write(*given, how=how), {})


def split(seen: dict[str, jax.Array]) -> list[dict[str, Any]]:
    """What each step of a round saw, as `Recording` takes it."""
    count = len(seen["scores"]) if seen else 0
    return [{name: x[n : n + 1] for name, x in seen.items()} | {"records": {}} for n in range(count)]


def checked(request: Request, what: str) -> Request:
    """The request with a cache that can go back. Raises ConfigError for what cannot be written in rounds."""
    config = request.config
    if request.rows > 1 or (config.num_return_sequences or 1) > 1:
        raise ConfigError(
            f"{what} writes one text at a time; found {request.rows} prompts and num_return_sequences="
            f"{config.num_return_sequences}: call generate for each, with keys of their own"
        )
    if request.writer.record:
        raise ConfigError(f"{what} does not record {' and '.join(request.writer.record)}; leave one of them out")
    if request.writer.sides > 1:
        raise ConfigError(f"{what} does not go together with guidance_scale; leave one of them out")
    if config.cache_implementation in ("static", "offloaded_static"):
        raise ConfigError(f"{what} goes with a dynamic cache; leave cache_implementation out")
    refuse_turn(request, what)
    refuse_recurrence(request.model, what)
    return request.replace(writer=replace(request.writer, rings=False))


def refuse_turn(request: Request, what: str) -> None:
    """Raise ConfigError for a text that would have to be read anew on its way."""
    turn = turning_column(request)
    if turn is not None and turn < request.capacity:
        raise ConfigError(
            f"{what} cannot pass the length of {request.writer.reread} tokens, where this model's rotations change; "
            "set max_length to that"
        )


def refuse_recurrence(model: Model, what: str) -> None:
    """Raise ConfigError for a model whose states cannot go back to an earlier token."""
    cache = jax.eval_shape(lambda: model.init_cache(1, 16, None).layers)
    states = jax.tree.leaves(cache, is_leaf=lambda x: isinstance(x, SsmState))
    if any(isinstance(state, SsmState) for state in states):
        raise ConfigError(
            f"{what} needs a model that can take tokens back; {model.config.model_type} has recurrent states: "
            "leave it out"
        )
