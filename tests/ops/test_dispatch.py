"""Choosing implementations: by order, by name, by the environment."""

import pytest

from jaxformers.ops.dispatch import Op, read_choices, use, watch_calls


@pytest.fixture
def op() -> Op:
    """Three ways to say a number: one refuses odd ones, one is for another platform."""
    made = Op("number", lambda n: ("reference", n))

    @made.register("even", priority=5)
    def even(n: int):
        if n % 2:
            raise NotImplementedError(f"{n} is odd")
        return "even", n

    made.register("elsewhere", platforms=("tpu",), priority=9)(lambda n: ("elsewhere", n))
    return made


def test_the_first_that_does_not_refuse_runs(op: Op) -> None:
    with watch_calls() as calls:
        assert op(2) == ("even", 2)
        assert op(3) == ("reference", 3)
    assert [call.chosen for call in calls] == ["even", "reference"]
    assert calls[1].refused == {"elsewhere": "for tpu, not cpu", "even": "3 is odd"}


def test_names_in_order(op: Op) -> None:
    with use(number=("even", "reference")):
        assert op(3) == ("reference", 3)
    with use(number="elsewhere"):
        assert op(3) == ("elsewhere", 3)  # one that is named runs on any platform
    with use(number="reference"), use(number="even"):
        assert op(2) == ("even", 2)


def test_refused_or_unknown_names_are_errors(op: Op) -> None:
    with use(number="even"), pytest.raises(ValueError, match="told to use 'even', which refused.*3 is odd"):
        op(3)
    with use(number="nine"), pytest.raises(ValueError, match="nine: unknown; there are elsewhere, even, reference"):
        op(3)


def test_the_environment_counts_where_no_code_says_otherwise(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXFORMERS_OPS", "number=even/elsewhere, moe=dense")
    assert op(3) == ("elsewhere", 3)
    with use(number="reference"):
        assert op(3) == ("reference", 3)


def test_an_environment_that_is_not_understood_is_an_error(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_choices("a=b/c,d=e") == {"a": ("b", "c"), "d": ("e",)}
    monkeypatch.setenv("JAXFORMERS_OPS", "reference")
    with pytest.raises(ValueError, match="expected op=implementation"):
        op(3)
