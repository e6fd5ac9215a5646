"""Collators: what transformers' ones make of the same rows, shapes, and draws that depend on nothing but their seed."""

import copy

import numpy as np
import pytest
import transformers

import jaxformers as jf
from jaxformers.core.errors import DataError
from jaxformers.training.data import ConcatSplit, FirstFit, Tokenize, collate
from jaxformers.training.data.collate.language_modeling import begin_by_offsets
from jaxformers.training.data.collate.spans import noise_mask, with_sentinels
from jaxformers.training.data.draws import Draws
from tests.training.data.words import word_tokenizer

TEXTS = ["the cat sat on the mat .", "a dog", "the red house fast ##s zip file", "read"]


@pytest.fixture(scope="module")
def ours(tiny_bert):
    return jf.AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture(scope="module")
def theirs(tiny_bert):
    return transformers.AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


def encoded(tokenizer, texts=TEXTS, **options) -> list[dict]:
    return [dict(tokenizer(text, **options)) for text in texts]


def same(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 14}])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_that_of_transformers(ours, theirs, options, side, monkeypatch) -> None:
    monkeypatch.setattr(ours, "padding_side", side)
    monkeypatch.setattr(theirs, "padding_side", side)
    plain = [{**row, "label": i} for i, row in enumerate(encoded(ours))]
    want = transformers.DataCollatorWithPadding(theirs, return_tensors="np", **options)([dict(row) for row in plain])
    same(collate.DataCollatorWithPadding(ours, **options)(plain), dict(want))
    tokens = [{**row, "labels": list(range(len(row["input_ids"])))} for row in encoded(ours)]
    want = transformers.DataCollatorForTokenClassification(theirs, return_tensors="np", **options)(tokens)
    same(collate.DataCollatorForTokenClassification(ours, **options)(tokens), dict(want))
    pairs = [{**row, "labels": [5, 6, 7][: i + 1]} for i, row in enumerate(encoded(ours, TEXTS[:3]))]
    want = transformers.DataCollatorForSeq2Seq(theirs, return_tensors="np", **options)(pairs)
    same(collate.DataCollatorForSeq2Seq(ours, model="any", **options)(pairs), dict(want))
    choices = [{**dict(ours(TEXTS[:3])), "labels": 2}, {**dict(ours(TEXTS[1:])), "labels": 0}]
    want = transformers.DataCollatorForMultipleChoice(theirs, return_tensors="pt", **options)(choices)
    same(collate.DataCollatorForMultipleChoice(ours, **options)(choices), {k: v.numpy() for k, v in want.items()})


def test_buckets_keep_shapes_few(ours) -> None:
    collator = collate.DataCollatorWithPadding(ours, buckets=(6, 12))
    assert collator(encoded(ours, TEXTS[1:2]))["input_ids"].shape == (1, 6)
    assert collator(encoded(ours))["input_ids"].shape == (4, 12)
    loader = jf.DataLoader(encoded(ours, ["a " * 20]), batch_size=1, collate=collator)
    with pytest.raises(DataError, match="row 0 of the data, field 'input_ids': has 22 tokens, the largest bucket 12"):
        list(loader)
    with pytest.raises(DataError, match="row 1 of the data, field 'input_ids': is missing"):
        list(jf.DataLoader([encoded(ours)[0], {"text": "a"}], batch_size=2, collate=collator))


def test_causal_labels_are_the_tokens(ours, theirs) -> None:
    rows = encoded(ours)
    want = transformers.DataCollatorForLanguageModeling(theirs, mlm=False, return_tensors="np")(rows)
    same(collate.DataCollatorForLanguageModeling(ours, mlm=False)(rows), dict(want))
    same(collate.collator_for("CausalLM", ours)(rows), dict(want))
    given = [{**row, "labels": [-100, *row["input_ids"][1:]]} for row in rows]
    labels = collate.collator_for("CausalLM", ours)(given)["labels"]
    assert (labels[:, 0] == -100).all() and labels[1, 1:4].tolist() == rows[1]["input_ids"][1:]


