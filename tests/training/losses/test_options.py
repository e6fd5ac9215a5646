"""What losses can be told, what they refuse, and how their parts add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from transformers.trainer_pt_utils import LabelSmoother

import jaxformers as jf
from jaxformers.core.errors import DataError
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import FSDP_TENSOR
from jaxformers.hub.auto import TASKS
from jaxformers.models import read_config
from jaxformers.training.losses import loss_for, pad_objects
from jaxformers.training.losses.choose import BY_TYPE, LOSSES
from jaxformers.training.losses.matching import assign
from jaxformers.training.losses.mixing import cutmix, mixup

SIZES = dict(
    vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    intermediate_size=24, max_position_embeddings=32, pad_token_id=0,
)  # fmt: skip


def model(kind: str, task: str | None, **changes) -> jf.Model:
    """A tiny random model."""
    config = read_config({"model_type": kind, **SIZES, **changes})
    return jf.Model.init(config, jax.random.key(0), task=task)


def texts(seed: int = 0) -> dict[str, np.ndarray]:
    """Four texts with labels, of which the last has none that count."""
    ids = np.random.RandomState(seed).randint(1, 64, (4, 8))
    labels = ids.copy()
    labels[3] = -100
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}


@pytest.fixture(scope="module")
def llama() -> jf.Model:
    return model("llama", "CausalLM")


def test_smoothing_is_transformers(llama: jf.Model) -> None:
    """Of words, with shifted labels, and of classes."""
    batch = texts()
    logits = torch.tensor(np.asarray(llama(**{k: v for k, v in batch.items() if k != "labels"}).logits))
    theirs = LabelSmoother(0.1)((logits,), torch.tensor(batch["labels"]), shift_labels=True)
    ours = loss_for("CausalLM", label_smoothing=0.1)(llama, batch, None)
    np.testing.assert_allclose(ours.loss, theirs, rtol=1e-5)
    assert float(ours.weight) == 3 * 7


def test_z_loss_and_packing(llama: jf.Model) -> None:
    """The z-loss is the mean square of the logarithm of the sum; no token is asked for the next text's first."""
    batch = texts()
    logits = np.asarray(llama(**{k: v for k, v in batch.items() if k != "labels"}).logits)
    far = np.square(np.log(np.exp(logits[:3, :-1]).sum(-1))).mean()
    plain = loss_for(llama)(llama, batch, None)
    out = loss_for(llama, z_loss=0.5, chunk=3)(llama, batch, None)
    np.testing.assert_allclose(out.loss, plain.loss + 0.5 * far, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["z_loss"] / out.weight, 0.5 * far, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["cross_entropy"], plain.total, rtol=1e-6)
    segments = np.array([[1] * 3 + [2] * 5, [1] * 8, [1] * 6 + [0] * 2, [1] * 8])
    labels = np.where(segments == 0, -100, batch["labels"])
    packed = loss_for(llama)(llama, {**batch, "labels": labels, "segment_ids": segments}, None)
    assert float(packed.weight) == 6 + 7 + 5


def test_an_adapter_on_the_head_counts(llama: jf.Model) -> None:
    """In chunks as in the scores themselves, which the adapter changes."""
    batch = texts()
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    adapted = jf.lora(llama, 2, ["lm_head"], alpha=4)
    waves = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), adapted.adapters)
    adapted = adapted.replace(adapters=waves)
    logits = torch.tensor(np.asarray(adapted(**inputs).logits[:3, :-1])).reshape(-1, 64)
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(batch["labels"][:3, 1:]).reshape(-1))
    ours = loss_for(adapted, chunk=5)(adapted, batch, None).loss
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert abs(float(ours) - float(loss_for(llama)(llama, batch, None).loss)) > 1e-2


