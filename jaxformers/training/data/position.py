"""Where a loader stands, as a small dictionary: of all processes, or of each where each reads a source of its own."""

import json
from typing import Any

import numpy as np

from jaxformers.core.errors import DataError

VERSION = 1
FIELDS = ("epoch", "batch", "row", "rows")
State = dict[str, Any]


def begin() -> State:
    """The position before the first batch."""
    return {"epoch": 0, "batch": 0, "row": 0, "rows": None}


def written(position: State, seed: int, process: tuple[int, int] | None) -> State:
    """A position as a state to save. process: whose it is (index, count), where each has its own."""
    owner = {} if process is None else {"process": list(process)}
    return {"version": VERSION, "seed": seed, **owner, **position}


def read(state: State, seed: int, process: tuple[int, int] | None) -> State:
    """The position of a saved state. Raises DataError for one of another version, seed or process."""
    if "processes" in state:
        every = state["processes"]
        if process is None or len(every) != process[1]:
            here = "one source for all" if process is None else f"{process[1]} processes"
            raise DataError(
                f"this state is that of {len(every)} processes that read sources of their own; here are {here}: "
                "continue with as many"
            )
        state = every[process[0]]
    if state.get("version") != VERSION or state.get("seed") != seed:
        raise DataError(
            f"this state has version {state.get('version')} and seed {state.get('seed')}; expected {VERSION} and "
            f"{seed}: continue with the seed it was saved with, or begin anew"
        )
    owner = state.get("process")
    if owner != (None if process is None else list(process)):
        raise DataError(
            f"this state is of process {owner}, [index, count]; here is {process and list(process)}: where each "
            "process reads a source of its own, save what `all_states` returns"
        )
    return {name: json.loads(json.dumps(state[name])) for name in FIELDS}


def all_states(state: State) -> State:
    """The states of all processes as one to save, where each reads its own source; all must call this together."""
    if state.get("process") is None:
        return state
    from jax.experimental.multihost_utils import process_allgather

    text = json.dumps(state).encode()
    sizes = process_allgather(np.array([len(text)])).reshape(-1)
    padded = np.frombuffer(text.ljust(int(sizes.max())), np.uint8)
    return {"processes": [json.loads(bytes(row).decode()) for row in process_allgather(padded)]}
