"""The chunked cross-entropy against the plain form and torch: values, gradients, sharing out, and memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import DATA, FSDP_TENSOR, SEQUENCE, TENSOR, use_mesh
from jaxformers.ops.cross_entropy import Scores, linear_cross_entropy
from jaxformers.ops.dispatch import use

BATCH, LENGTH, WIDTH, WORDS = 4, 6, 16, 104
WAYS = ("chunked", "blocked")
FORMS = {
    "bare": Scores(),
    "everything": Scores(scale=0.7, softcap=3.0, smoothing=0.2),
}


def case(bias: bool = True) -> tuple[jax.Array, ...]:
    """Hidden states, matrix, labels of which some count nothing, and a bias."""
    rng = np.random.RandomState(0)
    labels = rng.randint(0, WORDS, (BATCH, LENGTH))
    labels[0, 2:4], labels[3] = -100, -100
    x, matrix = rng.randn(BATCH, LENGTH, WIDTH).astype(np.float32), rng.randn(WORDS, WIDTH).astype(np.float32)
    return jnp.array(x), jnp.array(matrix), jnp.array(labels), jnp.array(rng.randn(WORDS), jnp.float32) * bias


def weigh(x, matrix, labels, bias, scores: Scores, chunk: int | None):
    """A number that depends on every result of the op, and the results."""
    loss, total = linear_cross_entropy(x, matrix, labels, bias, scores=scores, chunk=chunk)
    far = jnp.where(labels >= 0, jnp.square(total), 0.0)
    return (loss * jnp.linspace(0.5, 1.5, LENGTH)).sum() + 0.1 * far.sum(), (loss, total)


def both(scores: Scores, chunk: int | None, inputs: tuple[jax.Array, ...]):
    """Value, results and gradients."""
    x, matrix, labels, bias = inputs
    run = jax.jit(jax.value_and_grad(weigh, argnums=(0, 1, 3), has_aux=True), static_argnums=(4, 5))
    return run(x, matrix, labels, bias, scores, chunk)


def check_equal(ours, theirs, tolerance: float = 1e-6) -> None:
    """Every array to within a share of its largest number."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * np.abs(np.asarray(b)).max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_parts_equal_the_plain_form(form: str, way: str) -> None:
    """Values and gradients, whether or not tokens or words divide into parts."""
    with use(cross_entropy="reference"):
        plain = both(FORMS[form], None, case())
    with use(cross_entropy=way):
        for chunk in (5, 6, 1000):
            check_equal(both(FORMS[form], chunk, case()), plain)


def test_equals_torch() -> None:
    """Mean, ignored labels, smoothing, and the gradients of PyTorch's own cross-entropy."""
    x, matrix, labels, bias = case()
    given = [torch.tensor(np.asarray(a), requires_grad=True) for a in (x, matrix, bias)]
    scores = torch.tanh((given[0] @ given[1].T + given[2]) / 3.0) * 3.0
    target = torch.tensor(np.asarray(labels)).reshape(-1).long()
    theirs = torch.nn.functional.cross_entropy(scores.reshape(-1, WORDS), target, label_smoothing=0.2)
    theirs.backward()

    def mean(x, matrix, bias):
        form = Scores(softcap=3.0, smoothing=0.2)
        return linear_cross_entropy(x, matrix, labels, bias, scores=form, chunk=7)[0].sum() / (labels >= 0).sum()

    value, grads = jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2)))(x, matrix, bias)
    check_equal((value, *grads), [theirs.detach().numpy(), *(g.grad.numpy() for g in given)], 2e-6)


@pytest.mark.parametrize(
    ("axes", "rules", "with_bias"),
    [
        ({"data": 2, "tensor": 4}, TENSOR, True),
        ({"fsdp": 2, "tensor": 2, "data": 2}, FSDP_TENSOR, True),
        ({"fsdp": 4, "sequence": 2}, SEQUENCE, False),
        ({"data": 4, "tensor": 2}, DATA, True),
    ],
    ids=lambda v: "x".join(v) if isinstance(v, dict) else None,
)
@pytest.mark.parametrize("way", WAYS)
def test_shared_out(axes: dict, rules: tuple, with_bias: bool, way: str) -> None:
    """Tokens over data and sequence axes, words over the tensor axis: the same numbers as one device has."""
    inputs = case(with_bias)
    with use(cross_entropy="reference"):
        plain = both(FORMS["everything"], None, inputs)
    with use_mesh(make_mesh(axes), rules), use(cross_entropy=way):
        check_equal(both(FORMS["everything"], 2, inputs), plain, 2e-6)