def test_an_end_that_is_also_the_padding_is_learnt(words) -> None:
    words = copy.deepcopy(words)
    words.pad_token = words.eos_token
    batch = collate.DataCollatorForLanguageModeling(words, mlm=False)(encoded(words, ["one two", "one"]))
    end = words.eos_token_id
    assert batch["labels"][1].tolist() == [*batch["input_ids"][1][:2], end, -100]


def masked(collator, tokenizer, rows: int = 400) -> tuple[np.ndarray, dict]:
    """Ids before, and a batch of equally long rows after masking."""
    row = dict(tokenizer("the cat sat on the mat . how do i read a zip file ?"))
    batch = collator([dict(row) for _ in range(rows)], draws=Draws(0, 0, range(rows)))
    return np.broadcast_to(row["input_ids"], batch["input_ids"].shape), batch


def test_masked_tokens_are_chosen_and_replaced_in_transformers_shares(ours, theirs) -> None:
    before, batch = masked(collate.DataCollatorForLanguageModeling(ours), ours)
    ids, labels = batch["input_ids"], batch["labels"]
    chosen = labels != -100
    special = np.isin(before, ours.all_special_ids)
    assert not chosen[special].any() and (labels[chosen] == before[chosen]).all()
    assert (ids == before)[~chosen].all()
    share = lambda what, of: float(what[of].mean())  # noqa: E731
    assert share(chosen, ~special) == pytest.approx(0.15, abs=0.015)
    assert share(ids == ours.mask_token_id, chosen) == pytest.approx(0.8, abs=0.04)
    kept = (ids == before) & chosen
    assert share(kept, chosen) == pytest.approx(0.1 + 0.1 / len(ours), abs=0.03)
    reference = transformers.DataCollatorForLanguageModeling(theirs, return_tensors="np", seed=0)
    want = reference([{"input_ids": row.tolist()} for row in before])
    assert share(chosen, ~special) == pytest.approx(share(want["labels"] != -100, ~special), abs=0.02)


def test_whole_words_are_masked_whole(ours, theirs) -> None:
    collator = collate.DataCollatorForLanguageModeling(ours, whole_word_mask=True, mlm_probability=0.4)
    ids = ours.convert_tokens_to_ids("[CLS] read ##s ##s the cat ##s a [SEP]".split())
    groups = [[1, 2, 3], [4], [5, 6], [7]]
    # As a BERT tokenizer writes them for "readss the cats a".
    spans = [(0, 0), (0, 4), (4, 5), (5, 6), (7, 10), (11, 14), (14, 15), (16, 17), (0, 0)]
    for offsets in (True, False):
        row = {"input_ids": ids, "offset_mapping": spans if offsets else None}
        batch = collator([row] * 60, draws=Draws(0, 0, range(60)))
        chosen = batch["labels"] != -100
        for group in groups:
            assert (chosen[:, group] == chosen[:, group[:1]]).all() and 0 < chosen[:, group[0]].mean() < 0.8
        assert (batch["input_ids"][chosen] == ours.mask_token_id).all() and not chosen[:, [0, 8]].any()
        assert "offset_mapping" not in batch
    special = np.array([1, 0, 0, 0, 0, 0, 0, 0, 1])
    reference = transformers.DataCollatorForLanguageModeling._calc_word_ids_and_prob_mask
    want, _ = reference(np.array([spans]), special[None])
    begins = begin_by_offsets(np.array(spans), special.astype(bool))
    np.testing.assert_array_equal(np.where(special, -1, np.cumsum(begins)), want[0])


RANDOM = {
    "mlm": lambda words: collate.DataCollatorForLanguageModeling(words),
    "spans": lambda words: collate.DataCollatorForSpanCorruption(words, mean_span=1.0),
    "denoising": lambda words: collate.DataCollatorForDenoising(words),
}
LONG = "one two three . four five six . seven one two three four . five six seven one two ."


