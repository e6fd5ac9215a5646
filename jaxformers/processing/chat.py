"""Conversations to text and ids through a tokenizer's chat template."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxformers.processing.batch import to_array
from jaxformers.processing.control_tokens import control_tokens, encode_marked, mark
from jaxformers.processing.templates import plain, render, render_spans
from jaxformers.processing.tool_schema import tool_schema

if TYPE_CHECKING:
    from jaxformers.processing.tokenizer import Tokenizer

# A message's reasoning goes by three names; templates read the first, those of gpt-oss the second.
REASONING = ("reasoning_content", "thinking", "reasoning")
# Marks the end of the message to continue. The blank shows whether the template trims messages.
MARK = "CONTINUE_FINAL_MESSAGE_TAG "


def apply_chat_template(
    tokenizer: Tokenizer,
    conversation: Any,
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    tokenize: bool = True,
    sanitize_control_tokens: bool = False,
    padding: bool | str = False,
    truncation: bool | str = False,
    max_length: int | None = None,
    return_tensors: str | None = None,
    return_dict: bool = True,
    return_assistant_tokens_mask: bool = False,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **variables: Any,
) -> Any:
    """Render a conversation, or a batch of them, and encode it; further keywords are the template's variables.

    Returns a BatchEncoding; only the ids with return_dict=False; only the text with tokenize=False. The assistant's
    mask needs a template with {% generation %} blocks. `sanitize_control_tokens` encodes control tokens that stand in
    messages, tools and documents as plain text. Raises ValueError with the template's message if it refuses.
    """
    if sanitize_control_tokens and (return_assistant_tokens_mask or not tokenize):
        raise ValueError("sanitize_control_tokens needs tokenize=True and excludes return_assistant_tokens_mask")
    if return_assistant_tokens_mask and not (tokenize and return_dict):
        raise ValueError("return_assistant_tokens_mask needs tokenize=True and return_dict=True")
    if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
        raise ValueError("continue_final_message excludes add_generation_prompt and return_assistant_tokens_mask")
    template = choose_template(tokenizer.chat_template, chat_template, tools)
    conversations, batched = _conversations(conversation)
    if sanitize_control_tokens:
        typed = [conversations, tools, plain(documents), plain(variables)]
        conversations, tools, documents, variables = mark(typed, control_tokens(tokenizer, template))
    shared = plain({**tokenizer.special_tokens_map, **variables}) | {
        "tools": None if tools is None else plain([_schema(tool) for tool in tools]),
        "documents": _documents(documents),
        "add_generation_prompt": add_generation_prompt,
    }
    if return_assistant_tokens_mask and "endgeneration" not in template:
        raise ValueError(
            "return_assistant_tokens_mask needs a chat template with {% generation %} blocks; this has none"
        )
    texts, spans = [], []
    for messages in conversations:
        if continue_final_message:
            texts.append(_continued(template, messages, shared, continue_final_message))
        else:
            text, found = render_spans(template, {**shared, "messages": messages})
            texts.append(text)
            spans.append(found)
    if not tokenize:
        return texts if batched else texts[0]
    options = {
        "padding": padding,
        "truncation": truncation,
        "max_length": max_length,
        "add_special_tokens": False,  # the template writes them
        "return_tensors": return_tensors,
        **(tokenizer_kwargs or {}),
    }
    if sanitize_control_tokens:
        encoded = encode_marked(tokenizer, texts, options, batched)
    else:
        encoded = tokenizer(texts if batched else texts[0], **options)
    if return_assistant_tokens_mask:
        masks = [_assistant_mask(encoded, row, found) for row, found in enumerate(spans)]
        if return_tensors:
            encoded["assistant_masks"] = to_array("assistant_masks", masks, return_tensors)
        else:
            encoded["assistant_masks"] = masks if batched else masks[0]
    return encoded if return_dict else encoded["input_ids"]


def encode_message_with_chat_template(
    tokenizer: Tokenizer,
    message: Mapping[str, Any],
    conversation_history: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[int]:
    """Return the ids that a message adds to a conversation, as long as the template leaves earlier ones unchanged."""
    if "add_generation_prompt" in options:
        raise ValueError("a single message has no generation prompt: render it with apply_chat_template")
    history = list(conversation_history or ())
    ids = apply_chat_template(tokenizer, [*history, message], return_dict=False, **options)
    before = apply_chat_template(tokenizer, history, return_dict=False, **options) if history else []
    pairs = zip(before, ids, strict=False)
    return ids[next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(before), len(ids))) :]


def choose_template(own: str | Mapping[str, str] | None, wanted: str | None, tools: Any = None) -> str:
    """Return the template to use: the wanted one, by name or as text, else tool_use with tools, else the default."""
    if isinstance(own, Mapping):
        if wanted is not None:
            return own.get(wanted, wanted)
        name = "tool_use" if tools is not None and "tool_use" in own else "default"
        if name in own:
            return own[name]
        raise ValueError(f"no chat template is named default: pass chat_template=, one of {sorted(own)}")
    if wanted is not None:
        return wanted
    if own is None:
        raise ValueError("this tokenizer has no chat template: pass chat_template= or set tokenizer.chat_template")
    return own


def _conversations(conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
    if not isinstance(conversation, (list, tuple)) and hasattr(conversation, "messages"):
        conversation = conversation.messages
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise ValueError(f"a conversation is a list of at least one message, found {conversation!r}")
    batched = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
    return [_messages(chat) for chat in (conversation if batched else [conversation])], batched


def _messages(chat: Any) -> list[dict[str, Any]]:
    messages = []
    for message in plain(list(getattr(chat, "messages", chat))):
        if not isinstance(message, dict):
            raise TypeError(f'a message is a dictionary like {{"role": "user", "content": "Hello"}}, found {message!r}')
        # Many templates would write None, or fail on it, and all know a missing key.
        message = {key: value for key, value in message.items() if value is not None}
        reasoning = next((message[key] for key in REASONING if key in message), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        messages.append(message)
    return messages


def _continued(template: str, messages: list[dict[str, Any]], shared: Mapping[str, Any], field: bool | str) -> str:
    """Render with a mark at the end of the last message and cut the text there."""
    name = field if isinstance(field, str) else "content"
    if not messages or (final := messages[-1].get(name)) is None:
        raise ValueError(f"continue_final_message: the last message has no {name!r} to continue")
    # The reasoning is there under several names and the template reads one of them, so mark each.
    names = [other for other in REASONING if messages[-1].get(other) == final] if name in REASONING else [name]
    if not any(other in template for other in names):
        raise ValueError(f"continue_final_message: the chat template never reads {name!r}")
    marked = {**messages[-1], **{other: _marked(final) for other in names}}
    text = render(template, {**shared, "messages": [*messages[:-1], marked]})
    written = final[_last_text(final)]["text"] if isinstance(final, list) else final
    if written.strip() not in text or MARK.strip() not in text:
        raise ValueError(
            "continue_final_message: the chat template changes or drops the last message; nothing to continue"
        )
    end = text.rindex(MARK.strip())
    return text[:end] if text[end:].startswith(MARK) else text[:end].rstrip()


def _marked(content: Any) -> Any:
    if isinstance(content, str):
        return content + MARK
    last = _last_text(content)
    return [{**block, "text": block["text"] + MARK} if i == last else block for i, block in enumerate(content)]


def _last_text(blocks: list[Any]) -> int:
    for index in reversed(range(len(blocks))):
        if isinstance(blocks[index], dict) and "text" in blocks[index]:
            return index
    raise ValueError("continue_final_message: the last message holds no text to continue")


def _schema(tool: Any) -> dict[str, Any]:
    if isinstance(tool, dict):
        return tool
    if inspect.isfunction(tool) or inspect.ismethod(tool):
        return tool_schema(tool)
    raise ValueError(f"a tool is a JSON schema or a function with type hints and a docstring, found {tool!r}")


def _documents(documents: Any) -> Any:
    for document in documents or ():
        if not isinstance(document, dict):
            raise TypeError(f'a document is a dictionary with "title" and "text", found {document!r}')
    return plain(documents)


def _assistant_mask(encoded: Any, row: int, spans: list[tuple[int, int]]) -> list[int]:
    """Mark the tokens inside the spans; a span that truncation cut off ends the search."""
    length = len(encoded.encodings[row])
    mask = [0] * length
    for start, end in spans:
        first, last = encoded.char_to_token(row, start), encoded.char_to_token(row, end - 1)
        if first is None:
            break
        stop = last + 1 if last else length
        mask[first:stop] = [1] * (stop - first)
    return mask
