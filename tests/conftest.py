"""Settings that must be in place before jax starts, and checkpoints that several tests read."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# benchmarks/gpu/run.sh runs the parity rows on a GPU.
os.environ["JAX_PLATFORMS"] = os.environ.get("JAXFORMERS_TEST_PLATFORM", "cpu")
# Sharding tests need several devices, and the count is fixed once jax has started.
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    flags += " --xla_force_host_platform_device_count=8"
# Tiny models run for microseconds and compile for seconds: without optimisation the suite takes half the time.
if "xla_backend_optimization_level" not in flags:
    flags += " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = flags.strip()
# No persistent compile cache: it gains little in a fresh clone, and programs read back count towards MAPS_LIMIT too.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
# Tests build their own checkpoints and must never wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# libtpu: ahead-of-time compilation for a TPU that is not there, from several test processes at once.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


# A process may map 65530 pieces of memory, every compiled program takes several, and at the limit XLA crashes.
MAPS_LIMIT = 20_000


@pytest.fixture(autouse=True)
def room_for_programs() -> Iterator[None]:
    """Drop all compiled programs once they hold too many memory mappings."""
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > MAPS_LIMIT:
        import jax

        jax.clear_caches()
        gc.collect()


WORDS = "the a cat dog sat on mat red blue house river runs fast slow zip file read write how do i ? . ##s".split()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT checkpoint of two layers with a word tokenizer and sentence-transformers' files."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    model = BertModel(BertConfig(vocab_size=len(vocab), max_position_embeddings=64, **sizes)).eval()
    for parameter in model.parameters():  # no zero or one may hide a wrong map
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    stages = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{stage}"}
        for i, (stage, path) in enumerate(zip(stages, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": False}))
    return folder
