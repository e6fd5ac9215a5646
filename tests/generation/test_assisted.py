"""Drafts change how fast texts are written, never what: prompt lookup and assisted generation."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers

import jaxformers as jf
from jaxformers.core.errors import ConfigError
from jaxformers.generation import drafting, sample
from jaxformers.generation.loop import draw
from jaxformers.generation.rounds import Draft
from jaxformers.generation.verify import speculative
from tests.generation.fixtures.weights import write_checkpoint
from tests.generation.sides import their_generate

NEW = 14
PROMPT = np.asarray([[7, 8, 9, 10, 11, 30, 7, 8, 9]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints with the same words."""
    folder = tmp_path_factory.mktemp("models")
    return {name: write_checkpoint(name, folder / name) for name in ("llama", "gpt2", "t5")}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, jf.Model]:
    """Ours."""
    auto = {"t5": jf.AutoModelForSeq2SeqLM}
    return {name: auto.get(name, jf.AutoModelForCausalLM).from_pretrained(f) for name, f in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    """transformers'."""
    auto = {"t5": transformers.AutoModelForSeq2SeqLM}
    loaded = {n: auto.get(n, transformers.AutoModelForCausalLM).from_pretrained(f) for n, f in folders.items()}
    return {name: model.eval() for name, model in loaded.items()}


def their_prompt(prompt: np.ndarray) -> dict[str, np.ndarray]:
    """A prompt with its mask."""
    return {"input_ids": prompt, "attention_mask": np.ones_like(prompt)}


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_lookup(models, theirs, name: str) -> None:
    """transformers' tokens, with and without an end; drafts of several tokens are kept."""
    plain = np.asarray(models[name].generate(PROMPT, max_new_tokens=NEW, eos_token_id=None))
    ends = int(plain[0, -4])
    for options in (dict(eos_token_id=None, repetition_penalty=0.6), dict(eos_token_id=[ends], pad_token_id=0)):
        options |= dict(max_new_tokens=NEW, prompt_lookup_num_tokens=3, max_matching_ngram_size=2)
        want = their_generate(theirs[name], their_prompt(PROMPT), do_sample=False, **options).numpy()
        np.testing.assert_array_equal(models[name].generate(PROMPT, **options), want)


@pytest.mark.parametrize("name, helper, schedule", [
    ("llama", "gpt2", "constant"), ("llama", "llama", "heuristic"), ("t5", "t5", "heuristic_transient"),
])  # fmt: skip
def test_assistant(models, theirs, name: str, helper: str, schedule: str) -> None:
    """Greedy tokens of the model itself, whether the assistant is wrong or right."""
    helped = dict(num_assistant_tokens=3, num_assistant_tokens_schedule=schedule, assistant_confidence_threshold=0.0)
    theirs[helper].generation_config.update(**helped)
    options = dict(max_new_tokens=NEW, eos_token_id=None)
    given = their_prompt(PROMPT)
    aid = theirs[helper]
    want = their_generate(theirs[name], given, do_sample=False, assistant_model=aid, **options).numpy()
    got = models[name].generate(PROMPT, assistant_model=models[helper], **helped, **options)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got, models[name].generate(PROMPT, **options))


def test_right_drafts_save_calls(models, monkeypatch: pytest.MonkeyPatch) -> None:
    """With itself as assistant a model writes W + 1 tokens in each round; scores are one for each token."""
    rounds = []
    one = drafting.write_one
    monkeypatch.setattr(drafting, "write_one", lambda *a, **k: rounds.append(1) or one(*a, **k))
    options = dict(max_new_tokens=NEW, eos_token_id=None, return_dict_in_generate=True, output_scores=True)
    helped = dict(assistant_model=models["llama"], num_assistant_tokens=3, assistant_confidence_threshold=0.0)
    got = models["llama"].generate(PROMPT, **options, **helped)
    want = models["llama"].generate(PROMPT, **options)
    assert len(rounds) == 4  # one token without a draft, then 4 + 4 + 4 + 1
    assert len(got.scores) == NEW
    np.testing.assert_allclose(np.stack(got.scores), np.stack(want.scores), atol=1e-4)
    np.testing.assert_array_equal(got.sequences, want.sequences)


def test_lookup_samples_as_without(models) -> None:
    """The same key gives the same tokens, with a stop rule of the caller and a stream too."""
    options = dict(max_new_tokens=NEW, do_sample=True, key=jax.random.key(3), top_k=4, eos_token_id=None)
    options |= dict(stopping_criteria=[lambda ids, scores: ids.shape[1] >= PROMPT.shape[1] + 9])
    want = models["llama"].generate(PROMPT, **options)
    assert want.shape[1] == PROMPT.shape[1] + 9
    np.testing.assert_array_equal(models["llama"].generate(PROMPT, prompt_lookup_num_tokens=3, **options), want)


