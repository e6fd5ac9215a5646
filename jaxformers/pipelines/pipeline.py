"""Pipeline: prepare -> model in batches -> finish, for one input, many, or a stream of them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jaxformers.core.errors import InputError
from jaxformers.hub.model import Model
from jaxformers.pipelines.progress import progress
from jaxformers.pipelines.rows import LONGEST, Padding, Row, batches_of, run_batches

WINDOW = 8  # batches that are looked at together when rows are grouped by length


class PipelineInputError(InputError):
    """One input of several could not be processed. `index` says which; `results` holds the others' results."""

    def __init__(self, index: int, cause: BaseException, results: Sequence[Any] = ()) -> None:
        super().__init__(f"input {index}: {cause}")
        self.index, self.results = index, list(results)
        self.__cause__ = cause


@dataclasses.dataclass(frozen=True)
class Options:
    """What a call may say; a task's own options are fields of a subclass, with transformers' names."""


class Pipeline:
    """One task. Subclasses say how an input becomes rows, which outputs are read, and what becomes of them.

    Call it with one input for one result, with a list for a list, with any other iterable for an iterator.
    """

    task: ClassVar[str]
    heads: ClassVar[tuple[str | None, ...]]  # AutoModelFor... the task works with; None is the base model
    parts: ClassVar[tuple[str, ...]] = ("tokenizer",)
    options: ClassVar[type[Options]] = Options
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    padded: ClassVar[tuple[str, ...]] = ()  # outputs that have one entry for each token
    tokenizer: Any
    image_processor: Any
    feature_extractor: Any
    processor: Any

    def __init__(
        self,
        model: Model,
        tokenizer: Any = None,
        image_processor: Any = None,
        feature_extractor: Any = None,
        processor: Any = None,
        batch_size: int | None = None,
        source: Path | None = None,
        **options: Any,
    ) -> None:
        self.model, self.batch_size = model, batch_size
        self.source = source  # the checkpoint's folder, for tasks that read further files of it
        self.tokenizer = tokenizer or getattr(processor, "tokenizer", None)
        self.image_processor = image_processor or getattr(processor, "image_processor", None)
        self.feature_extractor = feature_extractor or getattr(processor, "feature_extractor", None)
        self.processor = processor
        missing = [part for part in self.parts if getattr(self, part) is None]
        if missing:
            raise ValueError(f"{self.task} needs a {' and a '.join(missing)}: pass {missing[0]}=...")
        if model.task not in self.heads:
            expected = " or ".join(f"AutoModelFor{h}" if h else "AutoModel" for h in self.heads)
            raise ValueError(f"{self.task} takes a model of {expected}; this one has the head {model.task}")
        self.defaults = self.read_options(self.options(), options)
        self.check()

    def check(self) -> None:
        """Refuse a model or tokenizer the task cannot work with, once, before any input."""

    def prepare(self, item: Any, options: Any) -> list[Row]:
        """Turn one input into the rows the model sees."""
        raise NotImplementedError

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Any) -> Any:
        """Turn the outputs of one input's rows into its result."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Any], options: Any) -> Mapping[str, Any]:
        """Run the model on a batch and pick the outputs that `finish` reads; each has the batch as first axis."""
        out = self.model(**batch)
        return {name: out[name] for name in self.outputs}

    def batch_options(self, options: Any, number: int) -> Any:
        """Options of one batch; `number` is another for every batch of a call."""
        return options

    def read_options(self, base: Any, given: Mapping[str, Any]) -> Any:
        """Merge keywords into options. Raises TypeError with the nearest name for one that is unknown."""
        known = [f.name for f in dataclasses.fields(base)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known) or 'no options'}"
                raise TypeError(f"{self.task} has no option {name!r}{hint}")
        return dataclasses.replace(base, **given)

    @property
    def padding(self) -> Padding:
        """How texts are padded."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return Padding({})
        pad = getattr(tokenizer, "pad_token_id", None) or 0
        limit = getattr(self.model.config, "max_position_embeddings", None) or LONGEST
        most = min(int(tokenizer.model_max_length), int(limit))
        values = {"input_ids": pad, "attention_mask": 0, "token_type_ids": tokenizer.pad_token_type_id}
        return Padding(values, most)

    def is_one(self, inputs: Any) -> bool:
        """Whether `inputs` is a single input."""
        return isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable)

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        errors: str = "raise",
        show_progress: bool | None = None,
        **options: Any,
    ) -> Any:
        """Process one input, a list, or a stream. errors="return" puts a failed input's exception in its place.

        Raises PipelineInputError for the first input of a list that fails, after all others were processed.
        """
        if errors not in ("raise", "return"):
            raise ValueError(f"errors is {errors!r}; expected 'raise' or 'return'")
        chosen = self.read_options(self.defaults, options)
        size = batch_size or self.batch_size
        if size is not None and size < 1:
            raise ValueError(f"batch_size is {size}; expected 1 or more")
        if self.is_one(inputs):
            (result,) = self.run([inputs], chosen, 1, False)
            if isinstance(result, PipelineInputError):
                if errors == "raise":
                    raise result.__cause__ or result
                return result
            return result
        if isinstance(inputs, (list, tuple)):
            results = self.run(list(inputs), chosen, size or 8, show_progress)
            bad = next((r for r in results if isinstance(r, PipelineInputError)), None)
            if bad is not None and errors == "raise":
                bad.results = results
                raise bad
            return results
        return self.stream(inputs, chosen, size, errors)

    def stream(self, inputs: Iterable[Any], options: Any, size: int | None, errors: str) -> Iterator[Any]:
        """Results in order, a window of inputs at a time; one by one when no batch_size was given."""
        window: list[Any] = []
        start, most = 0, WINDOW * size if size else 1

        def results() -> Iterator[Any]:
            for result in self.run(window, options, size or 1, False, start):
                if isinstance(result, PipelineInputError) and errors == "raise":
                    raise result
                yield result

        for item in inputs:
            window.append(item)
            if len(window) == most:
                yield from results()
                start, window = start + len(window), []
        if window:
            yield from results()

    def run(self, items: list[Any], options: Any, size: int, show: bool | None, start: int = 0) -> list[Any]:
        """Results of all items, or a PipelineInputError in the place of one that failed."""
        results: list[Any] = [None] * len(items)
        spans: list[tuple[int, int]] = []
        rows: list[Row] = []
        for i, item in enumerate(items):
            before = len(rows)
            try:
                rows += self.prepare(item, options)
            except Exception as error:
                results[i] = PipelineInputError(start + i, error)
            spans.append((before, len(rows)))
        padding = self.padding
        order = batches_of(rows, size, padding)
        outputs = run_batches(
            rows,
            progress(order, show, self.task),
            lambda batch, number: self.forward(batch, self.batch_options(options, start + number)),
            size,
            padding,
            self.padded,
        )
        for i, (item, (a, b)) in enumerate(zip(items, spans, strict=True)):
            if results[i] is None:
                try:
                    failed = next((o for o in outputs[a:b] if isinstance(o, Exception)), None)
                    if failed is not None:
                        raise failed
                    results[i] = self.finish(item, rows[a:b], outputs[a:b], options)
                except Exception as error:
                    results[i] = PipelineInputError(start + i, error)
        return results
