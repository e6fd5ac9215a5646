"""Rematerialisation by name: what a backward pass keeps, counted without running it."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxformers as jf
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.nn.remat import INSIDE, STEPS, remat_policy

B, T, D, F, L = 2, 16, 32, 96, 4
CONFIG = dict(
    vocab_size=50, hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=4,
    num_key_value_heads=4,
)  # fmt: skip
IDS = jax.ShapeDtypeStruct((B, T), jnp.int32)


def kept(remat: str | None, scan: bool = True) -> int:
    """How many numbers the backward pass of all layers keeps, parameters aside."""
    model = abstract_model(jf.AutoConfig.for_model("llama", **CONFIG), scan=scan, remat=remat)

    def forward(params, ids):
        out, back = jax.vjp(lambda p: model.replace(params=p)(input_ids=ids).last_hidden_state, params)
        return back

    back = jax.eval_shape(forward, model.params, IDS)
    parameters = [x.shape for x in jax.tree.leaves(model.params)]
    return sum(x.size for x in jax.tree.leaves(back) if x.shape not in parameters)


@pytest.fixture(scope="module")
def full() -> int:
    return kept("full")


def test_full_keeps_each_layers_input(full: int) -> None:
    none = kept(None)
    assert full < none / 3
    assert L * B * T * D <= full < 4 * L * B * T * D


@pytest.mark.parametrize(
    ("policy", "numbers"),
    [
        ("save:context", B * T * D),
        ("save:qkv", 3 * B * T * D),
        ("save:hidden", B * T * F),
        ("save:attn,mlp", B * T * D),  # what the last step adds is in the next layer's input
        ("save:qkv,context", 4 * B * T * D),
    ],
)
def test_what_is_named_is_kept_besides(full: int, policy: str, numbers: int) -> None:
    assert kept(policy) == full + L * numbers


def test_jax_policies_by_name(full: int) -> None:
    assert full < kept("dots_saveable") < kept(None)
    assert kept("nothing_saveable") == full


def test_offloading_is_to_the_hosts_memory() -> None:
    model = abstract_model(jf.AutoConfig.for_model("llama", **CONFIG), scan=True, remat="offload:context save:qkv")
    loss = lambda params, ids: model.replace(params=params)(input_ids=ids).last_hidden_state.sum()  # noqa: E731
    text = str(jax.make_jaxpr(jax.grad(loss))(model.params, IDS))
    assert re.search(r"f32<host>\[2,16,4,8\]", text), "attention's output goes to pinned_host"
    assert remat_policy("offload_dot_with_no_batch_dims") is not None


def test_every_step_has_its_name() -> None:
    """A residual step's name is what a policy calls its output."""
    sources = Path(jf.__file__).parent.rglob("*.py")
    found = {name for path in sources for name in re.findall(r'Residual\(\s*"(\w+)"', path.read_text())}
    assert found == set(STEPS) and not found & set(INSIDE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ful", "'ful' is unknown; expected full, save:NAMES, offload:NAMES or one of checkpoint_dots"),
        ("save:contxt", "no value is called contxt; there are qkv, context"),
        ("keep:qkv", "'keep:qkv' is not understood; expected save:NAMES or offload:NAMES"),
        ("save_only_these_names", "is unknown"),
    ],
)
def test_misspelt_policies_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remat_policy(name)
    with pytest.raises(ValueError, match=message):
        jf.make_train_step(lambda model, batch, key: None, None, remat=name)
