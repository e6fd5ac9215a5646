"""A plan as tables in the terminal."""

from typing import Any

from jaxformers.planning.chips import GIB
from jaxformers.planning.report import Report


def show(report: Report, name: str, console: Any) -> None:
    """Print the tables, then in a sentence whether it fits."""
    axes = " x ".join(f"{axis} {size}" for axis, size in report.mesh.items())
    console.print(f"[bold]{name}[/bold] on {report.topology} ({report.topology.size} {report.topology.chip.name})")
    console.print(
        f"mesh {axes}, rules {report.rules}, {report.planned.rows} rows and {report.planned.tokens} tokens a step"
    )
    if flow := report.pipeline():
        console.print(
            f"{flow['stages']} stages, {flow['microbatches']} microbatches: a device idles {flow['idle']:.0%} of a pass"
        )
    for table in (memory(report), exchanges(report), time(report)):
        if table.row_count:
            console.print(table, "")
    verdict(report, console)


def columns(title: str, *names: str) -> Any:
    """An empty table whose numbers stand to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 else "right")
    return table


def memory(report: Report) -> Any:
    """Memory on each device."""
    table = columns("memory on each device", "what", "GiB")
    m = report.compiled.memory
    rows = {"parameters": m.parameters, "optimiser and the rest of the state": m.optimizer, "batch": m.batch}
    if report.compiled.needed is None:
        rows |= {"activations, gradients, gathered parameters": m.temporary, "together": report.used}
    for what, size in rows.items():
        table.add_row(what, f"{size / GIB:.2f}")
    table.add_row("there is", f"{report.topology.chip.memory / GIB:.2f}")
    return table


def exchanges(report: Report) -> Any:
    """Exchanges of a step by kind."""
    across = any(one.network for one in report.traffic.values())
    network = ("over the network",) if across else ()
    table = columns("exchanges in a step", "kind", "how many", "GiB sent by each device", *network)
    for kind, one in report.traffic.items():
        sizes = (one.bytes, one.network) if across else (one.bytes,)
        table.add_row(kind, str(one.runs), *(f"{size / GIB:.3f}" for size in sizes))
    return table


def time(report: Report) -> Any:
    """FLOPs, bounds and the prediction."""
    table = columns("a step, by the roofline", "what", "", "MFU")
    if report.compiled.needed is not None:
        return table
    b = report.bounds
    table.add_row("model FLOPs", f"{report.flops:.3g}", "")
    for what in ("compute", "memory", "links", "network"):
        table.add_row(f"bound by {what}", f"{getattr(b, what) * 1e3:.1f} ms", "")
    table.add_row("step, all overlapped", f"{b.overlapped * 1e3:.1f} ms", f"{report.mfu(b.overlapped):.0%}")
    table.add_row("step, exchanges not overlapped", f"{b.serial * 1e3:.1f} ms", f"{report.mfu(b.serial):.0%}")
    return table


def verdict(report: Report, console: Any) -> None:
    """Whether it fits, and what to change."""
    seconds = f"compiled in {report.compiled.seconds:.0f} s, {report.compiled.kernels} Pallas kernels in the program"
    if report.fits:
        free = (report.topology.chip.memory - report.used) / GIB
        console.print(f"[green]It fits[/green], with {free:.1f} GiB to spare; {seconds}.")
        return
    console.print(
        f"[red]It does not fit[/red]{f': {report.compiled.needed}' if report.compiled.needed else ''}; {seconds}."
    )
    for number, step in enumerate(report.advice(), 1):
        console.print(f"  {number}. {step}", markup=False)
