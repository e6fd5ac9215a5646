"""Checkpoints: what is read is what was written, bit for bit, whatever happened to the disk in between."""

import json
import logging
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxformers.core.errors import CheckpointError
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import FSDP_TENSOR, TENSOR
from jaxformers.training.checkpoints import Checkpoints
from jaxformers.training.description import checksum
from jaxformers.training.named import named_leaves
from jaxformers.training.state import TrainState
from jaxformers.training.step import make_train_step
from tests.training.small_run import loss, model_of

EXTRA = {"data": {"epoch": 1, "row": 24}, "trainer_state": {"global_step": 2, "log_history": [{"loss": 0.5}]}}


def train(mesh: Any = None, rules: Any = FSDP_TENSOR, optimizer: Any = None) -> Any:
    return make_train_step(loss, optimizer or optax.adamw(1e-2), mesh=mesh, rules=rules if mesh else None, ema=0.9)


def state_of(step: int, mesh: Any = None, *, rules: Any = FSDP_TENSOR, scan: bool = True) -> TrainState:
    """A state whose every number differs from the start's and from other steps'; nothing is compiled to get it."""
    state = train(mesh, rules).init(model_of(mesh, scan), jax.random.key(7))
    return moved(state, step)


def moved(state: TrainState, step: int) -> TrainState:
    return jax.tree.map(
        lambda x: x + jnp.asarray(step / 8, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state
    ).replace(step=state.step * 0 + step, key=jax.random.fold_in(state.key, step))


def numbers(state: Any) -> dict[str, np.ndarray]:
    leaves = named_leaves(state)
    return {
        name: np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for name, x in leaves.items()
    }


def same(a: Any, b: Any) -> None:
    a, b = numbers(a), numbers(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def start() -> TrainState:
    return state_of(0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, start: TrainState) -> Path:
    """Checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(moved(start, step), {**EXTRA, "at": step})
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "run"))


def test_all_comes_back(written: Path, start: TrainState) -> None:
    checkpoints = Checkpoints(written)
    assert checkpoints.steps() == [1, 2]
    state, extra = checkpoints.restore(start)
    same(state, moved(start, 2))
    assert extra == {**EXTRA, "at": 2} == checkpoints.extra(2)
    assert jax.tree.structure(state) == jax.tree.structure(start)
    assert state.key.dtype == start.key.dtype
    same(checkpoints.restore(start, step=1)[0], moved(start, 1))
    shown = json.loads((checkpoints.path(2) / "trainer_state.json").read_text())
    assert shown == EXTRA["trainer_state"]


def test_other_meshes_rules_and_layouts(written: Path, start: TrainState) -> None:
    """The two-layer stack goes onto meshes of 8 and 4 devices, and into layers one by one, and from there back."""
    saved = Checkpoints(written)
    mesh = make_mesh(fsdp=4, tensor=2)
    for one_by_one in (False, True):
        like, _ = train(mesh).abstract(model_of(mesh, scan=not one_by_one), {})
        state, _ = saved.restore(like)
        for name, leaf in named_leaves(state).items():
            assert leaf.sharding == named_leaves(like)[name].sharding, name
        layer = "layers/0/attn/q_proj" if one_by_one else "layers/0:2:1/0/attn/q_proj"
        for part in ("model/params", "ema", "opt_state/0/mu"):
            weight = named_leaves(state)[f"{part}/backbone/{layer}/weight"]
            assert weight.addressable_shards[0].data.size * 8 == weight.size
    layers, stack = numbers(state), numbers(moved(start, 2))
    found = [name for name in layers if "/layers/1/attn/q_proj/weight" in name]
    assert len(found) == 4, "the weight, two moments and the average"
    for name in found:
        np.testing.assert_array_equal(layers[name], stack[name.replace("layers/1/", "layers/0:2:1/0/")][1])
    folder = written.parent / "one by one"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state)
        four = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
        back, _ = checkpoints.restore(train(four, TENSOR).abstract(model_of(four), {})[0])
    same(back, moved(start, 2))


def cut(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def largest(place: Path) -> Path:
    return max((place / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def edit(place: Path) -> None:
    path = place / "trainer" / "checkpoint.json"
    path.write_text(path.read_text().replace('"row": 24', '"row": 25'))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "half of the data": lambda place: cut(largest(place)),
    "no data": lambda place: largest(place).unlink(),
    "empty data": lambda place: largest(place).write_bytes(b""),
    "half of the list of arrays": lambda place: cut(place / "state" / "manifest.ocdbt"),
    "no list of arrays": lambda place: (place / "state" / "manifest.ocdbt").unlink(),
    "half of the metadata": lambda place: cut(place / "state" / "_METADATA"),
    "no arrays": lambda place: shutil.rmtree(place / "state"),
    "no values": lambda place: shutil.rmtree(place / "trainer"),
    "half of the values": lambda place: cut(place / "trainer" / "checkpoint.json"),
    "another value": edit,
    "nothing": lambda place: [shutil.rmtree(path) for path in place.iterdir() if path.is_dir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_is_skipped(
    damage: Callable[[Path], Any], copied: Path, start: TrainState, caplog: pytest.LogCaptureFixture
) -> None:
    damage(copied / "checkpoint-2")
    with caplog.at_level(logging.WARNING, logger="jaxformers"), Checkpoints(copied) as checkpoints:
        state, extra = checkpoints.restore(start)
    assert extra["at"] == 1
    same(state, moved(start, 1))
    assert "checkpoint-2 is damaged and is skipped" in caplog.text
    with pytest.raises(CheckpointError, match="holds no checkpoint to go on from .checkpoint-2: "):
        Checkpoints(copied).restore(start, step=2)


def test_what_is_not_needed_may_be_missing(copied: Path, start: TrainState) -> None:
    """Names and shapes of arrays are in our own description too."""
    (copied / "checkpoint-2" / "state" / "_METADATA").unlink()
    same(Checkpoints(copied).restore(start)[0], moved(start, 2))


def test_flipped_bits_never_pass(copied: Path, start: TrainState) -> None:
    """A flip is found, or it changed nothing that is read."""
    draw = random.Random(0)
    good = {step: moved(start, step) for step in (1, 2)}
    files = [path for path in (copied / "checkpoint-2").rglob("*") if path.is_file() and path.stat().st_size]
    found = 0
    for turn in range(24):
        path = largest(copied / "checkpoint-2") if turn < 6 else draw.choice(files)
        whole = path.read_bytes()
        place, bit = draw.randrange(len(whole)), draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        state, extra = Checkpoints(copied).restore(start)
        same(state, good[extra["at"]])
        found += extra["at"] == 1
        path.write_bytes(whole)
    assert found >= 6, f"{found} of 24 flips were found"


def test_nothing_good_is_an_error(copied: Path, start: TrainState, tmp_path: Path) -> None:
    for step in (1, 2):
        cut(largest(copied / f"checkpoint-{step}"))
    with pytest.raises(CheckpointError, match="checkpoint-2: .*; checkpoint-1: .*start anew"):
        Checkpoints(copied).restore(start)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Checkpoints(tmp_path / "empty").restore(start)
    assert Checkpoints(tmp_path / "empty").steps() == []


def test_another_model_or_optimizer_is_an_error_and_not_damage(written: Path, start: TrainState) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint has .*of another model, optimiser"):
        Checkpoints(written).restore(train(optimizer=optax.sgd(0.1)).init(model_of(), jax.random.key(0)))
    with pytest.raises(CheckpointError, match="lacks extra"):
        Checkpoints(written).restore({**start.__dict__, "extra": start.step})
    wide = jax.tree.map(lambda x: jnp.zeros((*x.shape, 2), x.dtype) if x.ndim else x, start.replace(key=None))
    with pytest.raises(CheckpointError, match="float32"):
        Checkpoints(written).restore(wide.replace(key=start.key))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, start)
    with pytest.raises(CheckpointError, match="as float32.*bfloat16.*model, optimiser or dtype"):
        Checkpoints(written).restore(half)


def test_a_later_format_is_an_error_and_not_damage(copied: Path, start: TrainState) -> None:
    path = copied / "checkpoint-2" / "trainer" / "checkpoint.json"
    fields = {**json.loads(path.read_text()), "format": 2}
    del fields["crc32"]
    path.write_text(json.dumps({**fields, "crc32": checksum(fields)}))
    with pytest.raises(CheckpointError, match="format 2 was found.*update jaxformers"):
        Checkpoints(copied).restore(start)


def test_the_limit_spares_the_best_and_the_only_good_one(copied: Path, start: TrainState) -> None:
    cut(largest(copied / "checkpoint-2"))
    with Checkpoints(copied, keep=1) as checkpoints:
        checkpoints.restore(start)
        checkpoints.protect(3)
        for step, left in ((3, [3]), (4, [3, 4]), (5, [3, 5])):
            checkpoints.save(moved(start, step))
            checkpoints.wait()
            assert checkpoints.steps() == left
    # The best is remembered by the run that goes on.
    with Checkpoints(copied, keep=1) as checkpoints:
        checkpoints.restore(start)
        checkpoints.save(moved(start, 6))
    assert sorted(path.name for path in copied.iterdir()) == ["checkpoint-3", "checkpoint-6"]


def test_the_limit_keeps_older_ones_while_new_ones_fail(copied: Path, start: TrainState) -> None:
    with Checkpoints(copied, keep=1) as checkpoints:
        with no_room():
            checkpoints.save(moved(start, 3))
            with pytest.raises(CheckpointError):
                checkpoints.wait()
        assert checkpoints.steps()[-1:] == [2]
        same(checkpoints.restore(start)[0], moved(start, 2))


class no_room:
    """Writing more than a few bytes to a file fails from here on, as on a full disk, in tensorstore too."""

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, self.before[1]))

    def __exit__(self, *_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_full_disk_loses_nothing(copied: Path, start: TrainState, caplog: pytest.LogCaptureFixture) -> None:
    with Checkpoints(copied) as checkpoints:
        with no_room():
            checkpoints.save(moved(start, 3))
            checkpoints.save(moved(start, 4))  # the run goes on
            with pytest.raises(CheckpointError, match="checkpoint-4 could not be written.*checkpoint-2 and earlier"):
                checkpoints.wait()
        assert "checkpoint-3 could not be written" in caplog.text
        assert checkpoints.steps() == [1, 2]
        assert sorted(path.name for path in copied.iterdir()) == ["checkpoint-1", "checkpoint-2"], "no remains"
        checkpoints.save(moved(start, 4))  # room was made
        checkpoints.wait()
        same(checkpoints.restore(start)[0], moved(start, 4))


def test_arrays_may_be_donated_at_once(tmp_path: Path) -> None:
    """The write goes on while the buffers are reused, also on a CPU, where arrays are not copied to the host."""
    big = {"step": jnp.int32(1), "x": jnp.arange(4 << 20, dtype=jnp.float32), "n": {"y": jnp.ones((512, 512))}}
    want = jax.tree.map(np.array, big)
    reuse = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
    reuse(jax.tree.map(jnp.copy, big))  # compiled before
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(big)
        for _ in range(3):
            big = reuse(big)
        checkpoints.wait()
        state, _ = checkpoints.restore(jax.tree.map(jnp.zeros_like, big))
    same(state, want)


def test_what_a_crash_leaves_is_no_checkpoint(copied: Path, start: TrainState) -> None:
    shutil.copytree(copied / "checkpoint-2", copied / "checkpoint-3.orbax-checkpoint-tmp")
    shutil.copytree(copied / "checkpoint-1", copied / "checkpoint-0.deleted")
    (copied / "checkpoint-2").rename(copied / "checkpoint-2.replaced")  # the crash came while it was replaced
    (copied / "checkpoint-x").mkdir()
    checkpoints = Checkpoints(copied)
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.restore(start)[1]["at"] == 2
    assert (copied / "checkpoint-3.orbax-checkpoint-tmp").exists(), "a reader does not clean: another may be writing"
    checkpoints.save(moved(start, 3))
    checkpoints.close()
    names = sorted(path.name for path in copied.iterdir())
    assert names == ["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-x"]


def test_saving_a_step_again(copied: Path, start: TrainState, caplog: pytest.LogCaptureFixture) -> None:
    with Checkpoints(copied) as checkpoints:
        checkpoints.save(moved(start, 2).replace(step=start.step + 1), {"at": "again"})  # of an older run: replaced
        checkpoints.save(moved(start, 1), {"at": "twice"})  # written by this one: nothing to do
        assert checkpoints.restore(start, step=1)[1] == {"at": "again"}
    assert "checkpoint-1 is there already and will be replaced" in caplog.text
    assert sorted(path.name for path in copied.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_refusals(tmp_path: Path, start: TrainState) -> None:
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)
    with Checkpoints(tmp_path / "run") as checkpoints:
        with pytest.raises(CheckpointError, match="must be JSON"):
            checkpoints.save(start, {"array": np.zeros(2)})
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoints(tmp_path).extra(5)


def test_the_first_error_is_the_one_to_show(tmp_path: Path, start: TrainState) -> None:
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(start)
        raise ZeroDivisionError
    assert Checkpoints(tmp_path).steps() == [0], "what was being written is finished"
