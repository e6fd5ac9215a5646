"""Mamba and Mamba-2: one recurrent mixer in each layer, no attention, a state whose size does not grow."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.lm import CausalLM
from jaxformers.models import Family, Task, register
from jaxformers.models.tasks import lm_head, lm_keys
from jaxformers.nn.embed import Embed
from jaxformers.nn.mamba import CountLog, HeadLog, MambaMixer, StepBias
from jaxformers.nn.mamba2 import Mamba2Mixer
from jaxformers.nn.norm import RMSNorm
from jaxformers.nn.param import ONES, Constant, Uniform
from jaxformers.nn.recurrent import NarrowRMSNorm, RecurrentDecoder, Widen
from jaxformers.nn.residual import Block, Residual
from jaxformers.nn.stack import Layers, Stack
from jaxformers.ops.activations import activation


@dataclass(frozen=True, kw_only=True)
class MambaConfig(Config):
    model_type: ClassVar[str] = "mamba"

    vocab_size: int = 50280
    hidden_size: int = 768
    state_size: int = 16
    num_hidden_layers: int = 32
    layer_norm_epsilon: float = 1e-5
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | tuple | None = 0
    expand: float = 2
    conv_kernel: int = 4
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    initializer_range: float = 0.1
    residual_in_fp32: bool = True
    time_step_rank: str | int = "auto"
    time_step_scale: float = 1.0
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    time_step_init_scheme: str = "random"
    time_step_floor: float = 1e-4
    rescale_prenorm_residual: bool = False
    use_cache: bool = True
    use_mambapy: bool = False
    use_associative_scan: bool = True
    tie_word_embeddings: bool = True
    intermediate_size: int | None = None  # always expand * hidden_size, whatever a file says

    def resolve(self) -> None:
        self._set("intermediate_size", int(self.expand * self.hidden_size))
        resolve_rank(self, "time_step_rank")

    def validate(self) -> None:
        if self.time_step_init_scheme not in ("random", "constant"):
            raise ConfigError(
                f"time_step_init_scheme is {self.time_step_init_scheme!r}; expected 'random' or 'constant'"
            )


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(Config):
    model_type: ClassVar[str] = "mamba2"

    num_heads: int = 128
    head_dim: int = 64
    vocab_size: int = 32768
    hidden_size: int = 4096
    state_size: int = 128
    num_hidden_layers: int = 64
    layer_norm_epsilon: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple | None = 2
    expand: float = 2
    conv_kernel: int = 4
    n_groups: int = 8
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    initializer_range: float = 0.1
    residual_in_fp32: bool = True
    time_step_rank: str | int = "auto"
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    time_step_floor: float = 1e-4
    time_step_limit: tuple[float, ...] = (0.0, float("inf"))
    rescale_prenorm_residual: bool = False
    use_cache: bool = True
    chunk_size: int = 256
    tie_word_embeddings: bool = False

    def resolve(self) -> None:
        resolve_rank(self, "time_step_rank")

    def validate(self) -> None:
        width = self.hidden_size * self.expand
        if width != self.num_heads * self.head_dim:
            raise ConfigError(f"num_heads * head_dim is {self.num_heads * self.head_dim}; expected {width:g}")
        if self.num_heads % self.n_groups:
            raise ConfigError(f"{self.num_heads} heads do not divide into n_groups = {self.n_groups}")
        if len(self.time_step_limit) != 2:
            raise ConfigError(f"time_step_limit is {self.time_step_limit}; expected a least and a greatest value")


def resolve_rank(c: Config, name: str) -> None:
    """Replace a rank of "auto" by a sixteenth of the width."""
    if getattr(c, name) == "auto":
        c._set(name, math.ceil(c.hidden_size / 16))
    if not isinstance(getattr(c, name), int):
        raise ConfigError(f"{name} is {getattr(c, name)!r}; expected a number or 'auto'")


def recurrent(c: Any, mixer: nn.Module) -> RecurrentDecoder:
    """A decoder of one mixer per layer, the residual stream in float32 where the config wants it."""
    block = Block((Residual("mixer", mixer, pre=NarrowRMSNorm(c.layer_norm_epsilon)),))
    return RecurrentDecoder(
        Embed(c.vocab_size, c.hidden_size),
        Stack(Layers((block,) * c.num_hidden_layers)),
        RMSNorm(c.layer_norm_epsilon),
        stem=Widen() if c.residual_in_fp32 else None,
        last_is_normed=False,
    )


def mamba(c: Any) -> RecurrentDecoder:
    act = activation(c.hidden_act)
    width, rank = c.intermediate_size, c.time_step_rank
    return recurrent(c, MambaMixer(width, c.state_size, rank, c.conv_kernel, act, c.use_bias, c.use_conv_bias))


def mamba2(c: Any) -> RecurrentDecoder:
    mixer = Mamba2Mixer(
        c.num_heads,
        c.head_dim,
        c.state_size,
        c.n_groups,
        c.conv_kernel,
        activation(c.hidden_act),
        c.use_bias,
        c.use_conv_bias,
        c.layer_norm_epsilon,
        c.chunk_size,
        c.time_step_limit,
    )
    return recurrent(c, mixer)


MAMBA_KEYS = KeyMap(
    {
        "embed": Part("embeddings", also=("embedding",)),
        "norm": "norm_f",
        "layers.{i}.mixer_pre": "layers.{i}.norm",
        "layers.{i}.mixer.{*}": "layers.{i}.mixer.{*}",
    }
)


def mamba_init(c: Any) -> Mapping[str, Callable]:
    """Transformers' scheme: small uniform kernels, decays of all speeds, steps between the two times."""
    depth = math.sqrt(c.num_hidden_layers) if c.rescale_prenorm_residual else 1.0
    inner = int(c.expand * c.hidden_size)
    steps = StepBias(c.time_step_min, c.time_step_max, c.time_step_floor)
    common = {
        r"conv1d\.kernel$": Uniform(1 / math.sqrt(c.conv_kernel)),
        r"out_proj\.kernel$": Uniform(1 / math.sqrt(inner) / depth),
        r"\.D$": ONES,
    }
    if isinstance(c, Mamba2Config):
        return {**common, r"\.A_log$": HeadLog(), r"\.dt_bias$": steps}
    std = c.time_step_rank**-0.5 * c.time_step_scale
    kernel = Constant(std) if c.time_step_init_scheme == "constant" else Uniform(std)
    return {**common, r"\.A_log$": CountLog(), r"dt_proj\.kernel$": kernel, r"dt_proj\.bias$": steps}


def tasks(name: str) -> Mapping[str, Task]:
    """The one head there is, under both of its names."""
    task = Task(f"{name}ForCausalLM", lambda c, b: CausalLM(b, lm_head(c)), lm_keys())
    return {"CausalLM": task, "PreTraining": task}


register(Family(MambaConfig, "MambaModel", mamba, MAMBA_KEYS, "backbone", tasks("Mamba"), mamba_init))
register(Family(Mamba2Config, "Mamba2Model", mamba2, MAMBA_KEYS, "backbone", tasks("Mamba2"), mamba_init))
