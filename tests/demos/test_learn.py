"""The demo's second half: it learns, measures honestly, and leaves what a user can load."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers import cli
from jaxformers.demos import learn, learn_shown, search
from jaxformers.demos.learn import (
    ONE_MINUTE,
    PROMPTS,
    Form,
    Learnt,
    Score,
    complete,
    frequencies,
    packed,
    spread,
    train_tokenizer,
)

# The demo's own form made small: fewer words, shorter rows, and no more steps than show that it learns.
SHORT = replace(ONE_MINUTE, steps=40, width=64, heads=1, vocabulary=512, length=64, share=16, tested=64)


def test_a_score_in_three_units():
    score = Score(loss=2 * math.log(4), bytes_per_token=2.0)
    assert score.perplexity == pytest.approx(16)
    assert score.per_byte == pytest.approx(4) and score.bits_per_byte == pytest.approx(2)


def test_tokens_give_the_text_back(tmp_path):
    text = "def f(x):\n\treturn 'naïve ☃' * x\n"
    tokenizer = train_tokenizer([text * 50], 270, tmp_path)
    assert len(tokenizer) == 270 and tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and len(ids) < len(text.encode())


def test_rows_hold_every_token_once(tmp_path):
    corpus = ["import os\n" * 30, "x = 1\n" * 50]
    tokenizer = train_tokenizer(corpus, 280, tmp_path)
    whole = [token for text in corpus for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    rows = packed(corpus, tokenizer, 8)
    assert rows["input_ids"].ravel().tolist() == whole[: len(whole) // 8 * 8]
    assert spread(rows, 3)["input_ids"].shape == (3, 8) and spread(rows, 10_000)["labels"].shape == rows["labels"].shape


def test_frequencies_are_entropy():
    rows = {"input_ids": np.repeat([0, 1], 4096)[None]}
    assert frequencies(rows, rows, 2) == pytest.approx(math.log(2))


def test_it_learns_shows_and_leaves_a_model(monkeypatch, tmp_path, capsys):
    """Better than frequencies after 40 small steps; what the folder holds writes as the trained model does."""
    kept: list[Learnt] = []
    monkeypatch.setattr(learn, "ONE_MINUTE", SHORT)
    monkeypatch.setattr(learn_shown, "learn", lambda *given: kept.append(learn.learn(*given)) or kept[0])
    assert cli.main(["demo", "learn", "--out", str(tmp_path)]) == 0
    (learnt,) = kept
    assert learnt.before.perplexity > 400  # of 512 words: it began with nothing
    assert learnt.after.loss < learnt.by_frequency.loss - 0.3, learnt

    out = capsys.readouterr().out
    assert "class Error(Exception):" in out and f"{learnt.after.perplexity:.1f}" in out and "steps/s" in out
    assert f"--model {tmp_path}" in out.replace("\n", " ")
    model, tokenizer = jf.AutoModelForCausalLM.from_pretrained(tmp_path), jf.AutoTokenizer.from_pretrained(tmp_path)
    assert all(map(np.array_equal, jax.tree.leaves(model), jax.tree.leaves(learnt.model)))
    texts = complete(model, tokenizer, new=64)
    assert texts == complete(learnt.model, learnt.tokenizer, new=64)
    assert all(text.startswith(prompt) and len(text) > len(prompt) for text, prompt in zip(texts, PROMPTS, strict=True))


def test_the_command_hands_over_what_was_asked(monkeypatch, tmp_path):
    """Forms and options arrive; without a part both are shown, one after the other."""
    seen: list = []
    monkeypatch.setattr(learn_shown, "show", lambda form, folder: seen.append((form, folder)))
    monkeypatch.setattr(search, "search", lambda texts, top, questions: seen.append((texts, top, len(questions))))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main(["demo"]) == 0
    assert seen == [(2000, 3, 5), (ONE_MINUTE, tmp_path / "jaxformers" / "stdlib-llama")]
    assert cli.main(["demo", "learn", "--minutes", "5", "--steps", "7", "--out", str(tmp_path)]) == 0
    form: Form = seen[-1][0]
    assert form.steps == 7 and form.layers > ONE_MINUTE.layers and seen[-1][1] == tmp_path
    assert cli.main(["demo", "search", "--top", "1", "a", "b"]) == 0 and seen[-1] == (2000, 1, 2)


def test_no_steps_is_a_mistake(capsys):
    assert cli.main(["demo", "learn", "--steps", "0"]) == 2
    assert "--steps is 0; expected 1 or more" in capsys.readouterr().err
