"""The loop of every beam search: two programs, one reads the prompt and one writes until a column.

What differs between searches is a Strategy, which keeps the books; the loop moves the cache's rows as the books say.
"""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxformers.core.rows import grow, reorder_rows, take_rows
from jaxformers.core.state import Cache
from jaxformers.generation.beam_state import BeamRules, Hypotheses, newest
from jaxformers.generation.loop import cast, follow
from jaxformers.generation.seen import Seen
from jaxformers.generation.stopping import Criterion
from jaxformers.generation.transform import LogitsTransform
from jaxformers.generation.writer import Prompt, Writer
from jaxformers.hub.model import Model


class Books(Protocol):
    """What a strategy knows of its texts; a pytree."""

    running: Hypotheses  # K of each prompt, the last column's origins being the beams that they go on from
    over: jax.Array  # Bool []

    def replace(self, **changes: Any) -> Any: ...


class Strategy(Protocol):
    """How to choose among continuations; static and hashable."""

    width: int  # K

    def start(self, tokens: jax.Array, frame: Seen, rules: BeamRules) -> Any:
        """Books of the prompts in tokens [B,L]."""
        ...

    def step(
        self,
        books: Any,
        logits: jax.Array,
        frame: Seen,
        transforms: LogitsTransform,
        rules: BeamRules,
        key: jax.Array | None,
    ) -> tuple[Any, jax.Array]:
        """Books with one token more, and the log-probabilities [B*K,V] after the transforms. logits [B*K,V]."""
        ...


@struct.dataclass
class Search:
    """Texts being searched: R = B * K rows."""

    books: Any
    frame: Seen  # without tokens, which the books have
    cache: Cache  # 2R rows where a negative prompt is read beside, its own last
    key: jax.Array | None = None

    @property
    def seen(self) -> Seen:
        """What the transforms see."""
        return seen_by(self.frame, self.books.running)


def seen_by(frame: Seen, running: Hypotheses) -> Seen:
    """The frame around the tokens of some beams, [B*N,L]."""
    return frame.replace(tokens=running.tokens.reshape(-1, running.tokens.shape[-1]))


def put(search: Search, logits: jax.Array, transforms: LogitsTransform, rules: BeamRules, strategy: Strategy):
    """One step of the books. Returns the search and the log-probabilities after the transforms."""
    key = None if search.key is None else jax.random.fold_in(search.key, search.frame.new)
    books, scores = strategy.step(search.books, logits, search.frame, transforms, rules, key)
    return search.replace(books=books, frame=search.frame.replace(end=search.frame.end + 1)), scores


def read_on(model: Model, writer: Writer, search: Search) -> tuple[jax.Array, Search, dict[str, Any]]:
    """Read the last token of every beam, in the cache of the beam that it goes on from."""
    order = newest(search.books.running.origins, search.frame.end - 1).reshape(-1)
    rows = jnp.concatenate([order + side * len(order) for side in range(writer.sides)])
    # Beams often keep their order, and a condition costs less than a copy of the cache.
    moved = jnp.any(order != jnp.arange(len(order)))
    cache = jax.lax.cond(moved, reorder_rows, lambda cache, rows: cache, search.cache, rows)
    logits, cache, records = follow(model, writer, search.replace(cache=cache))
    return logits, search.replace(cache=cache), records


@partial(jax.jit, static_argnames=("writer", "capacity", "dtype", "strategy"))
def begin(
    model: Model,
    writer: Writer,
    prompt: Prompt,
    transforms: LogitsTransform,
    rules: BeamRules,
    key: jax.Array | None,
    *,
    capacity: int,
    dtype: Any,
    strategy: Strategy,
) -> tuple[Search, dict[str, Any]]:
    """Read the prompt once for all its beams, and choose their first tokens.

    Returns the search and what the step saw: scores, logits, records.
    """
    logits, cache, records = writer.prefill(model, prompt, capacity, dtype)
    count = len(prompt.tokens) // writer.sides
    order = jnp.repeat(jnp.arange(count), strategy.width)
    rows = jnp.concatenate([order + side * count for side in range(writer.sides)])
    seen = prompt.seen(capacity)
    source = seen.encoder_tokens
    frame = seen.replace(tokens=None, encoder_tokens=None if source is None else source[:count])
    books = strategy.start(seen.tokens[:count], frame, rules)
    search = Search(books, frame, take_rows(cache, rows), key)
    search, scores = put(search, logits[rows], transforms, rules, strategy)
    return search, {"scores": scores, "logits": logits[order], "records": records}


@partial(jax.jit, static_argnames=("writer", "strategy"), donate_argnames=("search",))
def write(
    model: Model, writer: Writer, search: Search, transforms: LogitsTransform, rules: BeamRules, *, strategy: Strategy
) -> Search:
    """Write tokens until the search is over or column `rules.pause` is reached."""
    model = cast(model)

    def unfinished(search: Search) -> jax.Array:
        return (search.frame.end < rules.pause) & ~search.books.over

    def one(search: Search) -> Search:
        logits, search, _ = read_on(model, writer, search)
        return put(search, logits, transforms, rules, strategy)[0]

    return jax.lax.while_loop(unfinished, one, search)


@partial(jax.jit, static_argnames=("writer", "strategy"), donate_argnames=("search",))
def write_one(
    model: Model, writer: Writer, search: Search, transforms: LogitsTransform, rules: BeamRules, *, strategy: Strategy
) -> tuple[Search, dict[str, Any]]:
    """Write one token, and return what the step saw as `begin` does."""
    logits, search, records = read_on(model, writer, search)
    search, scores = put(search, logits, transforms, rules, strategy)
    return search, {"scores": scores, "logits": logits[: len(scores)], "records": records}


@partial(jax.jit, static_argnames=("length",))
def lengthen(search: Search, fill: jax.Array, length: int) -> Search:
    """Room for `length` columns, in the cache and in every text of the books."""

    def longer(x: Any) -> Any:
        if not isinstance(x, Hypotheses):
            return x
        more = ((0, 0), (0, 0), (0, length - x.tokens.shape[2]))
        return x.replace(
            tokens=jnp.pad(x.tokens, more, constant_values=fill), origins=jnp.pad(x.origins, more, constant_values=-1)
        )

    books = jax.tree.map(longer, search.books, is_leaf=lambda x: isinstance(x, Hypotheses))
    return search.replace(books=books, cache=grow(search.cache, length))


def judged(criteria: tuple[Criterion, ...], tokens: jax.Array, frame: Seen, end: jax.Array, rows: jax.Array):
    """Bool [B,N]: which of the texts [B,N,L] the caller's criteria call finished; asked on the host.

    end Int []: the column after the last token. rows Int []: texts from there on are not asked about.
    """
    shape = jax.ShapeDtypeStruct(tokens.shape[:2], bool)
    if not criteria:
        return jnp.zeros(shape.shape, bool)
    return jax.pure_callback(partial(ask, criteria), shape, tokens, frame.start, end, rows)


def ask(criteria: tuple[Criterion, ...], tokens: Any, start: Any, end: Any, rows: Any) -> np.ndarray:
    """Put all texts before each criterion."""
    tokens = np.asarray(tokens)
    written = tokens[: int(rows), :, int(start) : int(end)]
    out = np.zeros(tokens.shape[:2], bool)
    flat = written.reshape(-1, written.shape[-1])
    for criterion in criteria:
        found = np.broadcast_to(np.asarray(criterion(flat, None)).astype(bool), len(flat))
        out[: int(rows)] |= found.reshape(written.shape[:2])
    return out
