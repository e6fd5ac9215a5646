"""Starting the processes of a run: alone on a laptop, joined by jax.distributed on a pod, on Slurm, on Kubernetes."""

import glob
import importlib.util
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxformers.core.errors import JaxformersError

COORDINATOR, PROCESSES, PROCESS = "JAXFORMERS_COORDINATOR", "JAXFORMERS_NUM_PROCESSES", "JAXFORMERS_PROCESS_ID"
HEARTBEAT, START = "JAXFORMERS_HEARTBEAT_SECONDS", "JAXFORMERS_START_SECONDS"
log = logging.getLogger("jaxformers")


class DistributedError(JaxformersError, RuntimeError):
    """The processes of a run cannot be joined, or the environment does not say how."""


@dataclass(frozen=True)
class Launch:
    """How a process was started. how: "alone", "variables" (JAXFORMERS_...), or a cluster that jax knows how to ask."""

    how: str
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    devices: tuple[int, ...] | None = None


def initialize(environment: Mapping[str, str] | None = None) -> Launch:
    """Join the processes of this run, before anything else asks jax for devices; alone, do nothing.

    Understood: JAXFORMERS_COORDINATOR=host:port with JAXFORMERS_NUM_PROCESSES and JAXFORMERS_PROCESS_ID; TPU pods,
    Slurm, Open MPI and indexed Kubernetes jobs, as jax detects them. A process that dies is noticed after
    JAXFORMERS_HEARTBEAT_SECONDS (100), and all others end. Other processes than the first log errors only.
    Raises DistributedError.
    """
    environment = os.environ if environment is None else environment
    launch = find_launch(environment)
    if launch.how != "alone" and not jax.distributed.is_initialized():
        join(launch, seconds(environment, HEARTBEAT, 100), seconds(environment, START, 300))
    if jax.distributed.is_initialized() and jax.process_index() > 0:
        log.setLevel(logging.ERROR)
    return launch


def is_first() -> bool:
    """Whether this is the process that prints and writes files; the only one on a laptop."""
    return jax.process_index() == 0


def find_launch(environment: Mapping[str, str]) -> Launch:
    """What the environment says of how this process was started. Raises DistributedError if it contradicts itself."""
    if any(environment.get(name) for name in (COORDINATOR, PROCESSES, PROCESS)):
        return from_variables(environment)
    if tpu_hosts(environment) > 1:
        return Launch("gketpu")
    if number(environment, "SLURM_NTASKS", 1) > 1 and "SLURM_STEP_NODELIST" in environment:
        return Launch("slurm", devices=slurm_devices(environment))
    if number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        return Launch("ompi")
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return from_kubernetes()
    if on_tpu_machine(environment):
        return Launch("gcetpu")
    return Launch("alone")


def from_variables(environment: Mapping[str, str]) -> Launch:
    """The launch that our own three variables describe."""
    count = number(environment, PROCESSES, None)
    if count == 1:
        return Launch("alone")
    if missing := [name for name in (COORDINATOR, PROCESSES, PROCESS) if not environment.get(name)]:
        raise DistributedError(
            f"{' and '.join(missing)} not set, while others of JAXFORMERS_* are: a run of several processes needs "
            f"{COORDINATOR}=host:port of the first one, {PROCESSES} and {PROCESS}; a run of one needs none of them."
        )
    coordinator, index = environment[COORDINATOR], number(environment, PROCESS, 0)
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdigit():
        raise DistributedError(f"{COORDINATOR}={coordinator!r} is not host:port, such as worker-0.run:8476.")
    if not 0 <= index < count:
        raise DistributedError(f"{PROCESS}={index} with {PROCESSES}={count}: processes count from 0 to {count - 1}.")
    return Launch("variables", coordinator, count, index)


def from_kubernetes() -> Launch:
    """An indexed job without our variables: jax asks the cluster, which needs its client and the right to."""
    if importlib.util.find_spec("kubernetes") is None:
        raise DistributedError(
            f"this is a pod of an indexed Kubernetes job, and nothing says how to find the others: set {COORDINATOR}, "
            f"{PROCESSES} and {PROCESS} as the manifests in deploy/ do, or {PROCESSES}=1 if it runs alone, or install "
            "kubernetes and let the pod's account read pods and jobs."
        )
    return Launch("kubernetes")


def slurm_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """All GPUs of a machine where Slurm started one process on each; by itself jax would give it the first only."""
    machines = number(environment, "SLURM_STEP_NUM_NODES", number(environment, "SLURM_NNODES", 0))
    gpus = number(environment, "SLURM_GPUS_ON_NODE", 0)
    return tuple(range(gpus)) if gpus and machines == number(environment, "SLURM_NTASKS", 1) else None


def tpu_hosts(environment: Mapping[str, str]) -> int:
    """How many machines the TPU slices of this run have, by the variables that GKE sets."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    return len([host for host in hosts.split(",") if host]) * number(environment, "MEGASCALE_NUM_SLICES", 1)


def on_tpu_machine(environment: Mapping[str, str]) -> bool:
    """Whether this is a Compute Engine machine with TPUs, whose metadata server knows the other machines."""
    if environment.get("TPU_SKIP_MDS_QUERY") or "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return False
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def join(launch: Launch, heartbeat: int, start: int) -> None:
    """Connect to the first process, which serves the others. Raises DistributedError if that fails."""
    if launch.coordinator and launch.index:
        wait_for(launch.coordinator, start)
    named = {} if launch.how in ("variables", "kubernetes") else {"cluster_detection_method": launch.how}
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.count,
            launch.index,
            launch.devices,
            heartbeat_timeout_seconds=heartbeat,
            initialization_timeout=start,
            **named,
        )
    except Exception as error:
        where = f" at {launch.coordinator}" if launch.coordinator else ""
        raise DistributedError(
            f"could not join the other processes{where} ({launch.how}): {str(error)[:300]}. All must start within "
            f"{start} s, before any of them uses jax, and the first one's port must be open to the others."
        ) from error
    log.info("process %d of %d (%s)", jax.process_index(), jax.process_count(), launch.how)


def wait_for(coordinator: str, limit: int) -> None:
    """Wait until the first process listens: where it does not, jax would end this one without an exception."""
    host, _, port = coordinator.rpartition(":")
    end, problem = time.monotonic() + limit, None
    while time.monotonic() < end:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            return
        except OSError as error:
            problem = error
            time.sleep(0.2)
    raise DistributedError(
        f"the first process does not answer at {COORDINATOR}={coordinator} ({problem}) after {limit} s: see whether it "
        f"runs and its port is open to the others, or give it longer by {START}."
    )


def number(environment: Mapping[str, str], name: str, default: int | None) -> int:
    """A variable as a number. Raises DistributedError if it is not one."""
    text = environment.get(name)
    if not text:
        return default  # type: ignore[return-value]
    try:
        return int(text)
    except ValueError:
        raise DistributedError(f"{name}={text!r} is not a number.") from None


def seconds(environment: Mapping[str, str], name: str, default: int) -> int:
    """A time limit. Raises DistributedError unless it is positive."""
    value = number(environment, name, default)
    if value <= 0:
        raise DistributedError(f"{name}={value} must be positive: seconds.")
    return value
