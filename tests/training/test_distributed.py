"""How a process finds out that it is one of several, and what it is told when it cannot."""

import socket
import subprocess
import sys

import pytest

from jaxformers.training import distributed
from jaxformers.training.distributed import DistributedError, Launch, find_launch, initialize

OURS = {"JAXFORMERS_COORDINATOR": "host-0:8476", "JAXFORMERS_NUM_PROCESSES": "4", "JAXFORMERS_PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2",
}  # fmt: skip
CASES = {
    "laptop": ({}, Launch("alone")),
    "ours": (OURS, Launch("variables", "host-0:8476", 4, 3)),
    "ours before a cluster's": (OURS | SLURM, Launch("variables", "host-0:8476", 4, 3)),
    "one process": ({"JAXFORMERS_NUM_PROCESSES": "1"}, Launch("alone")),
    "slurm": (SLURM, Launch("slurm")),
    "slurm, a process for a machine of 8": (
        SLURM | {"SLURM_GPUS_ON_NODE": "8"},
        Launch("slurm", devices=tuple(range(8))),
    ),
    "slurm, a process for a GPU": (
        SLURM | {"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS": "16"},
        Launch("slurm"),
    ),
    "slurm, one task": (SLURM | {"SLURM_NTASKS": "1"}, Launch("alone")),
    "sbatch without srun": ({"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8"}, Launch("alone")),
    "open mpi": ({"OMPI_COMM_WORLD_SIZE": "2"}, Launch("ompi")),
    "one TPU machine": ({"TPU_WORKER_HOSTNAMES": "localhost"}, Launch("alone")),
    "TPU slice": ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, Launch("gketpu")),
    "TPU slices": ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, Launch("gketpu")),
    "a notebook's pod": ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Launch("alone")),
}


@pytest.mark.parametrize(("environment", "launch"), CASES.values(), ids=list(CASES))
def test_what_the_environment_says(environment: dict[str, str], launch: Launch) -> None:
    assert find_launch({"TPU_SKIP_MDS_QUERY": "1"} | environment) == launch


WRONG = {
    "half of it": ({"JAXFORMERS_NUM_PROCESSES": "2"}, "JAXFORMERS_COORDINATOR and JAXFORMERS_PROCESS_ID not set"),
    "no port": (OURS | {"JAXFORMERS_COORDINATOR": "host-0"}, "'host-0' is not host:port"),
    "no number": (OURS | {"JAXFORMERS_PROCESS_ID": "first"}, "JAXFORMERS_PROCESS_ID='first' is not a number"),
    "too many": (OURS | {"JAXFORMERS_PROCESS_ID": "4"}, "processes count from 0 to 3"),
}


@pytest.mark.parametrize(("environment", "message"), WRONG.values(), ids=list(WRONG))
def test_what_does_not_fit_is_said(environment: dict[str, str], message: str) -> None:
    with pytest.raises(DistributedError, match=message):
        initialize(environment)


def test_kubernetes_needs_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DistributedError, match="set JAXFORMERS_COORDINATOR.*as the manifests in deploy/ do"):
        find_launch(pod)
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name)
    assert find_launch(pod) == Launch("kubernetes")


def test_alone_starts_nothing() -> None:
    """Nothing is connected, and the devices are not asked for, which must wait."""
    probe = (
        "from jaxformers.training.distributed import initialize, is_first\n"
        "import jax, jax._src.xla_bridge as bridge\n"
        "print(initialize({'TPU_SKIP_MDS_QUERY': '1'}).how, jax.distributed.is_initialized(), "
        "bridge.backends_are_initialized(), is_first())"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["alone", "False", "False", "True"]


def test_nobody_there_is_one_clear_error() -> None:
    """jax itself would end the process by a signal and print addresses in memory."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    probe = (
        "from jaxformers.training.distributed import initialize\n"
        f"initialize({OURS | {'JAXFORMERS_COORDINATOR': f'127.0.0.1:{port}', 'JAXFORMERS_START_SECONDS': '1'}!r})"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 1
    assert "DistributedError: the first process does not answer" in done.stderr.splitlines()[-1]
