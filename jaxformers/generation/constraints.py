"""What a text must contain: phrases, and choices of phrases; as values, and as tables that a compiled loop can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxformers.core.errors import ConfigError
from jaxformers.generation.buckets import row_bucket

NOTHING = -1  # no token, no constraint, no place


@dataclass(frozen=True)
class PhrasalConstraint:
    """The text contains these tokens, one after another."""

    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", word("token_ids", self.token_ids))

    @property
    def words(self) -> tuple[tuple[int, ...], ...]:
        """What may be written, one of it."""
        return (self.token_ids,)


@dataclass(frozen=True)
class DisjunctiveConstraint:
    """The text contains one of these words, each a list of tokens; none may be the beginning of another."""

    nested_token_ids: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        given = self.nested_token_ids
        if not isinstance(given, (list, tuple)) or not given:
            raise ConfigError(f"`nested_token_ids` has to be a list of lists of token ids, but is {given!r}")
        words = tuple(word("nested_token_ids", one) for one in given)
        if sum(not below for below in trie(words)) != len(words):
            raise ConfigError(f"`nested_token_ids` has a word twice, or one that begins with another: {given!r}")
        object.__setattr__(self, "nested_token_ids", words)

    @property
    def words(self) -> tuple[tuple[int, ...], ...]:
        """What may be written, one of it."""
        return self.nested_token_ids


Constraint = PhrasalConstraint | DisjunctiveConstraint


def word(name: str, given: Any) -> tuple[int, ...]:
    """Tokens in a row. Raises ConfigError for anything else."""
    right = isinstance(given, (list, tuple)) and len(given) > 0
    if not right or any(isinstance(t, bool) or not isinstance(t, (int, np.integer)) or t < 0 for t in given):
        raise ConfigError(f"`{name}` has to hold lists of token ids that are not empty, but has {given!r}")
    return tuple(int(t) for t in given)


def constraints_of(constraints: Sequence[Constraint] | None, force_words_ids: Any) -> tuple[Constraint, ...]:
    """The constraints of a config: its own, then its words. Raises ConfigError for what is neither."""
    found = list(constraints or ())
    for one in found:
        if not isinstance(one, (PhrasalConstraint, DisjunctiveConstraint)):
            raise ConfigError(f"constraints hold {one!r}; expected a PhrasalConstraint or a DisjunctiveConstraint")
    if force_words_ids is not None and (not isinstance(force_words_ids, (list, tuple)) or not force_words_ids):
        raise ConfigError(
            f"`force_words_ids` has to be a list of words, each a list of token ids, or of lists of such words to "
            f"choose from, but is {force_words_ids!r}"
        )
    for one in force_words_ids or ():
        choice = isinstance(one, (list, tuple)) and len(one) > 0 and isinstance(one[0], (list, tuple))
        found.append(DisjunctiveConstraint(one) if choice else PhrasalConstraint(one))
    if not found:
        raise ConfigError("constraints are empty: give one at least, or leave them out")
    return tuple(found)


@struct.dataclass
class Tables:
    """C constraints as tries of up to N nodes with up to A children; node 0 is the root, -1 is nothing."""

    tokens: jax.Array  # Int [C,N,A]: what leads to a child
    children: jax.Array  # Int [C,N,A]
    leaf: jax.Array  # Bool [C,N]
    credit: jax.Array  # Int [C,N]: what being at a node counts for, when banks are compared
    pushed: jax.Array  # Int [C,N,A]: what the text counts for that goes on with a child
    longest: jax.Array  # Int []: tokens of the longest word, what a fulfilled constraint counts for
    count: jax.Array  # Int []: how many constraints there are; the others fill the bucket


def tables_of(constraints: Sequence[Constraint]) -> Tables:
    """The tables of some constraints, in buckets, so that others of about their size run the same programs."""
    tries = [trie(one.words) for one in constraints]
    nodes = max(len(t) for t in tries)
    degree = max(len(children) for t in tries for children in t)
    longest = max(len(w) for one in constraints for w in one.words)
    shape = (row_bucket(len(tries)), row_bucket(max(nodes, 8)), row_bucket(degree))
    tokens, children, pushed = (np.full(shape, fill, np.int32) for fill in (NOTHING, NOTHING, 0))
    leaf, credit = np.zeros(shape[:2], bool), np.zeros(shape[:2], np.int32)
    for c, (one, nodes_of) in enumerate(zip(constraints, tries, strict=True)):
        missing = longest - max(len(w) for w in one.words)
        depth = depths(nodes_of)
        for n, below in enumerate(nodes_of):
            leaf[c, n], credit[c, n] = not below, missing + depth[n]
            tokens[c, n, : len(below)], children[c, n, : len(below)] = list(below), list(below.values())
            pushed[c, n, : len(below)] = credits_of_children(nodes_of, n, depth, missing, longest)
    arrays = (jnp.asarray(x) for x in (tokens, children, leaf, credit, pushed, np.int32(longest), np.int32(len(tries))))
    return Tables(*arrays)


def trie(words: tuple[tuple[int, ...], ...]) -> list[dict[int, int]]:
    """Nodes of a trie, the root first: token -> child, in the order in which the words brought them."""
    nodes: list[dict[int, int]] = [{}]
    for one in words:
        at = 0
        for token in one:
            if token not in nodes[at]:
                nodes[at][token] = len(nodes)
                nodes.append({})
            at = nodes[at][token]
    return nodes


def depths(nodes: list[dict[int, int]]) -> list[int]:
    """How many tokens lead to each node; children come after their parents."""
    out = [0] * len(nodes)
    for n, below in enumerate(nodes):
        for child in below.values():
            out[child] = out[n] + 1
    return out


def credits_of_children(
    nodes: list[dict[int, int]], node: int, depth: list[int], missing: int, longest: int
) -> list[int]:
    """What continuing with each child of a node counts for, as transformers 4 counts it.

    There all children of a node that is under way share one list of what was written, so that each sees the tokens of
    those before it: a later child seems to break the word unless it fits after them.
    """
    at, out = node, []
    for token in nodes[node]:
        fits = token in nodes[at]
        at = nodes[at][token] if fits else at
        out.append("broken" if not fits else "whole" if not nodes[at] else "part")
    worth = {"broken": 0, "whole": longest, "part": missing + depth[at]}
    return [worth[one] for one in out]


@struct.dataclass
class Progress:
    """How far texts [...] are with their constraints."""

    active: jax.Array  # Int [...]: the constraint under way, -1 for none
    node: jax.Array  # Int [...]: where in it
    place: jax.Array  # Int [...,C]: the order in which waiting constraints are looked at, -1 for those that do not wait

    @property
    def complete(self) -> jax.Array:
        """Bool [...]: whether nothing waits or is under way."""
        return (self.active < 0) & jnp.all(self.place < 0, axis=-1)


def nothing_done(shape: tuple[int, ...], tables: Tables) -> Progress:
    """The progress of empty texts."""
    at = jnp.arange(tables.leaf.shape[0], dtype=jnp.int32)
    at = jnp.where(at < tables.count, at, NOTHING)
    none = jnp.full(shape, NOTHING, jnp.int32)
    return Progress(none, jnp.zeros(shape, jnp.int32), jnp.broadcast_to(at, (*shape, len(at))))


def advanced(progress: Progress, token: jax.Array, tables: Tables) -> Progress:
    """The progress [...] after one token [...] more; a token serves one constraint only."""
    active, place = progress.active, progress.place
    under_way = active >= 0
    waiting = place >= 0
    starts = waiting & jnp.any(tables.tokens[:, 0] == token[..., None, None], axis=-1)
    rank = jnp.where(starts, place, jnp.iinfo(jnp.int32).max)
    chosen = jnp.where(under_way, active, jnp.argmin(rank, axis=-1).astype(jnp.int32))
    node = jnp.where(under_way, progress.node, 0)
    match = tables.tokens[chosen, node] == token[..., None]
    steps = jnp.any(match, axis=-1) & (under_way | jnp.any(starts, axis=-1))
    child = jnp.sum(jnp.where(match, tables.children[chosen, node], 0), axis=-1)
    whole = steps & tables.leaf[chosen, child]
    goes_on = steps & ~whole
    one = jax.nn.one_hot(chosen, place.shape[-1], dtype=jnp.int32) > 0
    last = jnp.max(place, axis=-1, keepdims=True) + 1  # a broken word waits behind the others
    place = jnp.where(one & steps[..., None], NOTHING, place)
    place = jnp.where(one & (under_way & ~steps)[..., None], last, place)
    return Progress(jnp.where(goes_on, chosen, NOTHING), jnp.where(goes_on, child, 0), place)


def bank(progress: Progress, tables: Tables) -> jax.Array:
    """Int [...]: how much of the constraints is fulfilled."""
    part = jnp.where(progress.active >= 0, tables.credit[progress.active, progress.node], 0)
    return fulfilled(progress, tables) * tables.longest + part


def fulfilled(progress: Progress, tables: Tables) -> jax.Array:
    """Int [...]: how many constraints are fulfilled."""
    waiting = jnp.sum(progress.place >= 0, axis=-1)
    return tables.count - waiting - (progress.active >= 0)


def pushes(progress: Progress, tables: Tables) -> tuple[jax.Array, jax.Array]:
    """Tokens [...,W] that bring a text forward, -1 for none, and for a constraint under way what each counts for."""
    count, _, degree = tables.tokens.shape
    under_way = (progress.active >= 0)[..., None]
    more = [(0, 0)] * progress.active.ndim + [(0, count * degree - degree)]
    inner, worth = (
        jnp.pad(table[progress.active, progress.node], more, constant_values=NOTHING)
        for table in (tables.tokens, tables.pushed)
    )
    roots = jnp.where((progress.place >= 0)[..., None], tables.tokens[:, 0], NOTHING)
    return jnp.where(under_way, inner, roots.reshape(*progress.node.shape, -1)), worth


def promised(before: Progress, after: Progress, worth: jax.Array, tables: Tables) -> jax.Array:
    """Banks Int [...] of texts after a token that brought them forward. worth: what `pushes` said of the token."""
    started = fulfilled(before, tables) * tables.longest + worth
    return jnp.where(before.active >= 0, started, bank(after, tables))
