"""Conversations and instructions to tokens: labels only where the model is to learn what it would say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.training.data.text import as_text, cut_to

IGNORED = -100


@dataclass(frozen=True)
class TokenizeChat:
    """Renders a field of messages by the tokenizer's chat template; labels are what the assistant says, all else -100.

    The template needs {% generation %} blocks, which say what that is. options: the template's variables, such as
    tools. messages: the field.
    """

    tokenizer: Any
    messages: str = "messages"
    max_length: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        cut = {} if self.max_length is None else {"truncation": True, "max_length": self.max_length}
        encoded = self.tokenizer.apply_chat_template(
            row[self.messages], return_dict=True, return_assistant_tokens_mask=True, **cut, **self.options
        )
        ids, said = np.asarray(encoded["input_ids"], np.int32), np.asarray(encoded["assistant_masks"], bool)
        rest = {name: value for name, value in row.items() if name != self.messages}
        return rest | {"input_ids": ids, "labels": np.where(said, ids, IGNORED).astype(np.int32)}


@dataclass(frozen=True)
class TokenizeCompletion:
    """Encodes a prompt and its completion as one text; labels are the completion's tokens, all else -100.

    prompt, completion: the fields. A token that reaches from the prompt into the completion is the prompt's. The end of
    the text is learnt where the tokenizer, or `end`, writes one.
    """

    tokenizer: Any
    prompt: str = "prompt"
    completion: str = "completion"
    max_length: int | None = None
    end: bool = True

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        before, after = as_text(row[self.prompt]), as_text(row[self.completion])
        encoded = self.tokenizer(
            before + after, return_offsets_mapping=True, return_special_tokens_mask=True, **cut_to(None)
        )
        ids, starts = np.asarray(encoded["input_ids"], np.int32), np.asarray(encoded["offset_mapping"])[:, 0]
        special = np.asarray(encoded["special_tokens_mask"], bool)
        own = ~special & (starts >= len(before))
        own[-1] |= special[-1] and ids[-1] == self.tokenizer.eos_token_id
        if self.end and ids[-1] != self.tokenizer.eos_token_id:
            ids, own = np.append(ids, self.tokenizer.eos_token_id).astype(np.int32), np.append(own, True)
        labels = np.where(own, ids, IGNORED).astype(np.int32)
        rest = {name: value for name, value in row.items() if name not in (self.prompt, self.completion)}
        return rest | {"input_ids": ids[: self.max_length], "labels": labels[: self.max_length]}
