"""Marian's tokenizer: SentencePiece models of two languages over one vocabulary, or over one for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.batch import BatchEncoding
from jaxformers.processing.python_backend import Alphabet, Ends
from jaxformers.processing.python_tokenizer import PythonTokenizer
from jaxformers.processing.sentencepiece_alphabet import SPACE, SentencePieces, Token, read_pieces

SOURCE, TARGET, WORDS, TARGET_WORDS = "source.spm", "target.spm", "vocab.json", "target_vocab.json"


class TwoLanguages:
    """Pieces of the source or of the target language; ids come from vocab.json."""

    def __init__(self, folder: Path, separate: bool):
        self.source, self.target = (SentencePieces(read_pieces(folder / name)) for name in (SOURCE, TARGET))
        self.ids = _read_ids(folder / WORDS)
        self.target_ids = _read_ids(folder / TARGET_WORDS) if separate else self.ids
        self.tokens = {index: token for token, index in self.target_ids.items()}
        self.separate = separate
        self.of_target = False  # which language is encoded now

    def __len__(self) -> int:
        return len(self.ids)

    def pieces(self, text: str) -> Iterator[Token]:
        """Yield the code of a target language such as >>fr<< before the text, and the text's pieces."""
        skipped = text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0
        if skipped:
            yield text[:skipped], 0, skipped
        model = self.target if self.of_target else self.source
        yield from ((token, first + skipped, last + skipped) for token, first, last in model.pieces(text[skipped:]))

    def token_to_id(self, token: str) -> int | None:
        """Return the id in the vocabulary of the language that is encoded now."""
        return (self.target_ids if self.of_target else self.ids).get(token)

    def id_to_token(self, index: int) -> str | None:
        """Return the token of an id, of the target language where the languages have their own."""
        token = self.tokens.get(index)
        return self.target.id_to_token(index) if token is None else token

    def vocabulary(self) -> dict[str, int]:
        """Return the source language's tokens with their ids."""
        return dict(self.ids)

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        """Return the text of pieces of the source language."""
        return self.source.text_of(tokens)


class MarianTokenizer(PythonTokenizer):
    """Texts to translate are cut by source.spm, translations (`text_target`) by target.spm."""

    tokens = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"} | {
        "model_max_length": 512,
        "separate_vocabs": False,
        "source_lang": None,
        "target_lang": None,
    }

    @classmethod
    def read(cls, folder: Path, options: Mapping[str, Any]) -> tuple[Alphabet, dict[int, AddedToken]]:
        """Return both languages. Raises CheckpointError when the vocabulary has no unknown token."""
        languages = TwoLanguages(folder, bool(options["separate_vocabs"]))
        unknown = options["unk_token"]
        unknown = unknown["content"] if isinstance(unknown, dict) else str(unknown)
        if unknown not in languages.ids:
            raise CheckpointError(f"{folder / WORDS} has no {unknown}, which stands for what it lacks")
        return languages, {}

    @property
    def supported_language_codes(self) -> list[str]:
        """Return the codes of target languages that a text may begin with."""
        names = () if self._languages.separate else self._languages.ids
        return [name for name in names if name.startswith(">>") and name.endswith("<<")]

    def __call__(self, text: Any = None, text_pair: Any = None, text_target: Any = None, **options: Any) -> Any:
        """Encode texts; `labels` are the ids of `text_target` in the target language."""
        if text_target is None:
            return super().__call__(text, text_pair, **options)
        pair_target = options.pop("text_pair_target", None)
        with self._target():
            target: BatchEncoding = super().__call__(text_target=text_target, text_pair_target=pair_target, **options)
        if text is None:
            return target
        options.pop("max_target_length", None)
        encoded = super().__call__(text, text_pair, **options)
        encoded["labels"] = target["input_ids"]
        return encoded

    @contextmanager
    def _target(self) -> Iterator[None]:
        with self._lock:
            self._languages.of_target = True
            try:
                yield
            finally:
                self._languages.of_target = False

    def ends(self) -> Ends:
        """`</s>` behind the last text."""
        return Ends(after=(self.eos_token_id,), second_kind=1)

    def _text(self, ids: list[int], skip: bool, clean: bool, use_source_tokenizer: bool | None = None) -> str:
        source = not self._languages.separate if use_source_tokenizer is None else use_source_tokenizer
        text = self.convert_tokens_to_string(self._kept(ids, skip), source)
        return self.clean_up_tokenization(text) if clean else text

    def convert_tokens_to_string(self, tokens: Sequence[str], source: bool = False) -> str:  # type: ignore[override]
        """Join pieces into text, a blank behind each special token."""
        model = self._languages.source if source else self._languages.target
        special, text, waiting = set(self.all_special_tokens), "", []
        for token in tokens:
            if token in special:
                text += model.text_of(waiting) + token + " "
                waiting = []
            else:
                waiting.append(token)
        return (text + model.text_of(waiting)).replace(SPACE, " ").strip()

    @property
    def _languages(self) -> TwoLanguages:
        return self._backend.model  # type: ignore[return-value]

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Return the SentencePiece models as they were read, and the vocabularies."""
        languages = self._languages
        files: dict[str, str | bytes] = {SOURCE: languages.source.data, TARGET: languages.target.data}
        files[WORDS] = json.dumps(languages.ids, indent=2)
        return files | ({TARGET_WORDS: json.dumps(languages.target_ids, indent=2)} if languages.separate else {})


def _read_ids(file: Path) -> dict[str, int]:
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} must hold the pieces' ids: {error}") from error
    if not isinstance(ids, dict) or not all(isinstance(index, int) for index in ids.values()):
        raise CheckpointError(f"{file} must hold the id of every piece")
    return ids
