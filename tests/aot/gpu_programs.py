"""Compile Llama 8B for eight H100 that are not there, and print what each takes as JSON: run by test_gpu.py.

A process of its own: jax looks for plugins once, and this one has the CUDA plugin on its path.
"""

import json
import time

import jax
from jax.experimental import topologies

from tests.aot.llama_8b import compile_forward, compile_train_step, memory

# What XLA would read from the driver. Source: NVIDIA's figures of an H100 SXM5 of 80 GB, as the driver reports them.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter")


def gpu_mesh(fsdp: int, tensor: int) -> jax.sharding.Mesh:
    """A mesh over the eight GPUs of one machine."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x8")
    return topologies.make_mesh(topology, (fsdp, tensor), ("fsdp", "tensor"))


def main() -> None:
    programs = {"forward": (compile_forward, gpu_mesh(4, 2)), "train step": (compile_train_step, gpu_mesh(8, 1))}
    for name, (make, mesh) in programs.items():
        start = time.perf_counter()
        compiled = make(mesh, 8, 2048)
        text = compiled.as_text()
        found = {
            "program": name,
            "device": mesh.devices.flat[0].device_kind,
            "seconds": time.perf_counter() - start,
            "memory": memory(compiled),
            "collectives": [c for c in COLLECTIVES if c in text],
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
