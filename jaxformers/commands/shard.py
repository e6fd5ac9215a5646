"""`jaxformers shard`: how a mesh would cut a model's parameters, from its config alone."""

import argparse
from typing import Any

EXAMPLES = """examples:
  jaxformers shard ./llama --mesh fsdp=2,tensor=4
  jaxformers shard ./llama --mesh fsdp=2,tensor=4 --draw q_proj
  jaxformers shard --config config.json --mesh data=4,fsdp=64 --rules FSDP --scan --dtype bfloat16
  jaxformers shard ./llama --mesh tensor=4 --rules TENSOR --dtype bfloat16 --quantize int4
  jaxformers shard ./mixtral --mesh fsdp=4,expert=8 --rules EXPERT --json | jq .bytes_per_device

Neither devices nor weights are needed. Rules are REPLICATED, DATA, FSDP, TENSOR, FSDP_TENSOR, EXPERT,
SEQUENCE and PIPELINE."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "shard",
        help="show how a mesh would cut a model's parameters",
        description="Show each parameter's shape, how the mesh cuts it, and the bytes on each device.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", help="checkpoint folder, config.json or hub name")
    parser.add_argument("--config", help="a config file, instead of a model")
    parser.add_argument("--mesh", required=True, help="axes and their sizes: fsdp=2,tensor=4")
    parser.add_argument("--rules", default="FSDP_TENSOR", help="a preset (default: FSDP_TENSOR)")
    parser.add_argument("--task", help="the head, such as CausalLM (default: what the config was saved with)")
    parser.add_argument("--dtype", default="float32", help="of the parameters (default: float32, as they are trained)")
    parser.add_argument("--quantize", choices=("int8", "int4", "fp8"), help="as if the model were quantised to this")
    parser.add_argument("--scan", action="store_true", help="equal layers stacked, as for training")
    parser.add_argument("--every", action="store_true", help="a line for each layer, where equal ones share one")
    parser.add_argument("--draw", metavar="PATH", help="draw which device holds what of parameters like this (a regex)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the config, resolve the rules, print."""
    from jaxformers.core.mesh import abstract_mesh, read_mesh
    from jaxformers.core.sharding import PRESETS, check_axes
    from jaxformers.hub.abstract_model import abstract_model
    from jaxformers.hub.pretrained import load_config, rounding_for
    from jaxformers.hub.shardings import shardings
    from jaxformers.models import task_of

    source = options.config or options.model
    if source is None or options.config and options.model:
        raise ValueError("give a model or --config FILE, one of the two")
    rules = PRESETS.get(options.rules.upper())
    if rules is None:
        raise ValueError(f"--rules {options.rules!r} is unknown; expected one of {', '.join(PRESETS)}")
    mesh = abstract_mesh(read_mesh(options.mesh))
    check_axes(mesh, rules)
    config = load_config(source)
    model = abstract_model(
        config, task=options.task or task_of(config), mesh=mesh, rules=rules, dtype=options.dtype, scan=options.scan
    )
    rounding = rounding_for(source, options.quantize)
    show(shardings(model if rounding is None else rounding.applied(model)), options)


def show(found: Any, options: argparse.Namespace) -> None:
    """Print the table, a drawing, or JSON."""
    import json

    if options.json:
        print(json.dumps(facts(found)))
        return
    if options.draw:
        found.draw(options.draw)
        return
    from rich.console import Console

    from jaxformers.hub.shardings_shown import table

    Console().print(table(found, every=options.every))


def facts(found: Any) -> dict[str, Any]:
    """The table for programs."""
    rows = {
        row.path: {
            "shape": row.shape,
            "dtype": str(row.dtype),
            "axes": row.names,
            "spec": tuple(row.spec),
            "shard": row.shard,
            "bytes_per_device": row.bytes_per_device,
        }
        for row in found
    }
    totals = {"parameters": found.parameters, "bytes": found.bytes, "bytes_per_device": found.bytes_per_device}
    return {"mesh": dict(found.mesh.shape), "devices": found.mesh.size, **totals, "rows": rows}