@pytest.mark.parametrize("kind", RANDOM)
def test_draws_depend_on_the_rows_place_alone(words, kind) -> None:
    """Not on the rows beside it, how far the batch is padded, or which process makes it."""
    rows = encoded(words, [LONG, LONG + " one two", "one two three four", LONG])
    collator = RANDOM[kind](words)
    together = collator(rows, draws=Draws(5, 1, [8, 9, 10, 11]))
    for place in range(4):
        alone = collator(rows[place : place + 1], draws=Draws(5, 1, [8 + place]))
        for name in ("input_ids", "labels"):
            length = alone[name].shape[1]
            np.testing.assert_array_equal(together[name][place, :length], alone[name][0])
    other = collator(rows, draws=Draws(5, 2, [8, 9, 10, 11]))
    assert any(not np.array_equal(together[name], other[name]) for name in ("input_ids", "labels"))
    fresh = [collator(rows)["input_ids"].tolist() for _ in range(6)]
    assert any(one != fresh[0] for one in fresh)


def test_span_corruption_is_laid_out_as_t5_was_trained(words) -> None:
    ids = np.array(words(LONG, add_special_tokens=False)["input_ids"])
    row = {"input_ids": words(LONG, add_special_tokens=False)["input_ids"]}
    collator = collate.DataCollatorForSpanCorruption(words)
    sentinels = words.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(12)])
    end = words.eos_token_id
    for seed in range(20):
        batch = collator([row], draws=Draws(seed, 0, [0]))
        source, target = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        assert source.pop() == target.pop() == end
        spans = sum(token in sentinels for token in source)
        assert [t for t in source if t in sentinels] == [t for t in target if t in sentinels] == sentinels[:spans]
        hidden, current = {}, None
        for token in target:
            if token in sentinels:
                current = hidden.setdefault(token, [])
            else:
                current.append(token)
        assert all(hidden.values()) and sum(map(len, hidden.values())) == round(len(ids) * 0.15)
        restored = [t for token in source for t in (hidden[token] if token in sentinels else [token])]
        assert restored == ids.tolist()


def test_the_example_of_t5s_paper(words) -> None:
    """Figure 2 of arXiv:1910.10683: "Thank you <X> me to your party <Y> week", "<X> for inviting <Y> last <Z>"."""
    ids, sentinels = np.arange(10), np.array([100, 101, 102])
    noise = np.array([0, 0, 1, 1, 0, 0, 0, 0, 1, 0], bool)
    assert with_sentinels(ids, noise, sentinels).tolist() == [0, 1, 100, 4, 5, 6, 7, 101, 9]
    # The figure's last sentinel is the end of the text here, as in T5's own code.
    assert with_sentinels(ids, ~noise, sentinels)[1:].tolist() == [2, 3, 101, 8, 102]


def test_packed_rows_are_corrupted_to_one_shape(words) -> None:
    assert collate.span_lengths(512) == (568, 114)  # of T5's own recipe
    tokens, targets = collate.span_lengths(20, mean_span=2.0)
    rows = [{"text": "one two three . " * (1 + i % 4)} for i in range(40)]
    loader = jf.DataLoader(
        rows,
        batch_size=3,
        epochs=1,
        transform=Tokenize(words, end=True, options={"add_special_tokens": False}),
        pack=ConcatSplit(tokens),
        collate=collate.DataCollatorForSpanCorruption(words, mean_span=2.0),
    )
    batches = list(loader)
    assert {(batch["input_ids"].shape, batch["labels"].shape) for batch in batches} == {((3, 20), (3, targets))}
    assert len(batches) > 3 and all((batch["labels"] >= 0).all() for batch in batches)
    assert (batches[0]["input_ids"] == words.eos_token_id).sum() > 3  # texts inside a row still end


def test_noise_is_spread_over_all_places() -> None:
    masks = np.stack([noise_mask(40, 0.15, 3.0, np.random.default_rng(i)) for i in range(500)])
    assert (masks.sum(axis=1) == 6).all() and not masks[:, 0].any()
    starts = (masks[:, 1:] & ~masks[:, :-1]).sum(axis=1)
    assert (starts == 2).all()
    assert masks[:, 2:].mean(axis=0).min() > 0.03


