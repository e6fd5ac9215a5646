"""Group (diverse) beam search: groups of beams take turns, and avoid what the groups before them write."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.errors import ConfigError
from jaxformers.generation.beam import answer, beam_rules, searched
from jaxformers.generation.beam_loop import judged, seen_by
from jaxformers.generation.beam_scorer import (
    Scorer,
    closed,
    continuations,
    final,
    first_scorer,
    going,
    onward,
    over,
)
from jaxformers.generation.beam_state import BeamRules, Hypotheses, first_numbers, newest
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.request import Request
from jaxformers.generation.seen import Seen
from jaxformers.generation.stopping import Criterion, Ends
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.transforms.arguments import Number, number


@struct.dataclass
class HammingDiversity:
    """Less likely by `penalty` for each time that a token is among `chosen` [B,n], what other groups write now."""

    penalty: Number
    chosen: jax.Array

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        batch, vocabulary = len(self.chosen), scores.shape[-1]
        rows = jnp.arange(batch)[:, None]
        count = jnp.zeros((batch, vocabulary), scores.dtype).at[rows, self.chosen].add(1.0, mode="drop")
        return scores - self.penalty * jnp.repeat(count, len(scores) // batch, axis=0)


def hamming_diversity(penalty: Number, chosen: jax.Array) -> HammingDiversity:
    """Penalise what other groups of beams write at the same step (arXiv 1610.02424)."""
    return HammingDiversity(number("diversity_penalty", penalty, lambda p: p > 0, "greater than 0"), chosen)


@struct.dataclass
class Groups:
    """The books of G groups of S beams each."""

    groups: tuple[Scorer, ...]
    over: jax.Array  # Bool []

    @property
    def running(self) -> Hypotheses:
        """All running texts of a prompt, group after group."""
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *(g.running for g in self.groups))


@dataclass(frozen=True)
class GroupBeamSearch:
    """`width` beams in `count` groups."""

    width: int
    count: int
    criteria: tuple[Criterion, ...] = ()

    def start(self, tokens: jax.Array, frame: Seen, rules: BeamRules) -> Groups:
        """Equal beams, of which the first of each group counts."""
        groups = tuple(
            first_scorer(tokens, self.width // self.count, rules.fill, frame.begin) for _ in range(self.count)
        )
        return Groups(groups, jnp.asarray(False))

    def step(
        self,
        books: Groups,
        logits: jax.Array,
        frame: Seen,
        transforms: LogitsTransform,
        rules: BeamRules,
        key: jax.Array | None,
    ) -> tuple[Groups, jax.Array]:
        """One step of each group, in order."""
        size, batch = self.width // self.count, len(books.groups[0].done)
        scores = jax.nn.log_softmax(logits, axis=-1).reshape(batch, self.width, -1)
        groups: list[Scorer] = []
        after, chosen = [], jnp.zeros((batch, 0), jnp.int32)
        for number_of_group, group in enumerate(books.groups):
            own = scores[:, number_of_group * size : (number_of_group + 1) * size]
            flat = own.reshape(batch * size, -1)
            seen = seen_by(frame, group.running)
            flat = transforms(HammingDiversity(rules.own, chosen)(flat, seen), seen)
            own = flat.reshape(own.shape)
            first = first_numbers(batch, self.width) + number_of_group * size
            group = stepped(group, own, first, frame, rules)
            chosen = jnp.concatenate([chosen, newest(group.running.tokens, frame.end)], axis=1)
            groups.append(group)
            after.append(own)
        books = books.replace(groups=tuple(groups))
        done = jnp.stack([g.done for g in groups]).all(axis=0)
        stopped = judged(self.criteria, books.running.tokens, frame, frame.end + 1, rules.rows)
        books = books.replace(over=over(done, stopped, frame, rules))
        return books, jnp.concatenate(after, axis=1).reshape(logits.shape)


def stepped(group: Scorer, scores: jax.Array, first: jax.Array, frame: Seen, rules: BeamRules) -> Scorer:
    """One step of one group. scores [B,S,V]."""
    total = scores + group.running.scores[:, :, None]
    found, ended = continuations(group, total, first, frame.end, rules)
    done = group.done
    group = closed(group, found, ended, frame, rules)
    return going(group, onward(found, ended, total.shape[1]), done, first, frame.end, rules.pad)


@jax.jit
def best_of(books: Groups, frame: Seen, rules: BeamRules) -> Hypotheses:
    """All finished texts of a prompt, those that still ran among them, best first."""
    parts = [final(g, jnp.ones_like(g.complete), frame, rules) for g in books.groups]
    # Of equal texts transformers returns the last first.
    merged = jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *(p.finished for p in reversed(parts)))
    complete = jnp.concatenate([p.complete for p in reversed(parts)], axis=1)
    ranks = jnp.where(complete, merged.scores, -jnp.inf)
    return merged.take(jax.lax.top_k(ranks, ranks.shape[1])[1])


def group_beam_search(request: Request) -> GenerateOutput | jax.Array:
    """The mode of group beam search. Raises ConfigError for numbers that do not go together."""
    check_groups(request)
    c = request.config
    ends = Ends.of(request)
    rules = beam_rules(request).replace(
        fill=jnp.asarray(c.pad if c.pad is not None else 0, jnp.int32),
        own=jnp.asarray(c.diversity_penalty, jnp.float32),
    )
    strategy = GroupBeamSearch(c.num_beams, c.num_beam_groups, ends.criteria)
    search, recording = searched(request, strategy, rules, ends)
    return answer(request, search, best_of(search.books, search.frame, rules), recording)


def check_groups(request: Request) -> None:
    """Raise ConfigError for a request that groups cannot answer."""
    c = request.config
    beams, groups = c.num_beams, c.num_beam_groups
    if c.do_sample:
        raise ConfigError("group beam search does not draw: set do_sample=False, or num_beam_groups=1")
    if beams % groups:
        raise ConfigError(f"num_beams is {beams} and num_beam_groups is {groups}; expected a multiple of it")
    if not c.diversity_penalty > 0:
        raise ConfigError(
            f"diversity_penalty is {c.diversity_penalty}; with num_beam_groups it has to be greater than 0, "
            "for without it all groups would write the same"
        )
    if request.writer.sides > 1:
        raise ConfigError("guidance_scale does not go with num_beam_groups; leave one of them out")
