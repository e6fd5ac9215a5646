"""The chain of a config has transformers' processors in transformers' order, and gives transformers' scores."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GenerationConfig as TheirConfig
from transformers import GenerationMixin
from transformers import WatermarkingConfig as TheirWatermark
from transformers.generation import logits_process as theirs
from transformers.generation.configuration_utils import SynthIDTextWatermarkingConfig as TheirSynthID

from jaxformers.core.errors import ConfigError
from jaxformers.generation import transforms as ours
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.transform import Chain, Own, chain
from tests.generation.transforms.side_by_side import (
    VOCABULARY,
    compiled,
    random_scores,
    random_tokens,
    run,
    same,
    seen_of,
    torched,
)

PROMPT, EOS, ROWS = 4, (2, 30), 4
NAMES = {
    "SequenceBias": "SequenceBiasLogitsProcessor",
    "EncoderRepetitionPenalty": "EncoderRepetitionPenaltyLogitsProcessor",
    "RepetitionPenalty": "RepetitionPenaltyLogitsProcessor",
    "NoRepeatNGram": "NoRepeatNGramLogitsProcessor",
    "EncoderNoRepeatNGram": "EncoderNoRepeatNGramLogitsProcessor",
    "BadWords": "NoBadWordsLogitsProcessor",
    "MinLength": "MinLengthLogitsProcessor",
    "MinNewTokens": "MinNewTokensLengthLogitsProcessor",
    "PrefixConstrained": "PrefixConstrainedLogitsProcessor",
    "ForcedBos": "ForcedBOSTokenLogitsProcessor",
    "ForcedEos": "ForcedEOSTokenLogitsProcessor",
    "RemoveInvalidValues": "InfNanRemoveLogitsProcessor",
    "ExponentialDecayLengthPenalty": "ExponentialDecayLengthPenalty",
    "SuppressTokens": "SuppressTokensLogitsProcessor",
    "SuppressTokensAtBegin": "SuppressTokensAtBeginLogitsProcessor",
    "Temperature": "TemperatureLogitsWarper",
    "TopH": "TopHLogitsWarper",
    "TopK": "TopKLogitsWarper",
    "TopP": "TopPLogitsWarper",
    "MinP": "MinPLogitsWarper",
    "Typical": "TypicalLogitsWarper",
    "EpsilonCutoff": "EpsilonLogitsWarper",
    "EtaCutoff": "EtaLogitsWarper",
    "Watermark": "WatermarkLogitsProcessor",
    "SynthIDWatermark": "SynthIDTextWatermarkLogitsProcessor",
    "RenormalizeLogits": "LogitNormalization",
}
KGW = dict(greenlist_ratio=0.5, bias=1.5, hashing_key=101, seeding_scheme="lefthash", context_width=1)
SYNTHID = dict(ngram_len=3, keys=[1, 2, 3], context_history_size=8, sampling_table_seed=1, sampling_table_size=64)
CONFIGS = {
    "nothing": dict(),
    "neutral": dict(temperature=1.0, top_k=0, top_p=1.0, typical_p=1.0, repetition_penalty=1.0, do_sample=True),
    "warps without sampling": dict(temperature=0.5, top_k=3, top_p=0.5, do_sample=False),
    "usual": dict(do_sample=True, temperature=0.7, top_k=20, top_p=0.9),
    "every warp": dict(
        do_sample=True, temperature=1.4, top_h=0.9, top_k=30, top_p=0.95, min_p=0.01, typical_p=0.95,
        epsilon_cutoff=3e-3, eta_cutoff=1e-2,
    ),
    "beam sampling": dict(
        do_sample=True, num_beams=2, top_k=1, top_p=0.2, min_p=0.9, typical_p=0.3, epsilon_cutoff=0.5, eta_cutoff=0.5
    ),
    "repetition": dict(repetition_penalty=1.3, no_repeat_ngram_size=2),
    "encoder": dict(encoder_repetition_penalty=1.2, encoder_no_repeat_ngram_size=2),
    "biases": dict(sequence_bias=[[[3], 2.0], [[6, 9], -1.5]], bad_words_ids=[[5], [2], [3, 6]]),
    "lengths": dict(min_length=6, min_new_tokens=3, exponential_decay_length_penalty=(2, 1.5)),
    "zero lengths": dict(min_length=0, min_new_tokens=0),
    "forced": dict(forced_bos_token_id=7, forced_eos_token_id=[2, 30], max_length=10),
    "suppressed": dict(suppress_tokens=[1, 8], begin_suppress_tokens=[4, 5]),
    "suppressed after bos": dict(begin_suppress_tokens=[4, 5], forced_bos_token_id=7),
    "finite": dict(remove_invalid_values=True, renormalize_logits=True),
    "prefix": dict(prefix_allowed_tokens_fn=lambda row, tokens: [row, int(tokens[-1]), 5, 6]),
    "prefix and beams": dict(num_beams=2, prefix_allowed_tokens_fn=lambda row, tokens: [row, 20]),
    "watermark": dict(watermarking_config=KGW, do_sample=True, top_k=9),
    "synthid": dict(watermarking_config=SYNTHID, renormalize_logits=True),
    "beams": dict(num_beams=2, renormalize_logits=True, no_repeat_ngram_size=3, min_length=9, repetition_penalty=0.8),
}  # fmt: skip
CONFIGS["everything"] = {
    **{key: value for one in CONFIGS.values() for key, value in one.items() if key != "prefix_allowed_tokens_fn"},
    **CONFIGS["every warp"],
    "num_beams": 1,
    # A banned end made finite again would be made infinitely likely by the length penalty, here as there.
    "remove_invalid_values": False,
}


def their_list(settings, prompt, encoder, mask, own=()):
    """transformers' own list for a decoder with the vocabulary of the tests."""
    settings = dict(settings)
    function, marking = settings.pop("prefix_allowed_tokens_fn", None), settings.pop("watermarking_config", None)
    config = TheirConfig(**settings)
    if marking is not None:
        config.watermarking_config = TheirSynthID(**marking) if "keys" in marking else TheirWatermark(**marking)
    config._eos_token_tensor = torch.tensor(EOS)
    config.num_beams = config.num_beams or 1
    text = SimpleNamespace(vocab_size=VOCABULARY)
    model = SimpleNamespace(
        config=SimpleNamespace(is_encoder_decoder=False, get_text_config=lambda: text),
        _merge_criteria_processor_list=lambda *lists: GenerationMixin._merge_criteria_processor_list(None, *lists),
    )
    return GenerationMixin._get_logits_processor(
        model,
        generation_config=config,
        input_ids_seq_length=prompt,
        encoder_input_ids=torch.tensor(encoder),
        prefix_allowed_tokens_fn=function,
        logits_processor=theirs.LogitsProcessorList(own),
        device="cpu",
        model_kwargs={"attention_mask": torch.tensor(mask)},
    )


