"""`jaxformers info`: what a checkpoint holds, read from its headers alone, and which kernels would compute it."""

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = """examples:
  jaxformers info ./minilm
  jaxformers info ./llama --depth 6
  jaxformers info ./llama --json | jq .parameters
  jaxformers info ./llama --ops --batch 8 --length 4096
  jaxformers info ./llama/config.json --ops --topology v5e:4x4 --mesh fsdp=4,tensor=4

Only headers are read, so a checkpoint of any size answers at once. Layers are counted together as `*`.
--ops needs a config only: it traces a forward pass on shapes, and for language models the writing of one token more,
and prints which implementation each op takes on this device, or on a TPU that is not there, and why others refused."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "info",
        help="show a checkpoint's config, tasks and sizes",
        description="Show a checkpoint's config, the tasks it can serve here, and its parameters by module and dtype.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="checkpoint folder, weight file or hub name")
    parser.add_argument("--depth", type=int, default=4, help="parts of a tensor's name to group by (default: 4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    ops = parser.add_argument_group("with --ops")
    ops.add_argument(
        "--ops", action="store_true", help="show which implementation each op takes, and why others do not"
    )
    ops.add_argument("--batch", type=int, default=1, help="rows (default: 1)")
    ops.add_argument("--length", type=int, default=1024, help="tokens in a row (default: 1024)")
    ops.add_argument("--dtype", default="bfloat16", help="of parameters and activations (default: bfloat16)")
    ops.add_argument("--task", help="the head, such as CausalLM (default: what the config was saved with)")
    ops.add_argument("--quantize", choices=("int8", "int4", "fp8"), help="as if the model were quantised to this")
    ops.add_argument("--mesh", help="axes and their sizes: fsdp=2,tensor=4 (default: one device)")
    ops.add_argument("--rules", default="FSDP_TENSOR", help="a preset of sharding rules (default: FSDP_TENSOR)")
    ops.add_argument("--topology", help="a TPU that is not there, such as v5e:4x4; needs libtpu (extra tpu-aot)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the headers, count, print."""
    if options.ops:
        return run_ops(options)
    if options.depth < 1:
        raise ValueError(f"--depth is {options.depth}; expected 1 or more")
    from jaxformers.core.config import read_json
    from jaxformers.hub.checkpoint import open_checkpoint
    from jaxformers.hub.download import resolve

    path = resolve(options.model)
    tensors = open_checkpoint(path)
    file = (path.parent if path.is_file() else path) / "config.json"
    config = read_json(file) if file.exists() else {}
    facts = {
        "config": config,
        "tasks": tasks(config.get("model_type")),
        "parameters": sum(array.size for array in tensors.values()),
        "bytes": tensors.nbytes,
        "files": [name.name for name in tensors.files],
        "dtypes": totals((str(array.dtype), array) for array in tensors.values()),
        "modules": totals((group(name, options.depth), array) for name, array in tensors.items()),
    }
    if options.json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        show(options.model, facts)


def tasks(model_type: str | None) -> list[str] | None:
    """The Auto classes that can load this model type; None if the type is not supported."""
    from jaxformers.core.errors import UnknownModelType
    from jaxformers.models import family_of

    try:
        return ["AutoModel", *(f"AutoModelFor{task}" for task in family_of(str(model_type)).tasks)]
    except UnknownModelType:
        return None


def group(name: str, depth: int) -> str:
    """The module that a tensor belongs to, its layers' numbers as `*`, at most `depth` parts deep."""
    parts = ["*" if part.isdigit() else part for part in name.split(".")]
    return ".".join(parts[: min(depth, max(len(parts) - 1, 1))])


def totals(arrays: Iterable[tuple[str, "np.ndarray"]]) -> dict[str, dict[str, int]]:
    """{name: tensors, parameters, bytes}, in order of appearance."""
    found: dict[str, dict[str, int]] = {}
    for name, array in arrays:
        row = found.setdefault(name, {"tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += array.size
        row["bytes"] += array.nbytes
    return found


def show(source: str, facts: dict[str, Any]) -> None:
    """Print tables to stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console()
    config = facts["config"]
    about = Table(show_header=False, show_edge=False, title=escape(source), title_justify="left")
    about.add_row("model type", escape(str(config.get("model_type", "no config.json"))))
    about.add_row("saved as", escape(", ".join(config.get("architectures") or ["not said"])))
    about.add_row("loads with", ", ".join(facts["tasks"]) if facts["tasks"] else "model type not supported")
    about.add_row("files", escape(", ".join(facts["files"][:4])) + (" ..." if len(facts["files"]) > 4 else ""))
    for key, value in sorted(config.items()):
        if isinstance(value, int | float | str) and key not in ("model_type", "architectures"):
            about.add_row(escape(key), escape(str(value)))
    out.print(about, "")
    for title, rows in (("dtype", facts["dtypes"]), ("module", facts["modules"])):
        table = Table(title, show_edge=False)
        for column in ("tensors", "parameters", "size"):
            table.add_column(column, justify="right")
        for name, row in rows.items():
            table.add_row(escape(name), str(row["tensors"]), f"{row['parameters']:,}", size(row["bytes"]))
        out.print(table, "")
    out.print(f"total: {facts['parameters']:,} parameters, {size(facts['bytes'])}")


def size(count: float) -> str:
    """Bytes in a readable unit."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def run_ops(options: argparse.Namespace) -> None:
    """Trace a forward pass on shapes, print what became of each op."""
    from dataclasses import asdict

    from jaxformers.core.sharding import PRESETS
    from jaxformers.hub.abstract_model import abstract_model
    from jaxformers.hub.op_report import op_report
    from jaxformers.hub.pretrained import load_config, rounding_for
    from jaxformers.models import task_of

    rules = PRESETS.get(options.rules.upper())
    if rules is None:
        raise ValueError(f"--rules {options.rules!r} is unknown; expected one of {', '.join(PRESETS)}")
    config, mesh = load_config(options.model), mesh_for(options)
    task = options.task or task_of(config)
    model = abstract_model(config, task=task, mesh=mesh, rules=rules, dtype=options.dtype)
    rounding = rounding_for(options.model, options.quantize)
    model = model if rounding is None else rounding.applied(model)
    found = op_report(model, options.batch, options.length)
    if options.json:
        print(json.dumps([asdict(use) for use in found]))
    else:
        show_ops(options.model, found)


def mesh_for(options: argparse.Namespace) -> Any:
    """The mesh that the options describe, of devices that may not be there; None for this machine's first device."""
    from jaxformers.core.mesh import make_mesh, read_mesh

    if options.topology is None:
        return make_mesh(read_mesh(options.mesh)) if options.mesh else None
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=options.topology).devices
    if options.mesh:
        return make_mesh(read_mesh(options.mesh), devices=devices)
    return make_mesh(data=1, devices=devices[:1])


def show_ops(source: str, found: list[Any]) -> None:
    """A table of ops to stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("step", "op", "arguments", "calls", "taken", "not taken", show_edge=False, title=escape(source))
    for use in found:
        refused = "\n".join(f"{name}: {why}" for name, why in use.refused)
        table.add_row(use.step, use.op, escape(use.shapes), str(use.calls), use.chosen, escape(refused))
    Console().print(table)
