"""Files that transformers' own tokenizer classes write load here as the same tokenizer."""

import shutil

import pytest
import transformers
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from jaxformers.processing import Tokenizer
from tests.processing.compare import FRAGMENTS, assert_same_encoding, assert_same_state

TEXTS = ["", "Hello", "  def f(x):\n", "".join(FRAGMENTS), "import [MASK] <mask> </s> x", "ÀÉ İß 你好🙂"]
BYTES, PIECES, LLAMA = "roberta", "xlm-roberta", "llama"
CLASSES = {
    **dict.fromkeys("Blenderbot Cohere Deberta Esmc GPTNeoX LED Mvp Qwen2 Qwen3_5 Whisper GPT2 Bart".split(), BYTES),
    **dict.fromkeys("Herbert OpenAIGPT MBart50 Nllb Siglip2 Nougat".split(), BYTES),
    **dict.fromkeys("BigBird DebertaV2 FNet MBart Pegasus Reformer T5 XGLM XLNet XLMRoberta".split(), PIECES),
    **dict.fromkeys("Bert DPRQuestionEncoder DPRContextEncoder ConvBert DistilBert Lxmert Splinter".split(), "bert"),
    **dict.fromkeys("CodeLlama Gemma Llama".split(), LLAMA),
}


@pytest.mark.parametrize("name", CLASSES)
def test_files_of_a_class(name, folder, tmp_path):
    shutil.copy(folder(CLASSES[name]) / "tokenizer.json", tmp_path / "tokenizer.json")
    kind = tokenizer_class_from_name(f"{name}Tokenizer")
    kind.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    ours = Tokenizer.from_pretrained(tmp_path / "saved")
    assert type(theirs) is kind
    assert_same_state(ours, theirs)
    for text in TEXTS:
        for pair in (None, "the pair"):
            options = {"text_pair": pair, "truncation": True, "max_length": 40}
            options["padding"] = "max_length" if theirs.pad_token is not None else False
            assert_same_encoding(ours(text, **options), theirs(text, **options))
        ids = theirs(text)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
