"""Constrained beam search: texts that bring the constraints forward run beside those that the model likes best."""

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
from jaxformers.generation.beam_state import BeamRules, Hypotheses, first_numbers, newest, put_token, take_along
from jaxformers.generation.constraints import (
    Progress,
    Tables,
    advanced,
    bank,
    constraints_of,
    nothing_done,
    promised,
    pushes,
    tables_of,
)
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.request import Request
from jaxformers.generation.seen import Seen
from jaxformers.generation.stopping import Criterion, Ends
from jaxformers.generation.transform import LogitsTransform

BANK = 100.0  # what a step of progress is worth in log-probability, when texts are put in order


@struct.dataclass
class Constrained:
    """The books of a constrained search."""

    scorer: Scorer
    progress: Progress  # [B,K], of the running texts
    over: jax.Array  # Bool []

    @property
    def running(self) -> Hypotheses:
        """The running texts."""
        return self.scorer.running


@struct.dataclass
class Proposals:
    """Ways to go on, N for each prompt: the beam to go on from, the token, and the total score, each [B,N]."""

    beam: jax.Array
    token: jax.Array
    score: jax.Array

    def take(self, chosen: jax.Array) -> "Proposals":
        """Those that chosen Int [B,M] names."""
        return jax.tree.map(lambda x: take_along(x, chosen), self)

    def beside(self, others: "Proposals") -> "Proposals":
        """These, followed by the others."""
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), self, others)


@dataclass(frozen=True)
class ConstrainedBeamSearch:
    """K beams, some of which are kept for bringing the constraints in `rules.own` (Tables) forward."""

    width: int
    criteria: tuple[Criterion, ...] = ()

    def start(self, tokens: jax.Array, frame: Seen, rules: BeamRules) -> Constrained:
        """Equal beams, of which the first counts; the prompt may have fulfilled constraints already."""

        def read(column: jax.Array, progress: Progress) -> Progress:
            token = jax.lax.dynamic_index_in_dim(tokens, column, axis=1, keepdims=False)
            return advanced(progress, token, rules.own)

        progress = jax.lax.fori_loop(frame.start, frame.begin, read, nothing_done((len(tokens),), rules.own))
        progress = jax.tree.map(lambda x: jnp.repeat(x[:, None], self.width, axis=1), progress)
        scorer = first_scorer(tokens, self.width, rules.fill, frame.begin)
        return Constrained(scorer, progress, jnp.asarray(False))

    def step(
        self,
        books: Constrained,
        logits: jax.Array,
        frame: Seen,
        transforms: LogitsTransform,
        rules: BeamRules,
        key: jax.Array | None,
    ) -> tuple[Constrained, jax.Array]:
        """What the model likes best and what brings constraints forward, in turns. Returns total scores [B*K,V]."""
        scorer, progress = books.scorer, books.progress
        scores = transforms(jax.nn.log_softmax(logits, axis=-1), seen_by(frame, scorer.running))
        batch = len(scorer.done)
        total = scores.reshape(batch, self.width, -1) + scorer.running.scores[:, :, None]
        first, done = first_numbers(batch, self.width), scorer.done
        found, ended = continuations(scorer, total, first, frame.end, rules)
        worthy = take_along(progress.complete, newest(found.origins, frame.end) - first[:, None])
        scorer = closed(scorer, found, ended & worthy, frame, rules)
        liked = onward(found, ended, self.width)
        beam = newest(liked.origins, frame.end) - first[:, None]
        liked = Proposals(beam, newest(liked.tokens, frame.end), liked.scores)
        chosen, progress = steered(liked, progress, scorer.running.tokens, total, rules.own)
        texts = scorer.running.take(chosen.beam).replace(scores=chosen.score)
        texts = put_token(texts, chosen.token, chosen.beam + first[:, None], frame.end)
        scorer = going(scorer, texts, done, first, frame.end, rules.pad)
        stopped = judged(self.criteria, scorer.running.tokens, frame, frame.end + 1, rules.rows)
        return Constrained(scorer, progress, over(scorer.done, stopped, frame, rules)), total.reshape(logits.shape)


