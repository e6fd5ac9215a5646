"""Whisper's tokenizer: prefixes for language, task and time stamps, and decoding of what Whisper writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.decoding import ids_of, is_batch
from jaxformers.processing.english_text import basic_normalize, english_normalize
from jaxformers.processing.settings import Settings
from jaxformers.processing.tokenizer import Tokenizer
from jaxformers.processing.transcript import transcript
from jaxformers.processing.whisper_languages import LANGUAGES, TASKS, language_code
from jaxformers.processing.whisper_timestamps import FRAMES, segments, text_with_stamps

STAMP = re.compile(r"<\|(\d+\.\d+)\|>")
SPELLINGS = "normalizer.json"  # British spellings and their American ones


class WhisperTokenizer(Tokenizer):
    """Byte-level pieces. A text begins with tokens for its language and task, `set_prefix_tokens` says which."""

    def __init__(self, backend: tokenizers.Tokenizer, settings: Settings):
        super().__init__(backend, settings)
        options = settings.options
        self.language: str | None = options.get("language")
        self.task: str | None = options.get("task")
        self.predict_timestamps = bool(options.get("predict_timestamps", False))
        self.english_spelling_normalizer = _spellings(Path(settings.name_or_path))

    @property
    def timestamp_begin(self) -> int:
        """Return the id of the time stamp of zero seconds."""
        return self.all_special_ids[-1] + 1

    def timestamp_ids(self, time_precision: float = 0.02) -> list[int]:
        """Return the ids of the stamps of a window of 30 seconds."""
        return self.convert_tokens_to_ids([f"<|{i * time_precision:.2f}|>" for i in range(FRAMES + 1)])

    @property
    def prefix_tokens(self) -> list[int]:
        """Return the ids that a text begins with. Raises ValueError on an unknown language or task."""
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"Whisper's tasks are {list(TASKS)}, not {self.task!r}")
        start = self.convert_tokens_to_ids("<|startoftranscript|>")
        ids = [start]
        if self.language is not None:
            ids.append(start + 1 + list(LANGUAGES).index(language_code(self.language)))
        if self.task is not None:
            ids.append(self.convert_tokens_to_ids(f"<|{self.task}|>"))
        if not self.predict_timestamps:
            ids.append(self.convert_tokens_to_ids("<|notimestamps|>"))
        return ids

    def set_prefix_tokens(
        self, language: str | None = None, task: str | None = None, predict_timestamps: bool | None = None
    ) -> None:
        """Change what texts begin with; None leaves a part as it is."""
        before = self.language, self.task, self.predict_timestamps
        self.language = self.language if language is None else language.lower()
        self.task = self.task if task is None else task
        self.predict_timestamps = self.predict_timestamps if predict_timestamps is None else predict_timestamps
        try:
            self.update_post_processor()
        except ValueError:
            self.language, self.task, self.predict_timestamps = before
            raise

    def update_post_processor(self) -> None:
        """Make the backend write the prefix before a text and `eos_token` behind it."""
        ids = self.prefix_tokens
        tokens = [self._backend.id_to_token(index) for index in ids]
        if None in tokens:
            raise ValueError(f"this vocabulary has no token for the language {self.language!r}")
        prefix = " ".join(f"{token}:0" for token in tokens)
        named = dict(zip(tokens, ids, strict=True)) | {self.eos_token: self.eos_token_id}
        self._backend.post_processor = TemplateProcessing(
            single=f"{prefix} $A:0 {self.eos_token}:0",
            pair=f"{prefix} $A:0 $B:1 {self.eos_token}:1",
            special_tokens=list(named.items()),
        )

    def get_decoder_prompt_ids(
        self, task: str | None = None, language: str | None = None, no_timestamps: bool = True
    ) -> list[tuple[int, int]]:
        """Set the prefix and return its place and id in the decoder, without the first token."""
        self.set_prefix_tokens(language, task, predict_timestamps=not no_timestamps)
        return list(enumerate(self.prefix_tokens[1:], 1))

    def get_prompt_ids(self, text: str, return_tensors: str | None = "np") -> Any:
        """Return the ids of a prompt for `generate`. Raises ValueError when the text holds special tokens."""
        encoded = self("<|startofprev|>", " " + text.strip(), add_special_tokens=False)
        special = next((index for index in encoded["input_ids"][1:] if index >= self.all_special_ids[0]), None)
        if special is not None:
            raise ValueError(f"the prompt holds the special token {self.convert_ids_to_tokens(special)}: take it out")
        return encoded.convert_to_tensors(return_tensors)["input_ids"]

    def without_prompt(self, token_ids: Sequence[int]) -> list[int]:
        """Return ids without a prompt before <|startoftranscript|>."""
        ids = list(token_ids)
        if not ids or ids[0] != self.convert_tokens_to_ids("<|startofprev|>"):
            return ids
        start = self.convert_tokens_to_ids("<|startoftranscript|>")
        return ids[ids.index(start) :] if start in ids else []

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        output_offsets: bool = False,
        time_precision: float = 0.02,
        decode_with_timestamps: bool = False,
        **options: Any,
    ) -> Any:
        """Return the text of ids, or texts of a batch; with `output_offsets` `{"text", "offsets"}`.

        `normalize=True` makes an English text comparable, `basic_normalize=True` one of any language, without accents
        with `remove_diacritics=True`. Time stamps are left out, or written as "<|1.08|>" by `decode_with_timestamps`.
        """
        ids = ids_of(token_ids)
        if is_batch(ids):
            rest = (skip_special_tokens, clean_up_tokenization_spaces, output_offsets, time_precision)
            return [self.decode(row, *rest, decode_with_timestamps, **options) for row in ids]
        kept = self.without_prompt(ids) if skip_special_tokens else ids

        def plain(part: list[int]) -> str:
            return super(WhisperTokenizer, self).decode(part, skip_special_tokens)

        if decode_with_timestamps:
            text = text_with_stamps(kept, self.timestamp_begin, time_precision, plain)
        else:
            text = super().decode(kept, skip_special_tokens, clean_up_tokenization_spaces, **options)
            text = STAMP.sub("", text)
        if not output_offsets:
            return text
        unstamped = segments(
            ids,
            self.timestamp_begin,
            time_precision,
            lambda part: STAMP.sub("", super(WhisperTokenizer, self).decode(part)),
        )
        return {"text": text, "offsets": unstamped}

    def _text(  # type: ignore[override]
        self,
        ids: list[int],
        skip: bool,
        clean: bool,
        normalize: bool = False,
        basic_normalize: bool = False,
        remove_diacritics: bool = False,
    ) -> str:
        text = super()._text(ids, skip, clean)
        if normalize:
            return self.normalize(text)
        return self.basic_normalize(text, remove_diacritics) if basic_normalize else text

    def normalize(self, text: str) -> str:
        """Make an English text comparable. Raises ValueError when the checkpoint has no normalizer.json."""
        if self.english_spelling_normalizer is None:
            raise ValueError(f"this checkpoint has no {SPELLINGS}, the list of spellings: use basic_normalize")
        return english_normalize(text, self.english_spelling_normalizer)

    basic_normalize = staticmethod(basic_normalize)

    def decode_asr(self, model_outputs: Iterable[Mapping[str, Any]], **options: Any) -> tuple[str, dict[str, Any]]:
        """Merge the outputs for pieces of a recording; see `jaxformers.processing.transcript.transcript`."""
        return transcript(self, model_outputs, **options)

    _decode_asr = decode_asr

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Return tokenizer.json, and the list of spellings if there is one."""
        files = super().vocabulary_files()
        if self.english_spelling_normalizer is not None:
            text = json.dumps(self.english_spelling_normalizer, indent=2, sort_keys=True, ensure_ascii=False)
            files[SPELLINGS] = text + "\n"
        return files

    def saved_options(self) -> dict[str, Any]:
        """Return language, task and whether time stamps are predicted."""
        return {"language": self.language, "task": self.task, "predict_timestamps": self.predict_timestamps}


def _spellings(path: Path) -> dict[str, str] | None:
    file = (path if path.is_dir() else path.parent) / SPELLINGS
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
