"""Special tokens of a tokenizer: named ones (`pad_token`), the model's own (`image_token`) and extra ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from jaxformers.processing.settings import Settings

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = ("extra_special_tokens", "additional_special_tokens")  # the second is the spelling before transformers 5


class SpecialTokens:
    """Special tokens as attributes: `name_token` reads the text, `name_token_id` its id, None when unset."""

    _backend: Tokenizer
    _settings: Settings
    _named: dict[str, str | AddedToken | None]
    _extra: list[str | AddedToken]

    def __getattr__(self, key: str) -> Any:
        name = _without_id(key)
        named = self.__dict__.get("_named", {})
        if name in named:
            token = None if named[name] is None else str(named[name])
            return token if name == key or token is None else self.convert_tokens_to_ids(token)
        if name in EXTRA:
            tokens = [str(token) for token in self.__dict__.get("_extra", [])]
            return tokens if name == key else self.convert_tokens_to_ids(tokens)
        raise AttributeError(f"{type(self).__name__} has no attribute {key!r}")

    def __setattr__(self, key: str, value: Any) -> None:
        name = _without_id(key)
        if name in self.__dict__.get("_named", {}):
            if name != key and value is not None:
                value = self.convert_ids_to_tokens(value)
            self._named[name] = value if value is None else _checked(name, value)
        elif name in EXTRA:
            if name != key and value is not None:
                value = self.convert_ids_to_tokens(value)
            self._extra = [_checked(name, token) for token in value or ()]
        else:
            object.__setattr__(self, key, value)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Return the named special tokens that are set."""
        return {name: str(token) for name, token in self._named.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """Return every special token once, named ones first."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *map(str, self._extra)]))

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of `all_special_tokens`."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]

    def get_special_tokens_mask(
        self, token_ids_0: Sequence[int], token_ids_1: None = None, already_has_special_tokens: bool = True
    ) -> list[int]:
        """Return 1 for each special token among ids that hold them already. Raises ValueError for others."""
        if token_ids_1 is not None or not already_has_special_tokens:
            raise ValueError("the mask of ids without special tokens: encode with return_special_tokens_mask=True")
        special = set(self.all_special_ids)
        return [int(int(index) in special) for index in token_ids_0]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return the tokens added on top of the vocabulary, by id."""
        return self._backend.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Return the ids of added tokens, in the order of their ids."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    get_added_vocab = added_tokens_encoder.fget

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a token or the ids of several; an unknown token has the id of `unk_token`."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self._backend.token_to_id(tokens)
        if index is None and (unknown := self._named.get("unk_token")) is not None:
            index = self._backend.token_to_id(str(unknown))
        return index

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> str | None | list[str | None]:
        """Return the token of an id or the tokens of several; an id outside the vocabulary gives None."""
        if isinstance(ids, int) or getattr(ids, "ndim", None) == 0:
            return self._backend.id_to_token(int(ids))
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._backend.id_to_token(int(index)) for index in ids if int(index) not in skipped]

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens to the vocabulary and return how many were new; resize the model's embedding accordingly."""
        if not new_tokens:
            return 0
        if isinstance(new_tokens, (str, AddedToken)):
            new_tokens = [new_tokens]
        new_tokens = [_checked("new_tokens", token) for token in new_tokens]
        add = self._backend.add_special_tokens if special_tokens else self._backend.add_tokens
        return add(new_tokens)

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, str | AddedToken | Sequence[str | AddedToken]],
        replace_extra_special_tokens: bool = True,
    ) -> int:
        """Set special tokens by name and add those the vocabulary lacks; returns how many were new.

        The key `extra_special_tokens` takes a list, which replaces the present one unless told otherwise.
        """
        added: list[AddedToken] = []
        for key, value in special_tokens_dict.items():
            if key in EXTRA:
                if isinstance(value, (str, AddedToken)) or not isinstance(value, Sequence):
                    raise ValueError(f"{key} must be a list of tokens, not {value!r}")
                present = () if replace_extra_special_tokens else {str(token) for token in self._extra}
                new = [_special(_checked(key, token)) for token in value if str(token) not in present]
                self._extra = list(new) if replace_extra_special_tokens and new else [*self._extra, *new]
                added.extend(new)
            elif key in self._named:
                token = _special(_checked(key, value))
                self._named[key] = token
                added.append(token)
            else:
                raise ValueError(f"{key!r} is no special token; use one of {[*self._named, EXTRA[0]]}")
        return self.add_tokens(added, special_tokens=True)

    @property
    def add_bos_token(self) -> bool:
        """Whether texts start with `bos_token`; setting it rewrites the post-processor."""
        return self._settings.add_bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._settings.add_bos_token = value
        self.update_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether texts end with `eos_token`; setting it rewrites the post-processor."""
        return self._settings.add_eos_token

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._settings.add_eos_token = value
        self.update_post_processor()

    def update_post_processor(self) -> None:
        """Make the backend add bos and eos as `add_bos_token` and `add_eos_token` say, and nothing else."""
        bos = self.bos_token if self.add_bos_token else None
        eos = self.eos_token if self.add_eos_token else None
        self._settings.add_bos_token, self._settings.add_eos_token = bos is not None, eos is not None

        def around(text: str, kind: int) -> list[str]:
            return [*([f"{bos}:{kind}"] if bos else []), f"{text}:{kind}", *([f"{eos}:{kind}"] if eos else [])]

        self._backend.post_processor = TemplateProcessing(
            single=around("$A", 0),
            pair=around("$A", 0) + around("$B", 1),
            special_tokens=[(token, self.convert_tokens_to_ids(token)) for token in dict.fromkeys((bos, eos)) if token],
        )


def as_token(value: Any) -> Any:
    """Turn the serialised form of an added token, a dictionary with "content", into an AddedToken."""
    if isinstance(value, dict) and "content" in value:
        return AddedToken(**{key: item for key, item in value.items() if key not in ("__type", "id")})
    return value


def _special(token: str | AddedToken) -> AddedToken:
    return AddedToken(token, special=True, normalized=False) if isinstance(token, str) else token


def _checked(name: str, value: Any) -> str | AddedToken:
    if not isinstance(value, (str, AddedToken)):
        raise ValueError(f"{name} must be a string or an AddedToken, not {value!r}")
    return value


def _without_id(key: str) -> str:
    if key.endswith("_ids"):
        return key[:-4]
    return key[:-3] if key.endswith("_id") else key