def steered(
    liked: Proposals, progress: Progress, tokens: jax.Array, total: jax.Array, tables: Tables
) -> tuple[Proposals, Progress]:
    """K of the liked proposals and of those that bring a constraint forward: the best of each bank, in turns.

    tokens Int [B,K,L]: the running texts, which are equal at first. total [B,K,V].
    """
    batch, width, _ = tokens.shape
    push, worth = pushes(progress, tables)  # [B,K,W]
    score = jnp.take_along_axis(total, jnp.maximum(push, 0), axis=2)
    beam = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[:, None], push.shape)
    fresh = (push >= 0) & ~progress.complete[..., None] & ~repeated(liked, push, tokens)
    some = jnp.any(fresh, axis=(1, 2))
    beam, push, score, worth, fresh = (x.reshape(batch, -1) for x in (beam, push, score, worth, fresh))
    every = liked.beside(Proposals(beam, push, score))
    before = jax.tree.map(lambda x: take_along(x, every.beam), progress)
    after = advanced(before, every.token, tables)
    banks = bank(after, tables)
    pushed = jax.tree.map(lambda x: x[:, width:], (before, after))
    banks = banks.at[:, width:].set(promised(*pushed, worth, tables))
    valid = jnp.concatenate([jnp.ones((batch, width), bool), fresh], axis=1)
    chosen = in_turns(banks, every.score, valid)[:, :width]
    chosen = jnp.where(some[:, None], chosen, jnp.arange(width))
    return every.take(chosen), jax.tree.map(lambda x: take_along(x, chosen), after)


def repeated(liked: Proposals, push: jax.Array, tokens: jax.Array) -> jax.Array:
    """Bool [B,K,W]: whether a text to push to is among the liked ones, or among those pushed to before it."""
    same = jnp.all(tokens[:, :, None] == tokens[:, None, :], axis=-1)  # [B,K,K]
    earlier_beam = jnp.any(same & jnp.tri(tokens.shape[1], k=-1, dtype=bool), axis=2)
    twice = push[..., :, None] == push[..., None, :]
    earlier_token = jnp.any(twice & jnp.tri(push.shape[2], k=-1, dtype=bool), axis=3)
    from_same = jnp.take_along_axis(same, liked.beam[:, None, :], axis=2)  # [B,K,liked]
    among = jnp.any(from_same[:, :, None] & (push[..., None] == liked.token[:, None, None]), axis=3)
    return earlier_beam[..., None] | earlier_token | among


def in_turns(banks: jax.Array, scores: jax.Array, valid: jax.Array) -> jax.Array:
    """Int [B,N]: places of the proposals, first the best of each bank, then the second of each, and so on."""
    count = valid.shape[1]
    places = jnp.broadcast_to(jnp.arange(count), valid.shape)
    rank = -(banks * BANK + scores)
    _, _, order, banks, good = jax.lax.sort((~valid, rank, places, banks, valid), dimension=1, num_keys=2)
    changes = jnp.concatenate([jnp.ones((len(banks), 1), bool), banks[:, 1:] != banks[:, :-1]], axis=1)
    turn = places - jax.lax.cummax(jnp.where(changes, places, 0), axis=1)
    turn = jnp.where(good, turn, count)
    return take_along(order, jnp.argsort(turn, axis=1, stable=True))


@jax.jit
def best_of(books: Constrained, wanted: jax.Array, frame: Seen, rules: BeamRules) -> Hypotheses:
    """The finished texts and the running ones that fulfil the constraints; all running ones where those are too few."""
    complete = books.progress.complete
    enough = jnp.sum(complete, axis=1, keepdims=True) >= wanted
    return final(books.scorer, complete | ~enough, frame, rules).finished


def constrained_beam_search(request: Request) -> GenerateOutput | jax.Array:
    """The mode of constrained beam search. Raises ConfigError for numbers that do not go together."""
    c = request.config
    check_constrained(request)
    ends = Ends.of(request)
    constraints = constraints_of(request.options.get("constraints", c.constraints), c.force_words_ids)
    rules = beam_rules(request).replace(
        fill=jnp.asarray(c.pad if c.pad is not None else 0, jnp.int32), own=tables_of(constraints)
    )
    search, recording = searched(request, ConstrainedBeamSearch(c.num_beams, ends.criteria), rules, ends)
    best = best_of(search.books, jnp.asarray(c.num_return_sequences or 1), search.frame, rules)
    return answer(request, search, best, recording)


def check_constrained(request: Request) -> None:
    """Raise ConfigError for a request that a constrained search cannot answer."""
    c = request.config
    if c.num_beams < 2:
        raise ConfigError(f"num_beams is {c.num_beams}; constraints need several beams, 2 at least")
    if c.do_sample:
        raise ConfigError("constrained beam search does not draw: set do_sample=False, or leave the constraints out")
    if c.num_beam_groups > 1:
        raise ConfigError("constraints do not go with num_beam_groups; leave one of them out")
