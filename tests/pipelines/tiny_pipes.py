"""Tiny checkpoints with real tokenizers, for comparing our pipelines with transformers' on the same folder."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

WORDS = (
    "the a cat dog sat on mat red blue house river runs fast slow zip file read write how do i ? . , berlin lives in"
)
TEXTS = [
    "The cat sat on the mat.",
    "How do I read a zip file?",
    "A red house, a blue river; the dog runs fast in Berlin.",
    "slow dog",
]
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
T5 = dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, decoder_start_token_id=0)
LLAMA = dict(SMALL, num_key_value_heads=2, max_position_embeddings=256)


def word_pieces(folder: Path) -> Any:
    """A BERT tokenizer of a few words and all their letters."""
    words = WORDS.split()
    letters = sorted({c for w in words for c in w})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{c}" for c in letters)]
    vocabulary = list(dict.fromkeys(vocabulary))
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=128)


def byte_pairs(**special: str) -> Any:
    """A byte-level BPE trained on a few sentences."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(special.values()), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator([*TEXTS, WORDS] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=256, **special)


def pieces() -> Any:
    """A unigram tokenizer as T5 has, with an end of text."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    backend.train_from_iterator([*TEXTS, WORDS] * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=128, **special)


def save(folder: Path, cls: str, tokenizer: Any, scale: float = 0.3, **config: Any) -> Path:
    """A random model and its tokenizer in a folder that both libraries read."""
    kind = getattr(transformers, cls)
    torch.manual_seed(0)
    model = kind(kind.config_class(vocab_size=len(tokenizer), **config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
