"""wav2vec 2.0's tokenizer: letters with a mark between words, and decoding of what CTC heard in each frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.decoding import clean_up, ids_of, is_batch
from jaxformers.processing.python_backend import Ends, PythonBackend
from jaxformers.processing.python_tokenizer import PythonTokenizer
from jaxformers.processing.settings import Settings


class Letters:
    """The letters of vocab.json, of one language if it holds several; a blank is the word delimiter."""

    def __init__(self, vocabulary: Mapping[str, Any], target_lang: str | None, upper: bool):
        self.file = vocabulary
        self.ids = dict(_language(vocabulary, target_lang))
        self.tokens = {index: token for token, index in self.ids.items()}
        self.upper = upper
        self.delimiter: str | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def pieces(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield the letters of a text, several for a character such as ß whose capital is written with two."""
        for at, letter in enumerate(text):
            written = self.delimiter if letter == " " and self.delimiter else letter.upper() if self.upper else letter
            for token in written:
                yield token, at, at + 1

    def token_to_id(self, token: str) -> int | None:
        """Return a letter's id."""
        return self.ids.get(token)

    def id_to_token(self, index: int) -> str | None:
        """Return the letter of an id."""
        return self.tokens.get(index)

    def vocabulary(self) -> dict[str, int]:
        """Return the letters with their ids."""
        return dict(self.ids)

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        """Return the letters in a row."""
        return "".join(tokens)


