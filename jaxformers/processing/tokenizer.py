"""Tokenizers from tokenizer.json: text in, model inputs out, id for id what transformers' fast tokenizers give."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from jaxformers.processing import chat
from jaxformers.processing.batch import BatchEncoding, collect
from jaxformers.processing.decoding import clean_up, ids_of, is_batch
from jaxformers.processing.padding import enable_truncation, pad_batch, resolve_lengths, side
from jaxformers.processing.settings import Settings
from jaxformers.processing.special_tokens import SpecialTokens
from jaxformers.processing.texts import encode_rows, rows_of

log = logging.getLogger(__name__)


class Tokenizer(SpecialTokens):
    """Text to model inputs and back. `tokenizer(text)` encodes, `tokenizer.decode(ids)` decodes.

    Special tokens are attributes: `pad_token`, `pad_token_id`, `eos_token`. Safe to share between threads.
    """

    is_fast = True
    pad_token_type_id = 0

    def __init__(self, backend: tokenizers.Tokenizer, settings: Settings):
        self._backend = backend
        self._named = dict(settings.named)
        self._extra = list(settings.extra)
        self._lock = threading.RLock()
        self._settings = settings
        self._warned_length = False
        # The file's own truncation and padding are kept for saving and never applied: a call says what it wants.
        self._file_truncation, self._file_padding = backend.truncation, backend.padding
        backend.no_truncation()
        backend.no_padding()
        self.model_max_length = settings.model_max_length
        self.padding_side = side("padding_side", settings.padding_side)
        self.truncation_side = side("truncation_side", settings.truncation_side)
        self.model_input_names = list(settings.model_input_names)
        self.clean_up_tokenization_spaces = settings.clean_up_tokenization_spaces
        self.split_special_tokens = settings.split_special_tokens
        self.chat_template = settings.chat_template
        self.name_or_path = settings.name_or_path

    @classmethod
    def from_pretrained(cls, path: str | Path, **overrides: Any) -> Tokenizer:
        """Load a local folder or tokenizer.json; overrides replace keys of tokenizer_config.json.

        Raises CheckpointError when the vocabulary is missing or a file cannot be read.
        """
        from jaxformers.processing.tokenizer_files import load_tokenizer

        return load_tokenizer(Path(path), overrides, cls)

    def save_pretrained(self, folder: str | Path) -> tuple[str, ...]:
        """Write tokenizer.json, tokenizer_config.json and chat templates; returns the paths written."""
        from jaxformers.processing.tokenizer_files import save_tokenizer

        return save_tokenizer(self, Path(folder))

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Return the files that hold the vocabulary, by name."""
        return {"tokenizer.json": self.backend_json()}

    def saved_options(self) -> dict[str, Any]:
        """Return keys of tokenizer_config.json that this class writes beside the options it was loaded with."""
        return {}

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        max_target_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Encode a text, a pair, pre-split words, or a batch of any of these; the target's ids become `labels`."""
        options = {
            key: value
            for key, value in locals().items()
            if key not in ("self", "text", "text_pair", "text_target", "text_pair_target", "max_target_length")
        }
        if text is None and text_target is None:
            raise ValueError("give the tokenizer a text or a text_target")
        target = {**options, "max_length": max_target_length or max_length}
        if text is None:
            return self._encode(text_target, text_pair_target, **target)
        encoded = self._encode(text, text_pair, **options)
        if text_target is not None:
            encoded["labels"] = self._encode(text_target, text_pair_target, **target)["input_ids"]
        return encoded

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return only the ids of `tokenizer(text, text_pair, **options)`."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """Return the tokens of a text as strings."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def _encode(self, text: Any, pair: Any, *, is_split_into_words: bool, **o: Any) -> BatchEncoding:
        rows, batched = self._rows(text, pair, is_split_into_words)
        lengths = resolve_lengths(self, o["padding"], o["truncation"], o["max_length"], o["pad_to_multiple_of"])
        truncation_side = side("truncation_side", self.truncation_side)
        padding_side = side("padding_side", o["padding_side"] or self.padding_side)
        cut: dict[str, Any] = {}
        pad: dict[str, Any] = {}
        if lengths.truncation:
            cut = {"max_length": lengths.max_length, "stride": o["stride"]}
            cut |= {"strategy": lengths.truncation, "direction": truncation_side}
        if lengths.padding:
            pad = {"length": lengths.max_length if lengths.padding == "max_length" else None}
            pad |= {"direction": padding_side, "pad_to_multiple_of": o["pad_to_multiple_of"]}
            pad |= {"pad_id": self.pad_token_id, "pad_token": self.pad_token, "pad_type_id": self.pad_token_type_id}
        split = self.split_special_tokens if o["split_special_tokens"] is None else o["split_special_tokens"]
        with self._configured(cut, pad, split) as backend:
            encodings = encode_rows(backend, rows, o["add_special_tokens"], is_split_into_words, cut)
        batch = collect(encodings, self.model_input_names, o)
        if o["max_length"] is None and o["verbose"]:
            self._warn_too_long(batch["input_ids"])
        if not batched and o["return_tensors"] is None and not o["return_overflowing_tokens"]:
            data = {key: value[0] if isinstance(value[0], list) else value for key, value in batch.data.items()}
            return BatchEncoding(data, batch.encodings)
        return batch.convert_to_tensors(o["return_tensors"])

    def backend_json(self) -> str:
        """Return tokenizer.json, with the truncation and padding that the loaded file had."""
        with self._configured(self._file_truncation, self._file_padding, False) as backend:
            return backend.to_str(pretty=True)

    @contextmanager
    def _configured(self, truncation: Any, pad: Any, split: bool) -> Iterator[tokenizers.Tokenizer]:
        """Lend the backend with these settings to one call at a time: they live in the backend, not in the call."""
        with self._lock:
            try:
                self._backend.encode_special_tokens = split
                if truncation:
                    enable_truncation(self._backend, truncation)
                if pad:
                    self._backend.enable_padding(**pad)
                yield self._backend
            finally:
                self._backend.no_truncation()
                self._backend.no_padding()
                self._backend.encode_special_tokens = self.split_special_tokens

    def _warn_too_long(self, rows: Sequence[Sequence[int]]) -> None:
        longest = max(map(len, rows), default=0)
        if longest > self.model_max_length > 0 and not self._warned_length:
            self._warned_length = True
            log.warning(
                "a text has %d tokens and the model takes %d: pass truncation=True or shorten it",
                longest,
                self.model_max_length,
            )

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the text of ids, or a list of texts for a batch of ids; arrays are welcome."""
        ids = ids_of(token_ids)
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        if is_batch(ids):
            return [self._text(row, skip_special_tokens, clean, **options) for row in ids]
        return self._text(ids, skip_special_tokens, clean, **options)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the text of each row of ids."""
        decoded = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **options)
        return [decoded] if isinstance(decoded, str) else decoded

    def _text(self, ids: list[int], skip: bool, clean: bool) -> str:
        """Return the text of one row of ids."""
        text = self._backend.decode(ids, skip_special_tokens=skip)
        if self._settings.word_end:
            text = text.replace(self._settings.word_end, " ").strip()
        # BPE keeps its own spaces, so the repairs made for word pieces would delete real ones.
        byte_pairs = isinstance(self._backend.model, tokenizers.models.BPE)
        return clean_up(text) if clean and (self._settings.force_clean_up or not byte_pairs) else text

    clean_up_tokenization = staticmethod(clean_up)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join tokens into text as the decoder does."""
        decoder = self._backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad ids that are already encoded; made to collate examples into a batch."""
        return pad_batch(
            self,
            encoded_inputs,
            resolve_lengths(self, padding, False, max_length),
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    _rows = staticmethod(rows_of)
    apply_chat_template = chat.apply_chat_template
    encode_message_with_chat_template = chat.encode_message_with_chat_template

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Return the template a conversation would be rendered with."""
        return chat.choose_template(self.chat_template, chat_template, tools)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens encoding one text, or a pair, adds."""
        return self._backend.num_special_tokens_to_add(pair)

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the keys of tokenizer_config.json, with the overrides given at loading."""
        return self._settings.options

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """Return the underlying `tokenizers.Tokenizer`."""
        return self._backend

    @property
    def vocab_size(self) -> int:
        """Return the size of the vocabulary without added tokens; `len(tokenizer)` counts those too."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added ones included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def __repr__(self) -> str:
        return (
            f"Tokenizer({self._settings.class_name}, {len(self)} tokens, model_max_length={self.model_max_length}, "
            f"padding_side={self.padding_side!r}, special_tokens={self.special_tokens_map})"
        )
