"""Compile Llama 8B for eight H100 that are not there, and print what each takes as JSON: run by test_gpu.py.

A process of its own: jax looks for plugins once, and this one has the CUDA plugin on its path.
"""

import json
import time

import jax

from jaxformers.planning.topology import Topology
from tests.aot.llama_8b import compile_forward, compile_train_step, memory

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter")


def gpu_mesh(fsdp: int, tensor: int) -> jax.sharding.Mesh:
    """A mesh over the eight GPUs of one machine."""
    return Topology.parse("h100:1x8").mesh({"fsdp": fsdp, "tensor": tensor})


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