def our_chain(settings, encoder, padding, own=()):
    settings = dict(settings)
    function = settings.pop("prefix_allowed_tokens_fn", None)
    return ours.transforms_of(
        GenerationConfig(**settings),
        own=own,
        beams=settings.get("num_beams", 1),
        eos=EOS,
        padding=padding,
        encoder_real=jnp.ones(encoder.shape[1], bool),
        vocab_size=VOCABULARY,
        prefix_allowed_tokens_fn=function,
    )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_order_and_scores(name):
    settings = CONFIGS[name]
    encoder, padding = random_tokens(2, 6, 9), np.array([0, 2, 1, 0])
    prompt = 1 if "forced_bos_token_id" in settings else PROMPT
    padding = np.minimum(padding, prompt - 1)
    mask = np.arange(prompt) >= padding[:, None]
    tokens = random_tokens(ROWS, 12)
    mine = our_chain(settings, encoder, padding)
    yours = their_list(settings, prompt, encoder, mask)
    assert [NAMES[type(one).__name__] for one in mine.transforms] == [type(one).__name__ for one in yours]
    assert bool(mine.transforms) == (name not in ("nothing", "neutral", "warps without sampling", "zero lengths"))
    for length in range(prompt, 12):  # SynthID in transformers counts its calls, so none may be left out
        scores = random_scores(ROWS, length)
        got = compiled(mine.transforms)(scores, seen_of(tokens[:, :length], prompt, encoder, junk=length))
        same(got, torched(yours, scores, tokens[:, :length]), rtol=1e-5)


def test_the_callers_transforms_come_before_the_warps_or_replace():
    settings = CONFIGS["usual"] | CONFIGS["lengths"]
    encoder, mask = random_tokens(2, 6), np.ones((ROWS, PROMPT), int)
    mine = our_chain(settings, encoder, None, [Halved(), ours.min_length(9, 2), ours.temperature(0.5)])
    own = [TheirHalved(), theirs.MinLengthLogitsProcessor(9, 2), theirs.TemperatureLogitsWarper(0.5)]
    yours = their_list(settings, PROMPT, encoder, mask, own)
    names = {**NAMES, "Own": "TheirHalved"}
    assert [names[type(one).__name__] for one in mine.transforms] == [type(one).__name__ for one in yours]
    assert mine.transforms[0].min_length == 9
    scores, tokens = random_scores(ROWS), random_tokens(ROWS, 7)
    same(run(mine, scores, seen_of(tokens, PROMPT)), torched(yours, scores, tokens))
    for given in (halve, [halve], chain(halve)):
        assert ours.transforms_of(GenerationConfig(), own=given) == Chain((Own(halve),))


def halve(scores, seen):
    return scores / 2


def Halved():
    return halve


class TheirHalved(theirs.LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores / 2


def test_without_encoder_tokens_its_penalties_warn_and_do_nothing():
    with pytest.warns(UserWarning, match="encoder_repetition_penalty"):
        assert ours.transforms_of(GenerationConfig(encoder_repetition_penalty=1.5)) == Chain()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (dict(exponential_decay_length_penalty=(2, 1.5)), "eos_token_id"),
        (dict(forced_eos_token_id=2), "max_length"),
        (dict(watermarking_config=KGW), "vocab_size"),
    ],
)
def test_says_what_is_missing(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        ours.transforms_of(GenerationConfig(**settings))


@pytest.mark.parametrize("field", ["forced_bos_token_id", "forced_eos_token_id"])
def test_refuses_to_force_what_cannot_be_written(field):
    with pytest.raises(ConfigError, match="99"):
        ours.transforms_of(GenerationConfig(**{field: 99, "max_length": 9}), vocab_size=VOCABULARY)
