"""Model FLOPs, counted in the traced program: every matrix product and convolution of whatever architecture it is.

A multiplication and an addition are two. Attention counts whole, also where a mask hides half of it, as in PaLM's
definition of MFU (arXiv 2204.02311, appendix B); a mixture of experts counts the experts that a token is sent to.
Rematerialised work does not count: a step is the forward pass and twice that for the gradients.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from jaxformers.core.errors import ConfigError
from jaxformers.ops.dispatch import use
from jaxformers.ops.moe import moe
from jaxformers.ops.moe_forms import ragged

# Peak FLOPs per second of one device in bfloat16, from the makers' data sheets, by a part of jax's `device_kind`.
PEAKS = {
    "TPU v2": 23e12,
    "TPU v3": 61e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 2307e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L4": 121e12,
    "L40S": 362e12,
    "V100": 125e12,
    "T4": 65e12,
    "MI300X": 1307e12,
}

# Kernels hide their products; these forms show them.
HIDING = ("attention", "conv2d", "selective_scan", "state_space_dual", "mel_power", "cross_entropy")
PLAIN = dict.fromkeys(HIDING, "reference")
PLAIN["moe"] = "counted"


def peak_flops(device: Any = None) -> float | None:
    """The device's peak FLOPs per second in bfloat16; None for one that is not in the table, such as a CPU."""
    kind = (jax.devices()[0] if device is None else device).device_kind
    found = [name for name in PEAKS if name.lower() in kind.lower()]
    return PEAKS[max(found, key=len)] if found else None


@moe.register("counted", platforms=("none",))
def counted(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Any, weights: Any, *, experts: int) -> jax.Array:
    """Experts in the form whose products are just those of the chosen ones; for counting, on no platform."""
    return ragged(x, index, scores, ffn, weights, experts=experts)


def model_flops(model: Any, batch: Any, call: Callable[[Any, Any], Any] | None = None) -> int:
    """FLOPs of one forward pass over a batch, which may be shapes; `call(model, batch)` where a model is not enough."""
    run = call or (lambda model, batch: model(**batch))
    # Rules that no run has: jit must neither give us a program of kernels nor keep ours for a run.
    return count_flops(run, model.replace(mesh=None, rules=(("counted", None),)), batch)


def train_flops(forward: int, trained: float = 1.0) -> int:
    """FLOPs of a step from those of its forward pass; `trained` is the share of the parameters that get gradients.

    Gradients of activations cost the forward pass once more, those of weights once more for what is trained.
    """
    return round(forward * (2.0 + trained))


def count_flops(function: Callable, *args: Any) -> int:
    """FLOPs of a function's matrix products and convolutions at these arguments, arrays or shapes; nothing is run."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    with use(**PLAIN):
        return of_jaxpr(jax.make_jaxpr(function)(*shapes).jaxpr)


def of_jaxpr(jaxpr: core.Jaxpr) -> int:
    """The sum over all equations, inner programs included."""
    return sum(of_equation(equation) for equation in jaxpr.eqns)


def of_equation(equation: Any) -> int:
    """One equation's FLOPs."""
    name, params = equation.primitive.name, equation.params
    shapes = [getattr(v.aval, "shape", ()) for v in equation.invars]
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * out * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = params["dimension_numbers"].rhs_spec  # (out features, in features per group, *window)
        return 2 * out * math.prod(shapes[1][axis] for axis in kernel[1:])
    if name in ("ragged_dot", "ragged_dot_general"):
        return 2 * out * shapes[0][-1]  # every row meets one group's kernel
    if name == "pallas_call":
        raise ConfigError(f"the FLOPs of the kernel {params.get('name', '')!r} cannot be read from its program")
    if name == "cond":
        return max((of_jaxpr(branch.jaxpr) for branch in params["branches"]), default=0)
    inner = sum(map(of_jaxpr, inner_programs(params)))
    return inner * (params["length"] if name == "scan" else 1)


def inner_programs(params: dict[str, Any]) -> list[core.Jaxpr]:
    """The programs in an equation's parameters; of a custom derivative only the function itself."""
    found = []
    for name, value in params.items():
        for item in value if isinstance(value, tuple | list) else (value,):
            program = getattr(item, "jaxpr", item)
            if hasattr(program, "eqns") and name not in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun"):
                found.append(program)
    return found
