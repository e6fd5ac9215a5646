"""Functions become the JSON schemas that transformers makes of them."""

import enum
from typing import Any, Literal, Optional, Union

import pytest
from transformers.utils.chat_template_utils import get_json_schema

from jaxformers.processing.tool_schema import hint_schema, tool_schema


class Color(enum.Enum):
    RED = "red"
    TWO = 2


class Empty(enum.Enum):
    pass


def simple(x: int):
    """Double.

    Args:
        x: A number
    """


def rich(
    a: list[int],
    b: dict[str, list[float]] = {},  # noqa: B006
    c: Literal["x", 1, None] = "x",
    d: Optional[int] = None,  # noqa: UP045
    e: Union[int, str] = 1,  # noqa: UP007
    f: int | list[str] | None = None,
    g: tuple[int, str] = (1, "a"),
    h: Any = None,
    i: Color = Color.RED,
    j: bool = True,
    k: list = [],  # noqa: B006
    l: dict = {},  # noqa: B006, E741
    m: list | tuple = (),
    n: None = None,
) -> list[str] | None:
    """Do much.

    Over two paragraphs: with a colon.

    Args:
        a: First
            continued, with deeper: colon
            and more
        b: Second (see a): x

        c: Third (choices: ["x", "y"])
        d: Fourth
        e: Fifth
        f: Sixth
        g: Seventh
        h: Eighth
        i: Ninth
        j: Tenth
        k: 11
        l: 12
        m: 13
        n: 14

    Returns:
        What was done,
        in words

    Raises:
        ValueError: never
    """


def bare() -> object:
    """Only a summary."""


class Box:
    def method(self, x: str) -> "int":
        """Call a method.

        Args:
            x: An argument.
        """

    @classmethod
    def build(cls, x: float = 1.0):
        """Call a class method.
        Args:
            x: An argument
        Returns: nothing
        """


@pytest.mark.parametrize("function", [simple, rich, bare, Box().method, Box.build], ids=lambda f: f.__name__)
def test_schema_like_transformers(function):
    assert tool_schema(function) == get_json_schema(function)


def no_docstring(x: int):
    pass


def no_hint(x):
    """Do.

    Args:
        x: It
    """


def no_description(x: int):
    """Do."""


def odd_type(x: set[int]):
    """Do.

    Args:
        x: It
    """


@pytest.mark.parametrize(
    "function, message",
    [
        (no_docstring, "no docstring"),
        (no_hint, "'x' has no type hint"),
        (no_description, "does not describe 'x'"),
        (odd_type, "no JSON schema"),
    ],
)
def test_incomplete_functions_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        tool_schema(function)
    with pytest.raises(Exception, match="."):
        get_json_schema(function)


@pytest.mark.parametrize("hint", [object, tuple[int], tuple[int, ...], Empty, Literal[b"x"], set, frozenset[int]])
def test_hints_without_a_schema_are_refused(hint):
    with pytest.raises(ValueError, match="int, float, str, bool"):
        hint_schema(hint)