def test_denoising_keeps_order_between_masks_and_permutes_sentences(words) -> None:
    ids = words(LONG)["input_ids"]
    mask, stop = words.mask_token_id, words.convert_tokens_to_ids(".")
    still = collate.DataCollatorForDenoising(words, permute=0.0)
    moved = collate.DataCollatorForDenoising(words, mask_ratio=0.0)
    cut = lambda row: np.split(row, np.flatnonzero(np.array(row) == stop) + 1)  # noqa: E731
    sentences = lambda row: sorted(part.tolist() for part in cut(row))  # noqa: E731
    changed = 0
    for seed in range(20):
        batch = still([{"input_ids": ids}], draws=Draws(seed, 0, [0]))
        assert batch["labels"][0].tolist() == ids
        noisy = batch["input_ids"][0].tolist()
        kept = [token for token in noisy if token != mask]
        assert len(ids) - len(kept) == round((len(ids) - 2) * 0.3) and mask in noisy
        assert (noisy[0], noisy[-1]) == (ids[0], ids[-1]) and mask not in (noisy[0], noisy[-1])
        rest = iter(ids)
        assert all(token in rest for token in kept)  # a subsequence
        assert not any(a == b == mask for a, b in zip(noisy, noisy[1:], strict=False))
        other = moved([{"input_ids": ids}], draws=Draws(seed, 0, [0]))["input_ids"][0].tolist()
        assert sentences(other[1:-1]) == sentences(ids[1:-1]) and (other[0], other[-1]) == (ids[0], ids[-1])
        changed += other != ids
    assert changed > 15