class CtcOutput(dict[str, Any]):
    """The decoded `text`, and if asked for `char_offsets` and `word_offsets` in frames; keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name in ("text", "char_offsets", "word_offsets"):
            return self.get(name)
        raise AttributeError(f"CtcOutput has no {name!r}; it holds {list(self)}")


class Wav2Vec2CTCTokenizer(PythonTokenizer):
    """Letters as tokens. `decode` takes one id for each frame, and merges repeats around the blank, `pad_token`."""

    tokens = {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "word_delimiter_token": "|",
        "replace_word_delimiter_char": " ",
        "do_lower_case": False,
        "target_lang": None,
    }

    @classmethod
    def read(cls, folder: Path, options: Mapping[str, Any]) -> tuple[Letters, dict[int, AddedToken]]:
        """Return the alphabet of vocab.json, of `target_lang` where the file holds several languages."""
        file = folder / "vocab.json"
        try:
            vocabulary = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} must hold the letters' ids: {error}") from error
        return Letters(vocabulary, options["target_lang"], bool(options["do_lower_case"])), {}

    def __init__(self, backend: PythonBackend, settings: Settings):
        options = settings.options
        self.target_lang = options["target_lang"]
        self.do_lower_case = bool(options["do_lower_case"])
        self.replace_word_delimiter_char = options["replace_word_delimiter_char"]
        _forget_conflicts(backend)
        super().__init__(backend, settings)
        self._add_long_letters()

    def set_target_lang(self, target_lang: str) -> None:
        """Change to the alphabet of another language. Raises ValueError when the vocabulary has no such language."""
        file = self._backend.model.file  # type: ignore[attr-defined]
        if not _nested(file):
            raise ValueError("vocab.json holds one language; set_target_lang needs one vocabulary for each language")
        letters = Letters(file, target_lang, self.do_lower_case)
        self.target_lang = target_lang
        self._backend.model = letters
        self._backend.added.remove([index for index in self._backend.added.by_id if index in letters.tokens])
        self._add_long_letters()

    def _add_long_letters(self) -> None:
        """Keep tokens of several letters whole in a text."""
        long = [token for token in self._backend.model.vocabulary() if len(token) > 1]
        self.add_tokens([AddedToken(token, rstrip=True, lstrip=True, normalized=False) for token in long])

    def update_post_processor(self) -> None:
        """Tell the backend the unknown token and the word delimiter."""
        super().update_post_processor()
        self._backend.model.delimiter = self.word_delimiter_token  # type: ignore[attr-defined]

    def ends(self) -> Ends:
        """Nothing: a transcript has no ends. The second text of a pair has token type 1."""
        return Ends(second_kind=1)

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens, as they are written, to the vocabulary; returns how many were new."""
        listed = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else new_tokens or ()
        exact = [AddedToken(token, normalized=False) if isinstance(token, str) else token for token in listed]
        return super().add_tokens(exact, special_tokens)

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id or the tokens of several; an id outside the vocabulary gives `unk_token`."""
        found = super().convert_ids_to_tokens(ids, skip_special_tokens)
        if isinstance(found, list):
            return [self.unk_token if token is None else token for token in found]
        return self.unk_token if found is None else found

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **options: Any,
    ) -> Any:
        """Return the text of frames, or texts of a batch; with offsets a `CtcOutput`.

        `group_tokens=False` keeps repeats, for ids of a written text. `spaces_between_special_tokens=True` writes a
        blank between all tokens.
        """
        ids = ids_of(token_ids)
        clean = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        asked = {"output_char_offsets": output_char_offsets, "output_word_offsets": output_word_offsets}
        heard = []
        for row in ids if is_batch(ids) else [ids]:
            found = self.convert_tokens_to_string(self._heard(row, skip_special_tokens), **asked, **options)
            found["text"] = clean_up(found["text"]) if clean else found["text"]
            heard.append(CtcOutput({key: value for key, value in found.items() if value is not None}))
        if not any(asked.values()):
            texts = [row.text for row in heard]
            return texts if is_batch(ids) else texts[0]
        return CtcOutput({key: [row[key] for row in heard] for key in heard[0]}) if is_batch(ids) else heard[0]

    def _heard(self, ids: list[int], skip: bool) -> list[str]:
        special = set(self.all_special_tokens) - {self.word_delimiter_token} if skip else ()
        return [token for token in self.convert_ids_to_tokens(ids) if token not in special]

    def convert_tokens_to_string(  # type: ignore[override]
        self,
        tokens: Sequence[str],
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> dict[str, Any]:
        """Merge the tokens of frames; returns `text`, `char_offsets` and `word_offsets`, None if not asked for."""
        if not tokens:
            return {"text": "", "char_offsets": [], "word_offsets": []}
        runs = [(token, len(list(run))) for token, run in groupby(tokens)] if group_tokens else [(t, 1) for t in tokens]
        characters, at = [], 0
        for token, count in runs:
            if token != self.pad_token:
                written = self.replace_word_delimiter_char if token == self.word_delimiter_token else token
                characters.append({"char": written, "start_offset": at, "end_offset": at + count})
            at += count
        text = (" " if spaces_between_special_tokens else "").join(c["char"] for c in characters).strip()
        words = word_offsets(characters, self.replace_word_delimiter_char)
        return {
            "text": text.lower() if self.do_lower_case else text,
            "char_offsets": characters if output_char_offsets else None,
            "word_offsets": words if output_word_offsets else None,
        }

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Return vocab.json with the letters of all languages."""
        file = self._backend.model.file  # type: ignore[attr-defined]
        return {"vocab.json": json.dumps(file, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}

    def saved_options(self) -> dict[str, Any]:
        """Return the added tokens with their flags, and the language."""
        return super().saved_options() | {"target_lang": self.target_lang}


def word_offsets(characters: Sequence[Mapping[str, Any]], delimiter: str) -> list[dict[str, Any]]:
    """Join characters to words, each with its first and last frame."""
    words = []
    for blank, run in groupby(characters, key=lambda character: character["char"] == delimiter):
        if not blank:
            letters = list(run)
            word = "".join(letter["char"] for letter in letters)
            first, last = letters[0]["start_offset"], letters[-1]["end_offset"]
            words.append({"word": word, "start_offset": first, "end_offset": last})
    return words


def _nested(vocabulary: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) for value in vocabulary.values())


def _language(vocabulary: Any, target_lang: str | None) -> Mapping[str, int]:
    if not isinstance(vocabulary, Mapping):
        raise CheckpointError(f"vocab.json must hold ids by letter, found a {type(vocabulary).__name__}")
    if not _nested(vocabulary) and target_lang is None:
        return vocabulary
    if target_lang not in vocabulary or not isinstance(vocabulary[target_lang], Mapping):
        raise ValueError(f"vocab.json has no language {target_lang!r}; pass target_lang=, one of {sorted(vocabulary)}")
    return vocabulary[target_lang]


def _forget_conflicts(backend: PythonBackend) -> None:
    """Drop added tokens whose ids are letters of the language in use."""
    taken = [i for i, token in backend.added.by_id.items() if backend.model.id_to_token(i) not in (None, token.content)]
    backend.added.remove(taken)
