"""Two processes over loopback read parts of the same batches and see them as one global array."""

import os
import socket
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from functools import partial
import jax, numpy as np
index, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
import jaxformers as jf
from jaxformers.training.data import host_share

mesh = jf.make_mesh(data=2, fsdp=2)
rows = [{"x": np.full(3, i)} for i in range(20)]
share = host_share(mesh, jf.FSDP, 8)
assert share == (index, 2), share
options = dict(batch_size=8, shuffle=True, seed=4, epochs=1, last="fill")
whole = [batch["x"] for batch in jf.DataLoader(rows, **options)]
place = partial(jf.to_device, mesh=mesh, rules=jf.FSDP)
loader = jf.DataLoader(rows, **options, process_index=share[0], process_count=share[1], place=place)
total = jax.jit(lambda x, y: (x * y).sum(), out_shardings=None)
for want, batch in zip(whole, loader, strict=True):
    assert batch["x"].shape == (8, 3) and not batch["x"].is_fully_addressable
    for shard in batch["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, want[shard.index])
    weights = jf.to_device({"w": np.arange(24).reshape(8, 3)[index * 4 : index * 4 + 4]}, mesh, jf.FSDP)["w"]
    assert int(total(batch["x"], weights)) == int((want * np.arange(24).reshape(8, 3)).sum())
# Sources of their own: each process's state comes back to it.
from jaxformers.training.data import FirstFit, all_states

texts = [{"input_ids": list(range(1, 2 + i * 7 % 4 + 4 * index))} for i in range(60)]
own = dict(split="source", process_index=index, process_count=2, pack=FirstFit(8, window=9))
make = partial(jf.DataLoader, texts, batch_size=4, **own)
loader = make()
batches = iter(loader)
first = [next(batches) for _ in range(6)]
states = all_states(loader.state())
assert len(states["processes"]) == 2 and states["processes"][0]["rows"] != states["processes"][1]["rows"]
again = make()
again.restore(states)
for _, got, want in zip(range(4), again, batches):
    assert (got["input_ids"] == want["input_ids"]).all()
# The same rows on both sides of an axis that does not divide the batch.
both = jf.make_mesh(tensor=4)
assert host_share(both, jf.FSDP_TENSOR, 8) == (0, 1)
batch = jf.to_device({"x": np.arange(8)}, both, jf.FSDP_TENSOR)["x"]
assert batch.shape == (8,) and (np.asarray(batch.addressable_shards[0].data) == np.arange(8)).all()
print("good", index)
"""


@pytest.mark.slow
def test_two_processes_make_one_batch() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(index), str(port)],
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [run.communicate(timeout=240)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [f"good {index}" in text for index, text in enumerate(said)] == [True, True], "\n".join(said)
