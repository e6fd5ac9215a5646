"""Devices that are not there: a topology by name, as a list of devices that programs are compiled for."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax

from jaxformers.core.errors import ConfigError
from jaxformers.core.mesh import make_mesh
from jaxformers.planning.chips import Chip, chip

# What XLA would read from the driver of an H100 SXM5 or an H200: the same processor with another memory. Source:
# NVIDIA's figures, as the driver reports them.
GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {memory} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""
GPUS = {
    "h100": {"bandwidth": 3352320000000, "memory": 84929347584, "name": "NVIDIA H100 80GB HBM3"},
    "h200": {"bandwidth": 4800000000000, "memory": 150754820096, "name": "NVIDIA H200"},
}


@dataclass(frozen=True)
class Topology:
    """`v5p:8x8x8` (a slice's chips along its axes), `2*v5e:16x16` (slices), `h100:8x8` (machines x GPUs in each)."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a topology's name. Raises ConfigError with examples of those that can be read."""
        count, star, rest = text.rpartition("*")
        kind, colon, sizes = rest.partition(":")
        try:
            shape = tuple(int(size) for size in sizes.split("x"))
            slices = int(count) if star else 1
        except ValueError:
            shape, slices = (), 0
        if not colon or not shape or min(*shape, slices) < 1:
            raise ConfigError(
                f"topology {text!r} is not understood; expected such as v5e:16x16, v5p:8x8x8, 2*v5e:16x16, h100:8x8"
            )
        if kind.lower() in GPUS and (len(shape) != 2 or slices > 1):
            raise ConfigError(f"topology {text!r}: for GPUs give machines x GPUs in each, such as {kind}:8x8")
        return cls(chip(kind.lower()), shape, slices)

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape))
        return f"{self.slices}*{self.chip.kind}:{sizes}" if self.slices > 1 else f"{self.chip.kind}:{sizes}"

    @property
    def is_gpu(self) -> bool:
        """Whether these are GPUs, joined by a network between machines."""
        return self.chip.kind in GPUS

    @property
    def size(self) -> int:
        """How many chips there are."""
        return math.prod(self.shape) * self.slices

    @property
    def neighbours(self) -> int:
        """How many chips the fast links join: a slice's, or a machine's."""
        return self.shape[-1] if self.is_gpu else math.prod(self.shape)

    def devices(self) -> Sequence[Any]:
        """The devices. Raises ConfigError when the compiler for them is not installed, or knows no such topology."""
        return gpu_devices(self) if self.is_gpu else tpu_devices(self)

    def mesh(self, axes: dict[str, int], dcn: dict[str, int] | None = None) -> jax.sharding.Mesh:
        """These devices as a mesh; one axis may be -1, for what is left."""
        devices = self.devices()
        return make_mesh(axes, devices=devices, dcn=dcn) if dcn else make_mesh(axes, devices=devices)


def tpu_devices(topology: Topology) -> Sequence[Any]:
    """Chips of TPU slices, through libtpu's compiler."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no cloud metadata is asked for
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    name = f"{topology.chip.kind}:{'x'.join(map(str, topology.shape))}"
    extra = {"num_slices": topology.slices} if topology.slices > 1 else {}
    return described("tpu", name, 'the extra tpu-aot: pip install "jaxformers[tpu-aot]"', topology_name=name, **extra)


def gpu_devices(topology: Topology) -> Sequence[Any]:
    """GPUs of several machines, through jax's CUDA plugin and NVIDIA's assembler."""
    folder = Path(sys.prefix) / "gpu-aot"  # where `make setup` puts them
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    config = GPU.format(**GPUS[topology.chip.kind])
    name = f"{topology.shape[0]}x1x{topology.shape[1]}"
    options = {"target_config": config, "topology": name}
    return described("cuda", name, 'the extra gpu-aot: pip install "jaxformers[gpu-aot]"', **options)


def described(platform: str, name: str, extra: str, **options: Any) -> Sequence[Any]:
    """The devices of a topology description; every error of the compiler's becomes a ConfigError."""
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform=platform, **options).devices
    except Exception as error:
        raise ConfigError(f"{platform} topology {name} cannot be had: {first_line(error)}. It needs {extra}") from error


def first_line(error: Exception) -> str:
    """The beginning of an error, which may be pages long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
