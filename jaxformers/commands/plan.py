"""`jaxformers plan`: what a run's step takes on machines that are not at hand."""

import argparse
import sys

EXAMPLES = """examples:
  jaxformers plan configs/llama-8b-v5p.toml --topology v5p:8x8x8
  jaxformers plan configs/llama-8b-h100.toml --topology h100:8x8
  jaxformers plan run.toml --topology 2*v5e:16x16 --set training.per_device_train_batch_size=2
  jaxformers plan run.toml --topology v5e:4x4 --json | jq .memory

Topologies: v5e, v5p and v6e with a slice's shape (`2*` for two slices), h100 and h200 with machines x GPUs in each. The
step is compiled for them without one: no weights, no data. Times are bounds of a roofline, not measurements.
Exit status: 0 when it fits, 1 when it does not."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "plan",
        help="memory, traffic and step time of a run on a TPU slice or GPUs, without having them",
        description="Compile a run's train step for a topology, and say what it takes and whether it fits.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="the run's TOML file")
    parser.add_argument("--topology", required=True, help="v5e:16x16, v5p:8x8x8, 2*v5e:16x16, h100:8x8")
    parser.add_argument("--tiny", action="store_true", help="the small form that [tiny] describes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="change one value; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read, compile, print."""
    import json
    import os

    # Compiling for a device must not wait for one, nor start the one that is here.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxformers.planning.report import Report
    from jaxformers.planning.topology import Topology
    from jaxformers.training.recipe import Recipe

    topology = Topology.parse(options.topology)
    recipe = Recipe.read(options.config, options.set, tiny=options.tiny)
    print(f"compiling for {topology}", file=sys.stderr)
    report = Report.of(recipe, topology)
    if options.json:
        print(json.dumps(report.figures()))
    else:
        from rich.console import Console

        from jaxformers.planning.shown import show

        show(report, options.config, Console())
    return 0 if report.fits else 1