def test_mixed_images_and_labels_have_the_same_shares() -> None:
    rows = [{"pixel_values": np.full((2, 8, 8), float(i)), "label": i} for i in range(6)]
    for options in ({"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}):
        batch = collate.DataCollatorForImageClassification(**options, classes=6)(rows, draws=Draws(0, 0, range(6)))
        assert batch["soft_labels"].shape == (6, 6) and batch["pixel_values"].dtype == np.float32
        np.testing.assert_allclose(batch["soft_labels"].sum(axis=1), 1, rtol=1e-6)
        # Image i is all i, so that the mean of a mixed one is the mean of its labels.
        np.testing.assert_allclose(
            batch["pixel_values"].mean(axis=(1, 2, 3)), batch["soft_labels"] @ np.arange(6), rtol=1e-5
        )
        assert (batch["soft_labels"].max(axis=1) < 1).any()
    plain = collate.DataCollatorForImageClassification()(rows)
    assert plain["labels"].tolist() == list(range(6))
    smooth = collate.DataCollatorForImageClassification(classes=6, label_smoothing=0.6)(rows)["soft_labels"]
    np.testing.assert_allclose(smooth[0], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], rtol=1e-6)
    with pytest.raises(ValueError, match="say how many with classes="):
        collate.DataCollatorForImageClassification(mixup=1.0)


def test_objects_have_places_of_their_own() -> None:
    rows = [
        {"pixel_values": np.ones((3, 4, 6)), "labels": {"class_labels": [1, 2], "boxes": np.full((2, 4), 0.5)}},
        {"pixel_values": np.ones((3, 5, 2)), "labels": {"class_labels": [3], "boxes": [[0.1, 0.2, 0.3, 0.4]]}},
    ]
    batch = collate.collator_for("ObjectDetection", room=3)(rows)
    assert batch["pixel_values"].shape == (2, 3, 5, 6) and batch["pixel_mask"].sum(axis=(1, 2)).tolist() == [24, 10]
    assert batch["class_labels"].tolist() == [[1, 2, -100], [3, -100, -100]] and batch["boxes"].shape == (2, 3, 4)
    assert batch["pixel_values"].sum() == 3 * 34
    fixed = collate.DataCollatorForObjectDetection(size=(8, 8))(rows)
    assert fixed["pixel_values"].shape == (2, 3, 8, 8) and fixed["class_labels"].shape == (2, 100)
    for options, message in (
        ({"room": 1}, "row 0 .* has 2 objects, there is room for 1"),
        ({"size": (4, 4)}, "row 0 .* 4 by 6"),
    ):
        loader = jf.DataLoader(rows, batch_size=2, collate=collate.DataCollatorForObjectDetection(**options))
        with pytest.raises(DataError, match=message):
            list(loader)


def test_pairs_are_padded_part_by_part(ours) -> None:
    rows = [
        {**dict(ours(a)), **{f"positive_{k}": v for k, v in dict(ours(b)).items()}}
        for a, b in [("a dog", "the red house runs"), ("cat", "a")]
    ]
    batch = collate.DataCollatorForPairs(ours)(rows)
    assert batch["input_ids"].shape == (2, 4) and batch["positive_input_ids"].shape == (2, 6)
    assert batch["positive_attention_mask"].sum(axis=1).tolist() == [6, 3]
    clip = [{**row, "pixel_values": np.zeros((3, 4, 4))} for row in encoded(ours, TEXTS[:2])]
    assert collate.collator_for("ZeroShotImageClassification", ours)(clip)["pixel_values"].shape == (2, 3, 4, 4)


def test_sounds_and_labels_have_lengths_of_their_own(words) -> None:
    rows = [{"input_values": np.ones(n, np.float32), "labels": list(range(k))} for n, k in ((50, 3), (30, 5))]
    batch = collate.DataCollatorForCTC(None, pad_to_multiple_of=16)(rows)
    assert batch["input_values"].shape == batch["attention_mask"].shape == (2, 64)
    assert batch["attention_mask"].sum(axis=1).tolist() == [50, 30] and batch["input_values"][1, 30:].max() == 0
    assert batch["labels"].tolist() == [[0, 1, 2, -100, -100], [0, 1, 2, 3, 4]]
    spoken = [{"input_features": np.zeros((8, 20), np.float32), "labels": [7, *range(k)]} for k in (2, 3)]
    batch = collate.DataCollatorForSpeechSeq2Seq(None, decoder_start_token_id=7)(spoken)
    assert batch["input_features"].shape == (2, 8, 20) and batch["labels"].tolist() == [[0, 1, -100], [0, 1, 2]]
    kept = collate.DataCollatorForSpeechSeq2Seq(None, decoder_start_token_id=6)(spoken)
    assert kept["labels"].shape == (2, 4)


def test_packed_rows_are_collated_and_masked(words) -> None:
    rows = encoded(words, [LONG, "one two", "three four five"])
    loader = jf.DataLoader(
        rows,
        batch_size=1,
        pack=FirstFit(32, pad=words.pad_token_id),
        collate=collate.DataCollatorForLanguageModeling(words, mlm_probability=0.5),
        epochs=1,
    )
    (batch,) = list(loader)
    assert "attention_mask" not in batch and batch["segment_ids"].max() == 3
    hidden = batch["labels"] != -100
    assert hidden.any() and not hidden[batch["segment_ids"] == 0].any()


def test_tokenizers_without_what_a_collator_needs_are_refused(ours, words) -> None:
    ours, words = copy.deepcopy(ours), copy.deepcopy(words)
    with pytest.raises(ValueError, match="ends texts with the tokenizer's eos_token"):
        collate.DataCollatorForSpanCorruption(ours)
    ours.eos_token = "[SEP]"
    with pytest.raises(ValueError, match="<extra_id_0>"):
        collate.DataCollatorForSpanCorruption(ours)(encoded(ours))
    words.mask_token = None
    for kind in (collate.DataCollatorForLanguageModeling, collate.DataCollatorForDenoising):
        with pytest.raises(ValueError, match="needs a mask token"):
            kind(words)
    words.pad_token = None
    with pytest.raises(ValueError, match="needs a pad token"):
        collate.DataCollatorWithPadding(words)(encoded(words, ["one"]))