def test_parts_add_up(llama: jf.Model) -> None:
    """Unequal parts of a batch add up to the whole; what is filled up counts nothing."""
    batch, loss = texts(), loss_for(llama)
    whole = loss(llama, batch, None)
    halves = [loss(llama, {k: v[rows] for k, v in batch.items()}, None) for rows in (slice(0, 1), slice(1, 4))]
    added = halves[0] + halves[1]
    np.testing.assert_allclose(added.loss, whole.loss, rtol=1e-6)
    nothing = loss(llama, {k: v[3:] for k, v in batch.items()}, None)
    assert float(nothing.total) == float(nothing.weight) == 0


def test_a_mesh_changes_nothing(llama: jf.Model) -> None:
    """Words over the tensor axis, texts over the others: the same loss and gradients, in chunks."""
    batch = {**texts(), "labels": texts()["input_ids"]}
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    spread = jax.device_put(llama.replace(mesh=mesh, rules=FSDP_TENSOR), jax.NamedSharding(mesh, jax.P()))
    loss = loss_for(llama, chunk=4)

    def value(model: jf.Model) -> jax.Array:
        return loss(model, batch, None).loss

    one, many = (jax.jit(jax.value_and_grad(value))(m) for m in (llama, spread))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_pairs_of_texts() -> None:
    """InfoNCE over in-batch and given negatives, as the cross-entropy of cosines; in training with dropout."""
    bert = model("bert", None)
    parts = {p: texts(n)["input_ids"] for n, p in enumerate(("", "positive_", "negative_"))}
    batch = {f"{p}input_ids": ids for p, ids in parts.items()}
    vectors = [np.asarray(bert(ids).last_hidden_state).mean(axis=1) for ids in parts.values()]
    a, b, c = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    scores = torch.tensor(a @ np.concatenate([b, c]).T / 0.1)
    loss = loss_for("SentenceSimilarity", temperature=0.1)
    theirs = torch.nn.functional.cross_entropy(scores, torch.arange(4))
    np.testing.assert_allclose(loss(bert, batch, None).loss, theirs, rtol=1e-4)
    both = loss_for("SentenceSimilarity", temperature=0.1, both=True)(bert, batch, None).loss
    back = torch.nn.functional.cross_entropy(scores[:, :4].T, torch.arange(4))
    forth = torch.nn.functional.cross_entropy(scores[:, :4], torch.arange(4))
    np.testing.assert_allclose(both, (back + forth) / 2, rtol=1e-4)
    dropped = [float(loss(bert, batch, jax.random.key(n)).loss) for n in (1, 1, 2)]
    assert dropped[0] == dropped[1] != dropped[2]
    with pytest.raises(DataError, match="positive_input_ids"):
        loss(bert, {"input_ids": parts[""]}, None)


def test_the_whole_batch_is_compared_on_a_mesh() -> None:
    """Texts of all devices are each other's negatives: the loss is that of one device."""
    bert = model("bert", None)
    parts = {p: texts(n)["input_ids"] for n, p in enumerate(("", "positive_"))}
    batch = {f"{p}input_ids": jnp.asarray(ids) for p, ids in parts.items()}
    mesh = make_mesh(data=4, tensor=2)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    loss = loss_for("SentenceSimilarity", both=True)

    run = jax.jit(lambda model, batch: loss(model, batch, None).loss)
    spread = jax.device_put(bert.replace(mesh=mesh, rules=FSDP_TENSOR), jax.NamedSharding(mesh, jax.P()))
    many = run(spread, jax.device_put(batch, rows))
    np.testing.assert_allclose(many, run(bert, batch), rtol=1e-5)
    apart = [run(bert, {k: v[n : n + 1] for k, v in batch.items()}) for n in range(4)]
    assert float(np.mean(apart)) < 0.1 * float(many), "alone, no text has a rival"


