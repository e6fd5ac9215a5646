"""Several texts packed in one row: positions that start again keep the texts apart, as in transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import jaxformers as jf
from tests.hub import tiny

IDS = np.random.RandomState(0).randint(3, 96, (2, 12))
POSITIONS = np.array([[*range(5), *range(7)], [*range(2), *range(4), *range(6)]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny.llama(path, num_hidden_layers=2)
    return path


def test_packed_positions(folder: Path) -> None:
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder)
    model = jf.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        want = theirs(torch.tensor(IDS), position_ids=torch.tensor(POSITIONS), use_cache=False).logits
    got = np.asarray(model(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits)
    np.testing.assert_allclose(got, want, atol=1e-5)
    alone = np.asarray(model(input_ids=IDS[:1, 5:]).logits)
    np.testing.assert_allclose(got[:1, 5:], alone, atol=1e-5)


def test_a_mask_or_plain_positions_pack_nothing(folder: Path) -> None:
    """Nor do jumping positions by themselves: transformers then makes a cache, and packs nothing."""
    model = jf.AutoModelForCausalLM.from_pretrained(folder)
    plain = np.asarray(model(input_ids=IDS).logits)
    counted = np.broadcast_to(np.arange(12), IDS.shape)
    np.testing.assert_allclose(model(input_ids=IDS, position_ids=counted).logits, plain, atol=1e-5)
    masked = model(input_ids=IDS, position_ids=POSITIONS, attention_mask=np.ones_like(IDS)).logits
    np.testing.assert_allclose(model(input_ids=IDS, position_ids=POSITIONS).logits, masked, atol=1e-5)
    with pytest.raises(ValueError, match="use_cache=True needs a cache to fill"):
        model(input_ids=IDS, use_cache=True)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        mask = torch.ones(IDS.shape, dtype=torch.long)
        want = theirs(torch.tensor(IDS), position_ids=torch.tensor(POSITIONS), attention_mask=mask).logits
    np.testing.assert_allclose(masked, want, atol=1e-5)
