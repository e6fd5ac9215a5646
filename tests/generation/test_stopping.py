"""Stop strings, time and the caller's own rules end each row at the token where transformers ends it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models

import jaxformers as jf
from jaxformers.generation.stopping import StopStrings
from tests.generation.sides import their_generate
from tests.hub import tiny

LETTERS = [chr(97 + n) for n in range(26)]
WORDS = (LETTERS + [a + b for a in LETTERS for b in "qz"] + [3 * a for a in LETTERS])[:96]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One to three letters for each id."""
    inner = Tokenizer(models.BPE({word: n for n, word in enumerate(WORDS)}, []))
    inner.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, jf.Model]:
    """A tiny llama, both sides."""
    folder = tmp_path_factory.mktemp("llama")
    return tiny.llama(folder, num_hidden_layers=2), jf.AutoModelForCausalLM.from_pretrained(folder)


IDS = np.random.RandomState(0).randint(3, 96, (2, 6))


@pytest.mark.parametrize("eos", [None, 2])
def test_stop_strings(llama, tokenizer, eos: int | None) -> None:
    """A row ends right after the token that completes the string; the others go on."""
    theirs, ours = llama
    free = np.asarray(ours.generate(IDS, max_new_tokens=12, eos_token_id=None))
    word = WORDS[free[0, 8]] + WORDS[free[0, 9]]
    options = dict(max_new_tokens=12, stop_strings=[word[1:], "never"], eos_token_id=eos, pad_token_id=1)
    want = their_generate(theirs, {"input_ids": IDS}, tokenizer=tokenizer, do_sample=False, **options).numpy()
    got = np.asarray(ours.generate(IDS, tokenizer=tokenizer, **options))
    np.testing.assert_array_equal(got, want)
    if eos is not None:
        assert (got[0, 10:] == 1).all()


def test_a_string_over_several_tokens_and_within_one() -> None:
    """Bytes of one character in two tokens, strings across tokens and inside one, and none that ended before."""
    inner = Tokenizer(models.BPE({"Ã": 0, "¤": 1, "a": 2, "b": 3, "ab": 4, "c": 5}, [("a", "b")]))
    inner.decoder = decoders.ByteLevel()
    rule = StopStrings(("ä", "bab", "bx"), transformers.PreTrainedTokenizerFast(tokenizer_object=inner))
    yes = ([2, 0, 1], [4, 4], [5, 3, 4])
    no = ([2, 0], [0, 1, 2], [3, 2], [4, 4, 5])
    for row, ends in [*((r, True) for r in yes), *((r, False) for r in no)]:
        assert rule(np.array([row])).tolist() == [ends], row


def test_own_rule_and_time(llama) -> None:
    """A criterion sees every length once, and ends rows one by one; no time is left for a second look."""
    ours, lengths = llama[1], []

    def long(ids: np.ndarray, scores: Any) -> np.ndarray:
        lengths.append(ids.shape[1])
        return np.array([ids.shape[1] >= 9, ids.shape[1] >= 11])

    got = np.asarray(ours.generate(IDS, max_new_tokens=30, stopping_criteria=[long], eos_token_id=2, pad_token_id=1))
    assert got.shape == (2, 11) and lengths == list(range(7, 12)) and (got[0, 9:] == 1).all()
    theirs = llama[0].generate(
        torch.tensor(IDS), max_new_tokens=30, do_sample=False, pad_token_id=1, eos_token_id=2,
        stopping_criteria=transformers.StoppingCriteriaList([Long()]),
    )  # fmt: skip
    np.testing.assert_array_equal(got, theirs.numpy())
    assert ours.generate(IDS, max_new_tokens=30, max_time=1e-9, eos_token_id=None).shape[1] < 36


class Long(transformers.StoppingCriteria):
    """The same rule for the other side."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([input_ids.shape[1] >= 9, input_ids.shape[1] >= 11])


def test_no_tokenizer_no_strings(llama, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass tokenizer="):
        llama[1].generate(IDS, stop_strings="x", max_new_tokens=1)
