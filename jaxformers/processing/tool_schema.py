"""JSON schemas of Python functions, from type hints and a Google-style docstring, for chat templates with tools."""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
PLAIN = {**SCALARS, list: "array", tuple: "array", dict: "object"}
SECTION = r"[\n\s]*(?:Args:|Returns:|Raises:|\Z)"


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Describe a function for a model. Raises ValueError when a hint or a description is missing."""
    name = getattr(function, "__name__", "operation")
    document = (inspect.getdoc(function) or "").strip()
    if not document:
        raise ValueError(f"tool {name} has no docstring: say what it does and what its arguments mean")
    summary, described, returned = _read_docstring(document)
    properties, required, result = _signature(function, name)
    for argument, schema in properties.items():
        if argument not in described:
            raise ValueError(f"tool {name}: the Args section of its docstring does not describe {argument!r}")
        schema.update(_description(described[argument]))
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    output = {"name": name, "description": summary, "parameters": parameters}
    if result is not None:
        output["return"] = result | ({} if returned is None else {"description": returned})
    return {"type": "function", "function": output}


def _signature(function: Callable[..., Any], name: str) -> tuple[dict[str, Any], list[str], dict[str, Any] | None]:
    hints = typing.get_type_hints(function)
    properties: dict[str, Any] = {}
    required = []
    for index, (argument, parameter) in enumerate(inspect.signature(function).parameters.items()):
        if argument not in hints:
            if index == 0 and argument in ("self", "cls"):
                continue
            raise ValueError(f"tool {name}: argument {argument!r} has no type hint")
        properties[argument] = hint_schema(hints[argument])
        if parameter.default is inspect.Parameter.empty:
            required.append(argument)
    try:
        result = hint_schema(hints["return"]) if "return" in hints else None
    except ValueError:  # models never write the return value, so one that has no schema is left out
        result = None
    return properties, required, result


def hint_schema(hint: Any) -> dict[str, Any]:
    """Turn a type hint into a JSON schema. Raises ValueError on a type JSON has no word for."""
    origin: Any = get_origin(hint)
    arguments: tuple[Any, ...] = get_args(hint)
    if origin is None and isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choices(hint, [member.value for member in hint])
    if origin is None:
        if hint is Any:
            return {}
        if hint in PLAIN:
            return {"type": PLAIN[hint]}
    elif origin is Union or origin is types.UnionType:
        return _union(arguments)
    elif origin is Literal:
        return _choices(hint, list(arguments))
    elif origin is list:
        return {"type": "array", "items": hint_schema(arguments[0])}
    elif origin is tuple and len(arguments) > 1 and ... not in arguments:
        return {"type": "array", "prefixItems": [hint_schema(argument) for argument in arguments]}
    elif origin is dict and len(arguments) == 2:
        return {"type": "object", "additionalProperties": hint_schema(arguments[-1])}
    raise ValueError(
        f"the type hint {hint!r} has no JSON schema: use int, float, str, bool, Enum, Literal, list, dict, a tuple of "
        "two or more fixed types, or unions of these, or pass the tool's schema instead of the function"
    )


def _union(arguments: tuple[Any, ...]) -> dict[str, Any]:
    schemas = [hint_schema(argument) for argument in arguments if argument is not type(None)]
    if len(schemas) == 1:
        schema = schemas[0]
    elif all(set(one) == {"type"} and isinstance(one["type"], str) for one in schemas):
        names = sorted({one["type"] for one in schemas})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": schemas}
    return schema | ({"nullable": True} if type(None) in arguments else {})


def _choices(hint: Any, values: list[Any]) -> dict[str, Any]:
    if not values or any(type(value) not in SCALARS for value in values):
        raise ValueError(f"{hint!r} must have values, each an int, float, str, bool or None; found {values}")
    names = list(dict.fromkeys(SCALARS[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


def _description(text: str) -> dict[str, Any]:
    """Split "Which one (choices: ["a", "b"])" into a description and its choices."""
    found = re.search(r"\(choices:\s*(.*?)\)\s*$", text, flags=re.IGNORECASE)
    if found is None:
        return {"description": text}
    choices = [value.strip() if isinstance(value, str) else value for value in json.loads(found.group(1))]
    return {"enum": choices, "description": text[: found.start()].strip()}


def _read_docstring(document: str) -> tuple[str | None, dict[str, str], str | None]:
    """Return what the function does, what each argument means and what it returns."""
    summary = re.search(rf"^(.*?){SECTION}", document, re.DOTALL)
    arguments = re.search(r"\n\s*Args:\n(.*?)[\n\s]*(?:Returns:|Raises:|\Z)", document, re.DOTALL)
    returned = re.search(r"\n\s*Returns:\n\s*(.*?)[\n\s]*(?:Raises:|\Z)", document, re.DOTALL)
    described: dict[str, str] = {}
    if arguments is not None:
        lines = [line for line in arguments.group(1).split("\n") if line.strip()]
        for name, text in _entries(lines):
            described[name] = " ".join(text.split("\n")).strip()
    return (
        summary.group(1).strip() if summary else None,
        described,
        returned.group(1).strip() if returned else None,
    )


def _entries(lines: list[str]) -> list[tuple[str, str]]:
    """Group lines into "name: text" entries; a line indented deeper than the first entry continues the one above."""
    entries: list[list[str]] = []
    indent: str | None = None
    for line in lines:
        start = re.match(r"([ \t]*)(\w+):\s*(.*)", line)
        if start and (indent is None or not re.match(indent + r"[ \t]", line)):
            indent = start.group(1)
            entries.append([start.group(2), start.group(3).strip()])
        elif entries:
            entries[-1][1] += "\n" + line.strip()
    return [(name, text) for name, text in entries]
