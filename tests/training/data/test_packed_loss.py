"""From documents to the loss: packed batches cost what their documents cost one by one, token for token."""

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.models import read_config
from jaxformers.training.data import ConcatSplit, FirstFit, FitPairs
from jaxformers.training.data.collate import DataCollatorForSeq2Seq

SIZES = dict(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
RNG = np.random.default_rng(0)


def total(loss, model, batches) -> tuple[float, float]:
    """The sum of losses, and of weights."""
    run = jax.jit(lambda model, batch: loss(model, batch, None))
    out = [run(model, batch) for batch in batches]
    return sum(float(one.total) for one in out), sum(float(one.weight) for one in out)


def test_causal_documents() -> None:
    config = read_config({"model_type": "llama", **SIZES, "num_key_value_heads": 2, "max_position_embeddings": 32})
    model = jf.Model.init(config, jax.random.key(0), task="CausalLM")
    loss = jf.loss_for(model)
    rows = [{"input_ids": RNG.integers(3, 40, length)} for length in (5, 9, 5, 9, 5)]
    alone = total(loss, model, [{"input_ids": r["input_ids"][None], "labels": r["input_ids"][None]} for r in rows])
    packed = list(jf.DataLoader(rows, batch_size=2, epochs=1, last="fill", pack=FirstFit(16)))
    assert len(packed) == 2  # three rows, and one that fills and must not count
    assert total(loss, model, packed) == pytest.approx(alone, rel=1e-5) and alone[1] == 4 * 3 + 8 * 2
    cut = list(jf.DataLoader(rows, batch_size=1, epochs=1, pack=ConcatSplit(11), last="keep"))
    assert total(loss, model, cut)[1] < alone[1]  # where documents are cut, a token has nothing to be guessed from


def test_pairs() -> None:
    fields = dict(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
    model = jf.Model.init(read_config({"model_type": "t5", **fields}), jax.random.key(0), task="Seq2SeqLM")
    loss = jf.loss_for(model)
    rows = [{"input_ids": RNG.integers(3, 40, 5), "labels": RNG.integers(3, 40, 4)} for _ in range(5)]
    alone = total(loss, model, [{name: value[None] for name, value in row.items()} for row in rows])
    pack = FitPairs(16, 12, start=0)
    packed = list(jf.DataLoader(rows, batch_size=2, epochs=1, pack=pack))
    assert len(packed) == 1 and total(loss, model, packed) == pytest.approx(alone, rel=1e-5) and alone[1] == 20
    tokenizer = type("Words", (), dict(pad_token_id=0, padding_side="right", model_input_names=["input_ids"]))()
    collated = list(jf.DataLoader(rows, batch_size=1, epochs=1, pack=pack, collate=DataCollatorForSeq2Seq(tokenizer)))
    assert total(loss, model, collated) == pytest.approx(alone, rel=1e-5)
