"""Rendering of chat templates: Jinja in a sandbox, because a template comes with the checkpoint and is not trusted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import numpy as np
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# The pieces rendered so far and the spans of {% generation %} blocks; a context variable keeps threads apart.
_TRACK: ContextVar[tuple[list[str], list[tuple[int, int]]] | None] = ContextVar("generation", default=None)


def render(template: str, variables: Mapping[str, Any]) -> str:
    """Render a template. Raises ValueError with the template's own message when it refuses the conversation."""
    return render_spans(template, variables)[0]


def render_spans(template: str, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """Render a template and return also the character spans of its {% generation %} blocks."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    compiled = compile_template(template)
    token = _TRACK.set((pieces, spans))
    try:
        for piece in compiled.generate(**variables):
            pieces.append(piece)
    except SecurityError as error:
        raise ValueError(f"the chat template does what the sandbox forbids: {error}") from error
    except TemplateError as error:
        raise ValueError(f"the chat template refuses this conversation: {error}") from error
    except Exception as error:  # whatever a template does to values of a kind it did not expect
        raise ValueError(f"the chat template fails on this conversation, {type(error).__name__}: {error}") from error
    finally:
        _TRACK.reset(token)
    return "".join(pieces), spans


@lru_cache(maxsize=64)
def compile_template(template: str) -> jinja2.Template:
    """Compile a template once. Raises ValueError on a syntax error."""
    try:
        return _environment().from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template does not parse, line {error.lineno}: {error.message}") from error


@lru_cache(maxsize=64)
def literals(template: str) -> str:
    """Return what a template may write itself, pieces set apart by null characters. Raises ValueError."""
    compile_template(template)
    tree = _environment().parse(template)
    texts = {node.data for node in tree.find_all(nodes.TemplateData)}
    texts |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return "\0".join(texts)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=_PublicNamespace
    )
    return environment


class GenerationTag(Extension):
    """The tag {% generation %}: what a template writes inside it is what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        """Turn the block into a call of `_record`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_record"), [], [], body).set_lineno(line)

    def _record(self, caller: Any) -> str:
        text = caller()
        if (track := _TRACK.get()) is not None:
            start = sum(map(len, track[0]))
            track[1].append((start, start + len(text)))
        return text


class _Dict:
    """`dict` for templates: it can be called, but its attributes lead nowhere."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _PublicNamespace(Namespace):
    """Jinja's namespace without names that start with an underscore, which reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no named self: a template may store an attribute called self
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_public(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


def _check_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not store the name {name!r}, which starts with an underscore")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which models were never trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def plain(value: Any) -> Any:
    """Rebuild a value from plain JSON types, so that a template sees no methods but theirs.

    Images, arrays and other objects become a word with their type, "<ndarray>": templates only ask if they are there.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):  # enumerations and numpy scalars carry methods of their own
            return getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)  # pydantic
    if callable(dump):
        return plain(dump())
    return f"<{type(value).__name__}>"
