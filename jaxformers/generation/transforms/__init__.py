"""Every logits transform by its plain name: `chain(temperature(0.7), top_k(50))`."""

from jaxformers.generation.transforms.bias import bad_words, sequence_bias
from jaxformers.generation.transforms.cutoff import epsilon_cutoff, eta_cutoff, typical
from jaxformers.generation.transforms.finite import remove_invalid_values, renormalize_logits
from jaxformers.generation.transforms.force import forced_bos, forced_eos, suppress_tokens, suppress_tokens_at_begin
from jaxformers.generation.transforms.from_config import transforms_of
from jaxformers.generation.transforms.guidance import classifier_free_guidance, guide, text_guidance
from jaxformers.generation.transforms.length import exponential_decay_length_penalty, min_length, min_new_tokens
from jaxformers.generation.transforms.ngrams import encoder_no_repeat_ngram, no_repeat_ngram
from jaxformers.generation.transforms.prefix import prefix_constrained
from jaxformers.generation.transforms.repetition import encoder_repetition_penalty, repetition_penalty
from jaxformers.generation.transforms.synthid import synthid_watermark
from jaxformers.generation.transforms.synthid_detect import (
    SynthIDBayes,
    synthid_context_repetition_mask,
    synthid_eos_mask,
    synthid_expected_mean,
    synthid_g_values,
    synthid_mask,
    synthid_mean_score,
    synthid_posterior,
    synthid_weighted_mean_score,
)
from jaxformers.generation.transforms.warp import min_p, temperature, top_h, top_k, top_p
from jaxformers.generation.transforms.watermark import watermark
from jaxformers.generation.transforms.watermark_detect import WatermarkDetectorOutput, detect_watermark
from jaxformers.generation.transforms.whisper import no_speech_probability, whisper_timestamps

__all__ = [
    "SynthIDBayes",
    "WatermarkDetectorOutput",
    "bad_words",
    "classifier_free_guidance",
    "detect_watermark",
    "encoder_no_repeat_ngram",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos",
    "forced_eos",
    "guide",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram",
    "no_speech_probability",
    "prefix_constrained",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
    "suppress_tokens_at_begin",
    "synthid_context_repetition_mask",
    "synthid_eos_mask",
    "synthid_expected_mean",
    "synthid_g_values",
    "synthid_mask",
    "synthid_mean_score",
    "synthid_posterior",
    "synthid_watermark",
    "synthid_weighted_mean_score",
    "temperature",
    "text_guidance",
    "top_h",
    "top_k",
    "top_p",
    "transforms_of",
    "typical",
    "watermark",
    "whisper_timestamps",
]