def test_speculative_sampling_has_the_models_distribution() -> None:
    """The first tokens of rounds against the model's probabilities, by chi-square; the second given the first."""
    rng = np.random.RandomState(0)
    scores, other = rng.randn(3, 6).astype(np.float32), rng.randn(2, 6).astype(np.float32)

    def once(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key)
        tokens = jax.random.categorical(keys[0], other, axis=-1).astype(np.int32)
        return speculative(scores, Draft(tokens, np.int32(2), other), keys[1], np.int32(1), np.float32(1.0), draw)

    count = 20000
    tokens, right = jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(0), count))
    tokens, right = np.asarray(tokens), np.asarray(right)
    assert 0.05 < (right == 2).mean() < 0.95
    for column, rows in ((0, right >= 0), (1, right >= 1), (2, right >= 2)):
        want = np.asarray(jax.nn.softmax(scores[column])) * rows.sum()
        seen = np.bincount(tokens[rows, column], minlength=6)
        assert ((seen - want) ** 2 / want).sum() < 20.5  # 5 degrees of freedom, p = 0.001


def test_assisted_sampling(models) -> None:
    """Reproducible by its key; drafts of a model that is as good all stand."""
    options = dict(max_new_tokens=NEW, do_sample=True, top_k=4, eos_token_id=None, num_assistant_tokens=3)
    a, b, c = (
        np.asarray(models["llama"].generate(PROMPT, assistant_model=models["gpt2"], key=jax.random.key(n), **options))
        for n in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, b)
    assert a.shape[1] == PROMPT.shape[1] + NEW and not np.array_equal(a, c)


def test_caches_grow(models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens stay the same when the first cache is too short for the text, the assistant's as well."""
    options = dict(max_new_tokens=30, eos_token_id=None)
    want = models["llama"].generate(PROMPT, **options)
    monkeypatch.setattr(sample, "FIRST", 4)
    helped = dict(assistant_model=models["gpt2"], num_assistant_tokens=3, assistant_confidence_threshold=0.0)
    np.testing.assert_array_equal(models["llama"].generate(PROMPT, **helped, **options), want)


def test_states_that_cannot_go_back(tmp_path: Path) -> None:
    """Windows keep all their tokens; recurrent models are refused."""
    sizes = dict(vocab_size=60, hidden_size=16, num_hidden_layers=1, initializer_range=0.6)
    heads = dict(num_attention_heads=2, num_key_value_heads=1, intermediate_size=16, sliding_window=6)
    options = dict(max_new_tokens=NEW, eos_token_id=None)
    for kind, more in (("Mistral", heads), ("Mamba", dict(state_size=4))):
        config = getattr(transformers, f"{kind}Config")(**sizes, **more)
        getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(tmp_path / kind)
    windows, recurrent = (jf.AutoModelForCausalLM.from_pretrained(tmp_path / kind) for kind in ("Mistral", "Mamba"))
    drafted = windows.generate(PROMPT, prompt_lookup_num_tokens=3, **options)
    np.testing.assert_array_equal(drafted, windows.generate(PROMPT, **options))
    for model, helped in ((recurrent, dict(prompt_lookup_num_tokens=3)), (windows, dict(assistant_model=recurrent))):
        with pytest.raises(ConfigError, match="recurrent states"):
            model.generate(PROMPT, **helped, **options)


@pytest.mark.parametrize("options, match", [
    (dict(prompt_lookup_num_tokens=0), "1 or more"),
    (dict(prompt_lookup_num_tokens=3, max_matching_ngram_size=0), "1 or more"),
    (dict(prompt_lookup_num_tokens=3, input_ids=np.ones((2, 4), np.int32)), "one text at a time"),
    (dict(prompt_lookup_num_tokens=3, cache_implementation="static"), "dynamic cache"),
    (dict(prompt_lookup_num_tokens=3, guidance_scale=2.0), "guidance_scale"),
    (dict(prompt_lookup_num_tokens=3, return_dict_in_generate=True, output_hidden_states=True), "hidden_states"),
    (dict(prompt_lookup_num_tokens=3, num_beams=2), "greedy search and sampling"),
    (dict(assistant_model="gpt2"), "expected a model"),
    (dict(assistant_model="t5"), "both be encoder-decoders"),
    (dict(assistant_model="gpt2", num_assistant_tokens_schedule="random"), "expected one of constant"),
    (dict(assistant_model="gpt2", num_assistant_tokens=0), "1 or more"),
    (dict(assistant_model="gpt2", assistant_tokenizer="another"), "another tokenizer"),
])  # fmt: skip
def test_what_does_not_go_together(models, options: dict[str, Any], match: str) -> None:
    helper = options.get("assistant_model")
    if helper is not None and match != "expected a model":
        options = {**options, "assistant_model": models[helper]}
    with pytest.raises(ConfigError, match=match):
        models["llama"].generate(**{"input_ids": PROMPT, "max_new_tokens": 6, "eos_token_id": None, **options})