@pytest.mark.parametrize(("words", "part"), [(512, (16, 128)), (4096, (256, 64))], ids=WAYS)
def test_no_scores_of_all_words_on_one_device(words: int, part: tuple[int, int]) -> None:
    """Spread over a mesh, nothing of [tokens, words] is gathered, and gradients are summed where they are kept."""
    mesh = make_mesh(fsdp=2, tensor=4)
    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((8, 64, 32), "f4"), ((words, 32), "f4"), ((8, 64), "i4"))]

    def total(x, matrix, labels):
        return linear_cross_entropy(x, matrix, labels, chunk=16)[0].sum()

    with use_mesh(mesh, FSDP_TENSOR):
        text = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes).compile().as_text()
    assert "while" in text and "reduce-scatter" in text
    found = {(int(a), int(b)) for a, b in re.findall(r"f32\[(\d+),(\d+)\]", text)}
    assert part in found, "tokens and words whose scores are held at a time"
    whole = (8 // 2) * 64 * (words // 4)  # all scores of one device
    assert max(a * b for a, b in found) < whole


@pytest.mark.parametrize("way", WAYS)
def test_half_precision(way: str) -> None:
    """In bfloat16 scores and sums are float32: values are exact for these inputs, gradients are rounded once."""
    x, matrix, labels, bias = case()
    small = (x.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16), labels, bias)
    with use(cross_entropy=way):
        (value, _), grads = both(FORMS["everything"], 5, small)
    wide = tuple(a.astype(jnp.float32) for a in small[:2])
    (exact, _), exact_grads = both(FORMS["everything"], 5, (*wide, labels, bias))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    check_equal([g.astype(jnp.float32) for g in grads[:2]], exact_grads[:2], 1e-2)


def test_memory() -> None:
    """What compilation reserves for value and gradients is a small part of the scores, whose plain form takes all."""
    tokens, width, words = 8192, 64, 32768
    scores = tokens * words * 4
    shapes = [
        jax.ShapeDtypeStruct((8, tokens // 8, width), jnp.float32),
        jax.ShapeDtypeStruct((words, width), jnp.float32),
        jax.ShapeDtypeStruct((8, tokens // 8), jnp.int32),
    ]

    def reserved(form: str) -> int:
        def total(x, matrix, labels):
            return linear_cross_entropy(x, matrix, labels)[0].sum()

        with use(cross_entropy=form):
            compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert reserved("reference") >= scores
    assert reserved("chunked") < scores / 4
    assert reserved("blocked") < scores / 4


def test_small_scores_are_held() -> None:
    """Without a chunk size the op takes the plain form where that is small, and says why when told not to."""
    x, matrix, labels, _ = case()
    text = jax.jit(lambda *a: linear_cross_entropy(*a)[0]).lower(x, matrix, labels).as_text()
    assert "while" not in text
    with use(cross_entropy="chunked"), pytest.raises(ValueError, match="name a chunk"):
        linear_cross_entropy(x, matrix, labels)
    with use(cross_entropy="blocked"), pytest.raises(ValueError, match="cutting up the tokens reads less"):
        linear_cross_entropy(x, matrix[:20], labels, chunk=4)


@pytest.mark.parametrize("form", ["reference", *WAYS])
def test_no_word_is_nan(form: str) -> None:
    """A label beyond the vocabulary shows, as PyTorch's error would; scores of -inf elsewhere do not spread."""
    x, matrix, labels, bias = case()
    bias = bias.at[7].set(-jnp.inf)
    labels = jnp.where(labels == 7, 8, labels).at[1, 1].set(WORDS)
    with use(cross_entropy=form):
        loss, _ = linear_cross_entropy(x, matrix, labels, bias, chunk=8)
    assert np.isnan(loss[1, 1]) and np.isnan(np.asarray(loss)).sum() == 1