def test_soft_labels_and_mixing() -> None:
    """Shares of classes cost what torch says; images are mixed in training alone, and labels in the same shares."""
    vit = jf.Model.init(
        read_config({
            "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
            "intermediate_size": 24, "patch_size": 8, "num_labels": 5,
        }),
        jax.random.key(0), task="ImageClassification",
    )  # fmt: skip
    rng = np.random.RandomState(0)
    images, shares = rng.randn(4, 3, 16, 16).astype(np.float32), rng.dirichlet(np.ones(5), 4).astype(np.float32)
    logits = torch.tensor(np.asarray(vit(images).logits))
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(shares), label_smoothing=0.1)
    ours = loss_for(vit, label_smoothing=0.1)(vit, {"pixel_values": images, "soft_labels": shares}, None)
    np.testing.assert_allclose(ours.loss, theirs, rtol=1e-5)

    batch = {"pixel_values": images, "labels": np.array([0, 1, 2, 4])}
    loss, plain = loss_for(vit, mixup=0.4, cutmix=1.0), loss_for(vit)
    assert float(loss(vit, batch, None).loss) == float(plain(vit, batch, None).loss)
    first, again, other = (float(loss(vit, batch, jax.random.key(n)).loss) for n in (1, 1, 2))
    assert first == again != other
    filled = loss(vit, {**batch, "labels": np.array([0, 1, 2, -100])}, jax.random.key(1))
    assert float(filled.weight) == 2 and np.isfinite(float(filled.total)), "the last image is mixed with the first"


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixed_images_hold_their_labels(mix) -> None:
    """The share of each image in the mixture is the share of its label."""
    images = jnp.stack([jnp.zeros((1, 40, 30)), jnp.ones((1, 40, 30))])
    for n in range(5):
        mixed, labels = mix(images, jnp.eye(2), jax.random.key(n), 1.0)
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), labels[:, 1], atol=1e-5)
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)


def test_assignment_is_the_best() -> None:
    """Against scipy, with as many places as queries and with fewer."""
    rng = np.random.RandomState(0)
    for shape in ((3, 7), (4, 4)):
        costs = rng.randn(6, *shape).astype(np.float32)
        found = np.asarray(jax.jit(jax.vmap(assign))(costs))
        for cost, columns in zip(costs, found, strict=True):
            rows, best = linear_sum_assignment(cost)
            assert len(set(columns)) == shape[0]
            np.testing.assert_allclose(cost[np.arange(shape[0]), columns].sum(), cost[rows, best].sum(), rtol=1e-5)


def test_objects_that_do_not_fit() -> None:
    """More objects than places."""
    one = {"class_labels": np.arange(3), "boxes": np.zeros((3, 4))}
    with pytest.raises(ValueError, match="an image has 3 objects; there is room for 2"):
        pad_objects([one], 2)


def test_tasks(llama: jf.Model) -> None:
    """Every task has a loss or is refused by name, and options are checked when a loss is made."""
    refused = {"Decision", "TextEncoding"}
    assert set(TASKS) == ({*LOSSES, *BY_TYPE} - {"SentenceSimilarity"}) | refused
    with pytest.raises(ValueError, match="transformers has no loss for 'Decision'"):
        loss_for("Decision")
    with pytest.raises(ValueError, match="take a head, or 'SentenceSimilarity'"):
        loss_for(model("bert", None))
    with pytest.raises(ValueError, match="there is no task 'Causal'"):
        loss_for("Causal")
    with pytest.raises(TypeError, match="CausalLoss has no option chunks; its options are: label_smoothing, z_loss"):
        loss_for("CausalLM", chunks=3)
    with pytest.raises(ValueError, match="has routers|none"):
        loss_for(llama, router_aux_loss_coef=0.1)(llama, texts(), None)
    with pytest.raises(DataError, match="the loss needs shift_labels or labels in the batch; it has input_ids"):
        loss_for(llama)(llama, {"input_ids": texts()["input_ids"]}, None)
    with pytest.raises(DataError, match=r"labels have shape \(4, 7\); the model's output needs \(4, 8\)"):
        loss_for(llama)(llama, {**texts(), "labels": texts()["labels"][:, 1:]}, None)
    assert hash(loss_for("MaskedLM", chunk=8)) == hash(loss_for("MaskedLM", chunk=8))
