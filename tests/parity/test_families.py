"""One generic test for every model type and head: the same numbers as PyTorch, and the same file written back."""

import importlib
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

import jaxformers as jf
from jaxformers.hub.checkpoint import open_checkpoint
from jaxformers.hub.save import to_hf
from tests.parity import torch_side
from tests.parity.compare import report, visible, worst
from tests.parity.row import Row

HERE = Path(__file__).parent
FILES = sorted(p.stem for p in (HERE / "rows").glob("*.py"))
ROWS: list[Row] = [row for f in FILES for row in importlib.import_module(f"tests.parity.rows.{f}").ROWS]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(row: Row, folder: Path, **kwargs: Any) -> jf.Model:
    """Our model for the row, through the public class."""
    auto = "AutoModel" if row.task is None else "AutoBackbone" if row.task == "Backbone" else f"AutoModelFor{row.task}"
    return getattr(jf, auto).from_pretrained(folder, **kwargs)


def masks(row: Row, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray | None]:
    """Attention masks to try: none hidden, padding right, padding left."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or not row.full:
        return {"plain": mask}
    right, left = mask.copy(), mask.copy()
    right[1, -4:] = 0
    left[1, :4] = 0
    return {"plain": mask, "right": right, "left": left}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_forward(row: Row, tmp_path: Path) -> None:
    """Every output field, in both layouts, with every kind of padding; and what we save gives torch its own numbers."""
    model = torch_side.make(row)
    torch_side.save(model, tmp_path / "theirs")
    inputs = row.inputs(model.config, np.random.RandomState(0))
    options = {"output_hidden_states": True, "output_attentions": True, **row.call}
    if row.attn != "eager":
        options.pop("output_attentions")
    layouts = {"per layer": load(row, tmp_path / "theirs")}
    if row.full:
        layouts["scanned"] = load(row, tmp_path / "theirs", scan=True)
    for kind, mask in masks(row, inputs).items():
        given = inputs if mask is None else {**inputs, "attention_mask": mask}
        theirs = torch_side.run(model, given, **options)
        for layout, ours in layouts.items():
            out = ours(**given, **options)
            errors = worst(out if row.as_theirs is None else row.as_theirs(out), theirs, row.skip, mask)
            report(row, f"{layout}, {kind}", errors)
            assert errors and max(errors.values()) < row.tolerance, f"{layout}, mask {kind}: {errors}"
    for layout, ours in layouts.items():
        ours.save_pretrained(tmp_path / layout)
        check_same_tensors(row, ours, tmp_path / "theirs", tmp_path / layout)
    report(row, "written back, float32", {})
    cls = getattr(transformers, row.hf)
    # The base class's method: decision models override it with one that cannot report what it read.
    read = transformers.PreTrainedModel.from_pretrained.__func__
    again, info = read(
        cls, tmp_path / "per layer", attn_implementation=row.attn, dtype=torch.float32, output_loading_info=True
    )
    assert not info["unexpected_keys"], info
    first, second = torch_side.run(model, inputs, **options), torch_side.run(again.eval(), inputs, **options)
    for name, value in first.items():
        if isinstance(value, np.ndarray):
            # The tensors are equal bit for bit; torch's own sums may end differently with the memory's alignment.
            message = f"{name} after transformers read what we saved"
            np.testing.assert_allclose(value, second[name], rtol=1e-5, atol=1e-6 * np.abs(value).max(), err_msg=message)


def check_same_tensors(row: Row, model: jf.Model, theirs: Path, ours: Path) -> None:
    """Both folders hold the same tensors, bit for bit; what we left out carries nothing."""
    a, b = open_checkpoint(theirs), open_checkpoint(ours)
    keys = model.blueprint.keys()
    lost = [k for k in a if k not in b and not keys.ignores(k) and not any(re.search(p, k) for p in row.lost)]
    assert not lost, f"not written back: {lost}"
    assert not [k for k in b if k not in a], f"written but not theirs: {[k for k in b if k not in a]}"
    for key in b:
        assert a[key].dtype == b[key].dtype and a[key].shape == b[key].shape, key
        assert a[key].tobytes() == b[key].tobytes(), f"{key} changed"


@pytest.mark.parametrize("row", [r for r in ROWS if r.full], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_round_trip(row: Row, dtype: str, tmp_path: Path) -> None:
    """Checkpoints in half precision come back bit for bit, from the stacked layout, which is the harder."""
    model = torch_side.make(row)
    torch_side.save(model, tmp_path / "theirs", DTYPES[dtype])
    ours = load(row, tmp_path / "theirs", scan=True)
    ours.save_pretrained(tmp_path / "ours")
    check_same_tensors(row, ours, tmp_path / "theirs", tmp_path / "ours")
    report(row, f"written back, {dtype}", {})


@pytest.mark.parametrize("row", [r for r in ROWS if r.cached], ids=str)
def test_cached_decode(row: Row, tmp_path: Path) -> None:
    """A prompt, then token by token, equals the full forward; in both layouts, with padding on the left."""
    model = torch_side.make(row)
    torch_side.save(model, tmp_path)
    inputs = row.inputs(model.config, np.random.RandomState(0))
    name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    ids = inputs[name]
    mask = np.ones_like(ids)
    if name == "input_ids":
        mask[1, :3] = 0
        inputs["attention_mask"] = mask
    theirs = torch_side.run(model, inputs, **row.call)["logits"]
    prompt = 4
    for scan in (False, True):
        ours = load(row, tmp_path, scan=scan)
        source = inputs.get("input_ids")  # a model of speech knows the length of what it hears
        extra = {"encoder_length": source.shape[1]} if name != "input_ids" and source is not None else {}
        if "encoder_hidden_states" in inputs:
            extra = {"encoder_length": inputs["encoder_hidden_states"].shape[1]}
        cache = ours.init_cache(len(ids), ids.shape[1] + 2, **extra)
        first = {k: v for k, v in inputs.items() if k not in (name, "attention_mask")}
        if name == "input_ids":
            first["attention_mask"] = mask[:, :prompt]
        elif "attention_mask" in inputs:
            first["attention_mask"] = inputs["attention_mask"]
        out = ours(**{name: ids[:, :prompt]}, **first, past_key_values=cache, **row.call)
        logits = [np.asarray(out.logits)]
        for t in range(prompt, ids.shape[1]):
            out = ours(**{name: ids[:, t : t + 1]}, past_key_values=out.past_key_values, **row.call)
            logits.append(np.asarray(out.logits))
        got = np.concatenate(logits, axis=1)
        errors = worst(jf_logits(got), {"logits": theirs}, mask=mask if name == "input_ids" else None)
        report(row, f"cached, {'scanned' if scan else 'per layer'}", errors)
        assert errors["logits"] < row.tolerance, errors


def jf_logits(logits: np.ndarray) -> Any:
    """An output with logits alone."""
    from jaxformers.core.outputs import LogitsOutput

    return LogitsOutput(logits=logits)


@pytest.mark.parametrize("row", [r for r in ROWS if r.gradient], ids=str)
def test_gradients(row: Row, tmp_path: Path) -> None:
    """The gradient of one loss with respect to every parameter, under torch's names."""
    model = torch_side.make(row)
    torch_side.save(model, tmp_path / "model")
    inputs = row.inputs(model.config, np.random.RandomState(0))
    out = model(**{k: torch.tensor(v) for k, v in inputs.items()}, **row.call)
    name = "logits" if "logits" in out else "last_hidden_state"
    weights = np.random.RandomState(1).randn(*out[name].shape).astype(np.float32)
    (out[name] * torch.tensor(weights)).sum().backward()
    theirs = torch_side.gradients(model, tmp_path / "gradients")

    ours = load(row, tmp_path / "model")
    grads = jax.grad(lambda m: (m(**inputs, **row.call)[name] * weights).sum())(ours)
    got = dict(to_hf(ours.blueprint.keys(), grads.params))
    shared = [k for k in theirs if k in got]
    assert len(shared) > 0.8 * len(got), f"names differ: {sorted(set(got) - set(theirs))[:5]}"
    scale = max(float(np.abs(theirs[k]).max()) for k in shared)
    errors = {k: float(np.abs(got[k] - theirs[k]).max()) / scale for k in shared}
    report(row, "gradient", {"gradient": max(errors.values())})
    bad = {k: e for k, e in errors.items() if not e < row.tolerance}
    assert not bad, bad


def test_every_type_has_rows() -> None:
    """No model type is supported without proof: two option sets with full checks, and every head it offers."""
    from jaxformers.models import MODEL_TYPES, family_of

    classes = {row.hf for row in ROWS}
    for name in MODEL_TYPES:
        family = family_of(name)
        heads = {family.architecture, *(t.architecture for t in family.tasks.values())}
        assert not heads - classes, f"{name}: no parity row for {sorted(heads - classes)}"
        options = {str(r) for r in ROWS if r.full and r.hf in heads}
        assert len(options) >= 2, f"{name}: fewer than two option sets with full checks"


def test_visible_drops_padding() -> None:
    """The comparison itself sees real tokens only, and fails when one differs."""
    mask = np.array([[1, 1, 0]])
    assert visible(np.arange(6).reshape(1, 3, 2), mask).tolist() == [[0, 1], [2, 3]]
    errors = worst(jf_logits(np.ones((1, 3, 2))), {"logits": np.zeros((1, 3, 2)) + 0.5}, mask=mask)
    assert errors["logits"] == 1.0
