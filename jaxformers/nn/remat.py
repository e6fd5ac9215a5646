"""Rematerialisation by name: what the forward pass keeps for the backward pass, and where."""

from collections.abc import Callable, Iterable

import jax
from jax.ad_checkpoint import checkpoint_name

# Values that a policy may name, here and in every block: "qkv" as attention takes them, rotated; "context" as it
# returns them, before the output projection; "hidden" of a feed-forward; and what a residual step adds, by its name.
INSIDE = ("qkv", "context", "hidden")
STEPS = ("attn", "cross", "mlp", "conv", "mamba", "mixer", "both", "adapter")
# They take arguments, for which "save:" and "offload:" stand.
FACTORIES = (
    "save_only_these_names",
    "save_anything_except_these_names",
    "save_any_names_but_these",
    "save_and_offload_only_these_names",
    "save_from_both_policies",
)
HOST = ("device", "pinned_host")


def keep(x: jax.Array, name: str) -> jax.Array:
    """Give a value the name by which "save:" and "offload:" find it; it stays what it is."""
    return checkpoint_name(x, name)


def remat_policy(name: str) -> Callable | None:
    """A policy by name, for `jax.checkpoint`.

    "full" keeps nothing but each block's input; "save:qkv,context" keeps these values; "offload:attn" moves them to
    the host's memory, and "save:context offload:attn" does both; other names are those of `jax.checkpoint_policies`
    ("dots_saveable", ...). Raises ValueError for names that are not known.
    """
    if name == "full":
        return None
    if ":" in name:
        return named_policy(name)
    if name == "offload_dot_with_no_batch_dims":
        return jax.checkpoint_policies.offload_dot_with_no_batch_dims(*HOST)
    policy = None if name in FACTORIES else getattr(jax.checkpoint_policies, name, None)
    if policy is None:
        known = ", ".join(n for n in dir(jax.checkpoint_policies) if not n.startswith("_") and n not in FACTORIES)
        raise ValueError(
            f"remat policy {name!r} is unknown; expected full, save:NAMES, offload:NAMES or one of {known}"
        )
    return policy


def named_policy(text: str) -> Callable:
    """The policy of "save:a,b offload:c"."""
    chosen: dict[str, list[str]] = {"save": [], "offload": []}
    for part in text.split():
        kind, _, names = part.partition(":")
        if kind not in chosen:
            raise ValueError(f"remat policy {text!r}: {part!r} is not understood; expected save:NAMES or offload:NAMES")
        chosen[kind] += checked(text, names.split(","))
    if not chosen["offload"]:
        return jax.checkpoint_policies.save_only_these_names(*chosen["save"])
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=chosen["save"],
        names_which_can_be_offloaded=chosen["offload"],
        offload_src=HOST[0],
        offload_dst=HOST[1],
    )


def checked(text: str, names: Iterable[str]) -> list[str]:
    """The names, all of them known: a misspelt one would silently keep nothing."""
    names = list(names)
    if unknown := set(names) - {*INSIDE, *STEPS}:
        known = ", ".join((*INSIDE, *STEPS))
        raise ValueError(f"remat policy {text!r}: no value is called {', '.join(sorted(unknown))}; there are {known}")
    return names
