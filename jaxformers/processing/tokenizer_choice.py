"""Which tokenizer class a folder asks for: transformers weighs tokenizer_config.json against the model type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERIC = "PreTrainedTokenizerFast"  # takes tokenizer.json as it is
GENERIC_NAMES = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "Bloom", GENERIC)

# Model types whose tokenizer is tokenizer.json itself, whatever class their files name.
AS_WRITTEN = frozenset(
    """
    EvollaModel arctic aria beam bigbird_pegasus camembertv2-base canary chatlm cohere_asr ernie4_5 ernie4_5_moe
    flex_olmo fuyu glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe glm_image glmasr got_ocr2 gpt_bigcode
    gradium_phonon_tts granite granitemoe granitemoehybrid granitemoeshared h2ovl_chat hyperclovax hyperclovax_vlm
    internlm2 internlm3 iquestcoder jamba kimi_k25 kimi_linear kosmos-2 llava llava_next mimo_v2_flash minicpm3
    minicpm_ocr minicpmv minicpmv4_6 minicpmv4_7 minimax_m2 ministral ministral3 mistral mistral3 mistral_large4
    mixtral modernbert modernbert-decoder molmo molmo2 nemo_speechlm nemotron nvfp4 nystromformer olmo2 olmo3
    olmo_hybrid opencua openvla paddleocr_vl pegasus_x persimmon phi3 phi3_v phimoe pix2struct pixtral pocket_tts
    smolvlm stablelm step3_vl umt5 vipllava voxtral voxtral_realtime xlm-roberta-xl
    """.split()
)
# Model types whose files are known to name the wrong class.
CORRECTED = {
    "qwen2": "Qwen2",
    "qwen3_5": "Qwen3_5",
    "qwen3_5_moe": "Qwen3_5",
    "qwen3_5_moe_text": "Qwen3_5",
    "qwen4_exp": "Qwen3_5",
    "hyperclovax_vision_v2": "GPT2",
    "siglip2": "Siglip2",
}
# The class of model types whose files name none.
BY_MODEL_TYPE = {
    model_type: name
    for name, model_types in {
        "Bert": "align bark bert blip bros chinese_clip convbert distilbert electra ernie flava git grounding-dino "
        "layoutlm megatron-bert mm-grounding-dino nezha nomic_bert qdqbert realm retribert squeezebert tvp vilt "
        "visual_bert",
        "DPRQuestionEncoder": "dpr",
        "MobileBert": "mobilebert",
        "Lxmert": "lxmert",
        "MPNet": "mpnet",
        "GPT2": "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip instructblipvideo jais2 "
        "opt phi starcoder2",
        "Roberta": "bart bridgetower clap data2vec-text ibert lilt longformer mega mra roberta roberta-prelayernorm",
        "Bart": "florence2",
        "LED": "led",
        "Mvp": "mvp",
        "GPTNeoX": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm",
        "Qwen2": "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl internvl "
        "moss_transcribe_diarize ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl "
        "qwen3 qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe lighton_ocr vibevoice",
        "Cohere": "aya_vision cohere cohere2",
        "CLIP": "aimv2 clip clipseg groupvit omdet-turbo oneformer owlv2 owlvit sam3 sam3_video xclip",
        "Llama": "idefics idefics2",
        "CodeLlama": "code_llama",
        "Gemma": "diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 "
        "t5gemma zaya",
        "XLMRoberta": "gte jina_embeddings_v3 metaclip_2 trocr xlm-roberta xmod",
        "T5": "mt5 musicgen musicgen_melody switch_transformers t5",
        "Deberta": "deberta",
        "DebertaV2": "deberta-v2",
        "Siglip2": "siglip2",
        "XLNet": "xlnet",
        "FNet": "fnet",
        "Albert": "albert yoso",
        "Whisper": "whisper",
        "Marian": "marian",
        "Siglip": "siglip",
        "ByT5": "byt5",
        "Canine": "canine",
        "Wav2Vec2CTC": "data2vec-audio hubert unispeech unispeech-sat wav2vec2 wav2vec2-bert wav2vec2-conformer",
    }.items()
    for model_type in model_types.split()
}


def choose_class(
    tokenizer_config: Mapping[str, Any], model_config: Mapping[str, Any], byte_level: bool, override: str | None = None
) -> str:
    """Return the class whose rules apply, as "Bert"; GENERIC when tokenizer.json alone decides."""
    if override is not None:
        return short_name(override)
    named = tokenizer_config.get("tokenizer_class") or model_config.get("tokenizer_class")
    model_type = model_config.get("model_type")
    if not named:
        return GENERIC if model_type in AS_WRITTEN else BY_MODEL_TYPE.get(model_type or "", GENERIC)
    name = short_name(named)
    if name == "Llama" and byte_level and model_type not in CORRECTED:
        return GENERIC  # Llama 3 style files that name the class of Llama 2
    if model_type in AS_WRITTEN:
        return GENERIC
    return CORRECTED.get(model_type or "", name)


def short_name(class_name: str) -> str:
    """Return "Bert" for BertTokenizerFast, GENERIC for classes that add no rules of their own."""
    if class_name in GENERIC_NAMES:
        return GENERIC
    name = class_name.removesuffix("Fast").removesuffix("Tokenizer")
    return GENERIC if name in GENERIC_NAMES else name
