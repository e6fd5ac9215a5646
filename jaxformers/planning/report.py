"""A plan as figures: memory, exchanges, FLOPs, the predicted step, whether it fits, and what to change if not."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from jaxformers.core.sharding import PRESETS
from jaxformers.planning.chips import GIB
from jaxformers.planning.compiled import Compiled, Planned, compile_step, plan, step_flops
from jaxformers.planning.roofline import Bounds, Traffic, bounds, by_kind, places
from jaxformers.planning.topology import Topology
from jaxformers.training.recipe import BESIDE_AXES, Recipe


@dataclass(frozen=True)
class Report:
    """What a recipe's step takes on a topology."""

    topology: Topology
    mesh: dict[str, int]
    rules: str
    planned: Planned
    compiled: Compiled
    flops: float  # model FLOPs of one step
    bounds: Bounds
    traffic: dict[str, Traffic]  # by kind of exchange

    @classmethod
    def of(cls, recipe: Recipe, topology: Topology) -> Self:
        """Plan and compile. Raises ConfigError for recipes and topologies that contradict each other."""
        axes = {name: size for name, size in recipe.mesh.items() if name not in BESIDE_AXES} or {"fsdp": -1}
        mesh = topology.mesh(axes, recipe.mesh.get("dcn"))
        name = recipe.mesh.get("rules") or rules_for(axes)
        recipe = Recipe(recipe.model, recipe.data, {**recipe.mesh, "rules": name}, recipe.training, recipe.lora)
        planned = plan(recipe, mesh, PRESETS[name])
        compiled = compile_step(planned)
        flops = step_flops(planned)
        flow = planned.pipeline
        # Forward once and backward twice; again for each block's gradients, and for each stage's.
        work = (3 + (planned.step.remat is not None) + (flow is not None)) / 3
        idle = 1.0 if flow is None else flow.ticks / flow.microbatches
        numbers = places(topology, mesh.devices)
        found = bounds(compiled, flops * work * idle, topology, numbers)
        traffic = by_kind(compiled.exchanges, numbers)
        return cls(topology, dict(mesh.shape), name, planned, compiled, flops, found, traffic)

    @property
    def used(self) -> float:
        """Bytes of each device that a step takes."""
        m = self.compiled.memory
        return m.parameters + m.optimizer + m.batch + m.temporary

    @property
    def fits(self) -> bool:
        """Whether a step fits the memory of each device."""
        return self.compiled.needed is None and self.used <= self.topology.chip.memory

    def mfu(self, seconds: float) -> float:
        """Share of the chips' peak that the model's FLOPs are, in a step of so many seconds."""
        return self.flops / (seconds * self.topology.size * self.topology.chip.flops)

    def advice(self) -> list[str]:
        """What to change so that a step fits."""
        if self.fits:
            return []
        m, chip, args = self.compiled.memory, self.topology.chip, self.planned.step
        lasting = m.parameters + m.optimizer
        out = []
        if lasting > 0.8 * chip.memory:
            more = -(-int(lasting * self.mesh.get("fsdp", 1)) // int(0.6 * chip.memory))
            out.append(
                f"parameters and optimiser state take {lasting / GIB:.1f} of {chip.memory / GIB:.1f} GiB: cut them "
                f"over more devices ([mesh] fsdp = {more} or more, or tensor), or take an optimiser that keeps less "
                '([training] optim = "adafactor" or "lion")'
            )
        else:
            if args.remat is None:
                out.append("[training] gradient_checkpointing = true: activations are computed again, not kept")
            out.append(
                "fewer rows at a time: halve [training] per_device_train_batch_size and double "
                "gradient_accumulation_steps, which gives the same steps"
            )
            if flow := self.planned.pipeline:
                out.append(
                    f"smaller parts for the pipeline: [training] pipeline_microbatches = {2 * flow.microbatches}, "
                    "where it divides the rows"
                )
            if "sequence" not in self.mesh:
                out.append("cut long rows over devices: [mesh] sequence = 2 or more")
        return out

    def pipeline(self) -> dict[str, Any] | None:
        """Stages, microbatches, and the share of the ticks in which a device idles; None without stages."""
        flow = self.planned.pipeline
        if flow is None:
            return None
        return {"stages": flow.stages, "microbatches": flow.microbatches, "idle": (flow.stages - 1) / flow.ticks}

    def figures(self) -> dict[str, Any]:
        """Everything, for programs. Bytes are on each device."""
        m, b = self.compiled.memory, self.bounds
        return {
            "topology": str(self.topology), "devices": self.topology.size, "mesh": self.mesh, "rules": self.rules,
            "rows_per_step": self.planned.rows, "tokens_per_step": self.planned.tokens,
            "memory": {"parameters": m.parameters, "optimizer": m.optimizer, "batch": m.batch,
                       "temporary": m.temporary, "used": self.used, "there": self.topology.chip.memory},
            "pipeline": self.pipeline(), "fits": self.fits, "needed": self.compiled.needed, "advice": self.advice(),
            "collectives": {kind: asdict(one) for kind, one in self.traffic.items()},
            "model_flops": self.flops, "kernels": self.compiled.kernels,
            "bounds_s": {"compute": b.compute, "memory": b.memory, "links": b.links, "network": b.network},
            "step_s": {"overlapped": b.overlapped, "serial": b.serial},
            "mfu": {"overlapped": self.mfu(b.overlapped), "serial": self.mfu(b.serial)},
            "compile_s": self.compiled.seconds,
        }  # fmt: skip


def rules_for(axes: dict[str, int]) -> str:
    """The preset for a mesh where a recipe names none."""
    if axes.get("stage", 1) != 1:
        return "PIPELINE"
    return "FSDP_TENSOR" if axes.get("tensor", 1) != 1 else "FSDP"
