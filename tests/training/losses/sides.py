"""A loss on both sides: transformers' class with labels, and ours on the same checkpoint."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

import jaxformers as jf
from jaxformers.hub.save import to_hf
from jaxformers.training.losses import LossOutput, loss_for
from tests.parity import torch_side
from tests.parity.row import Row

FOLDER = Path(__file__).parents[2] / "parity" / "rows"


@dataclass(frozen=True)
class Case:
    """A row of the parity table with labels.

    row: (file, class, name). labels: (config, inputs, rng) -> arrays that both sides get. config: changes of the row's.
    options: of our loss. drop: inputs that the labels replace. theirs: what torch gets in the place of the labels.
    ours: what our batch has in the place of them. summed: transformers' loss is a sum.
    """

    row: tuple[str, str, str]
    labels: Callable[[Any, dict, np.random.RandomState], dict[str, Any]]
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ("decoder_input_ids",)
    theirs: Callable[[dict], dict] | None = None
    ours: Callable[[dict], dict] | None = None
    gradient: bool = False
    summed: bool = False
    note: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (*self.row[1:], self.note) if part and part != "default")

    @property
    def parity(self) -> Row:
        """The row, with this case's config."""
        file, hf, name = self.row
        rows = importlib.import_module(f"tests.parity.rows.{file}").ROWS
        (row,) = [r for r in rows if (r.hf, r.name) == (hf, name)]
        return replace(row, config={**row.config, **self.config})


def tensors(value: Any) -> Any:
    """Arrays as tensors, inside lists and dicts."""
    if isinstance(value, dict):
        return {k: tensors(v) for k, v in value.items()}
    if isinstance(value, list):
        return [tensors(v) for v in value]
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


def compare(case: Case, folder: Path) -> LossOutput:
    """Both losses, and gradients where the case asks for them; returns ours."""
    row = case.parity
    model = torch_side.make(row)
    torch_side.save(model, folder / "model")
    rng = np.random.RandomState(0)
    inputs = {k: v for k, v in row.inputs(model.config, rng).items() if k not in case.drop}
    labels = case.labels(model.config, inputs, rng)
    given = labels if case.theirs is None else case.theirs(labels)
    theirs = model(**{k: tensors(v) for k, v in {**inputs, **given}.items()}).loss

    auto = "AutoModel" if row.task is None else f"AutoModelFor{row.task}"
    ours = getattr(jf, auto).from_pretrained(folder / "model")
    loss = loss_for("ZeroShotImageClassification" if row.task is None else ours, **case.options)
    batch = {**inputs, **(labels if case.ours is None else case.ours(labels))}
    value, out, grads = run(loss, ours, batch, case)
    np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=1e-5)
    if case.gradient:
        theirs.backward()
        check_gradients(ours, grads, torch_side.gradients(model, folder / "gradients"))
    return out


def run(loss: Any, model: jf.Model, batch: dict, case: Case) -> tuple[np.ndarray, LossOutput, Any]:
    """The loss, its sums, and its gradients where they are wanted, from one compiled program."""

    def value(model: jf.Model) -> tuple[jax.Array, LossOutput]:
        out = loss(model, batch, None)
        return out.total if case.summed else out.loss, out

    if case.gradient:
        (number, out), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(model)
        return np.asarray(number), out, grads
    number, out = jax.jit(value)(model)
    return np.asarray(number), out, None


def check_gradients(model: jf.Model, grads: jf.Model, theirs: dict[str, np.ndarray]) -> None:
    """Every parameter's gradient, against the largest of all."""
    got = dict(to_hf(model.blueprint.keys(), grads.params))
    shared = [k for k in theirs if k in got]
    assert len(shared) > 0.5 * len(got)  # transformers freezes the first stages of DETR's backbone
    scale = max(float(np.abs(theirs[k]).max()) for k in shared)
    errors = {k: float(np.abs(got[k] - theirs[k]).max()) / scale for k in shared}
    assert max(errors.values()) < 1e-4, {k: e for k, e in errors.items() if e >= 1e-4}
