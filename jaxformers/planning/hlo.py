"""Collectives of a compiled program: what each moves, how often it runs, and between whom, read from XLA's text."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
WIDTHS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16, "s32": 32,
          "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}  # fmt: skip

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
COLLECTIVE = re.compile(r"^(.*?) (" + "|".join(KINDS) + r")(-start)?\(")
SHAPE = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\]")
CALLED = re.compile(r"\b(?:calls|to_apply|called_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
WHILE = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CONSTANT = re.compile(r"\bs(?:32|64)\[\][^ ]* constant\((\d+)\)")
CHANNEL = re.compile(r"\bchannel_id=(\d+)")
LISTED = re.compile(r"replica_groups=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
# Between TPU slices XLA sends through the hosts, by a name of its own for the kind of exchange.
SEND = re.compile(r"^\((.*), u32\[\], token\[\]\) send\(")
TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}x')
PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}")


@dataclass(frozen=True)
class Collective:
    """One collective: `runs` times in a step, `moved` bytes sent by each device each time, within `group` [N]."""

    kind: str
    moved: float
    runs: int
    group: tuple[int, ...]
    largest: int  # bytes of its largest array
    between_slices: bool = False  # and nothing of it inside one; the group then counts slices


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program's text. A channel that occurs several times is one exchange in parts."""
    programs, entry = computations(text)
    runs = executions(programs, entry)
    found: dict[str, Collective] = {}
    for name, lines in programs.items():
        for instruction, line in lines:
            if runs[name] and (match := COLLECTIVE.match(line)):
                shapes, kind, start = match.groups()
                # TPUs write a reduce-scatter as an all-reduce and a cut in one computation.
                kind = "reduce-cut" if name.startswith("all-reduce-scatter") else kind
                channel = CHANNEL.search(line)
                key = channel.group(1) if channel else f"{name}/{instruction}"
                new = read(line, shapes, kind, start, runs[name])
                old = found.get(key)
                found[key] = new if old is None or new.runs * new.moved > old.runs * old.moved else old
            elif runs[name] and (match := SEND.match(line)) and (kind := TRANSFER.search(line)):
                found[f"{name}/{instruction}"] = between_slices(line, match.group(1), kind.group(1), runs[name])
    return [one for one in found.values() if len(one.group) > 1]


def computations(text: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """{computation: [(instruction, what it is)]} and the name of the entry."""
    programs: dict[str, list[tuple[str, str]]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            lines = programs.setdefault(match.group(1), [])
            entry = match.group(1) if line.startswith("ENTRY") else entry
        elif match := INSTRUCTION.match(line):
            lines.append((match.group(1), match.group(2)))
    return programs, entry


def executions(programs: dict[str, list[tuple[str, str]]], entry: str) -> dict[str, int]:
    """How often each computation runs: loops as often as they say, or as the constant that their condition compares."""
    counts: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        if name not in programs:
            return
        counts[name] += times
        for _, line in programs[name]:
            for inner, more in calls(line, programs):
                visit(inner, times * more)

    visit(entry, 1)
    return counts


def calls(line: str, programs: dict[str, list[tuple[str, str]]]) -> Iterator[tuple[str, int]]:
    """The computations that an instruction runs, and how often."""
    if match := WHILE.search(line):
        known = TRIPS.search(line)
        yield match.group(2), int(known.group(1)) if known else limit(programs.get(match.group(1), []))
        return
    yield from ((name, 1) for name in CALLED.findall(line))
    if match := BRANCHES.search(line):
        yield from ((name.strip(" %"), 1) for name in match.group(1).split(","))


def limit(condition: list[tuple[str, str]]) -> int:
    """The number that a loop counts to; 1 where its condition compares with no constant."""
    found = [int(number) for _, line in condition for number in CONSTANT.findall(line)]
    return max(found, default=1)


def read(line: str, shapes: str, kind: str, start: str | None, runs: int) -> Collective:
    """One instruction, with the bytes a ring exchange sends from each device."""
    sizes = [bytes_of(*found) for found in SHAPE.findall(shapes)]
    members = group(line)
    if start and kind == "collective-permute":
        sizes = sizes[:1]
    elif start and kind != "all-reduce":
        sizes = sizes[len(sizes) // 2 :]  # a start gives its inputs, then its outputs
    total, n = sum(sizes), max(len(members), 1)
    share = (n - 1) / n
    moved = {
        "all-gather": total * share,
        "all-reduce": 2 * total * share,
        "reduce-scatter": total * (n - 1),  # its output is one part of what each device began with
        "collective-permute": total,
    }.get(kind, total * share)
    kind = "reduce-scatter" if kind == "reduce-cut" else kind
    return Collective(kind, moved, runs, members, max(sizes, default=0))


def between_slices(line: str, shapes: str, kind: str, runs: int) -> Collective:
    """What each device sends to those of the other slices, in rings over slices."""
    kind = kind.lower().replace("_", "-").replace("one-to-one", "collective-permute")
    sizes = [bytes_of(*found) for found in SHAPE.findall(shapes)]
    found = SLICES.search(line)  # from one slice to another there is no such list
    ends = [[int(end) for end in part.split(":")] for part in found.group(1).split(",")] if found else [[0, 1]]
    n = sum(end[-1] - end[0] + 1 for end in ends)
    each = {
        "all-reduce": 2 * (n - 1) / n,
        "all-gather": n - 1,
        "reduce-scatter": (n - 1) / n,
        "all-to-all": (n - 1) / n,
    }
    return Collective(kind, sum(sizes) * each.get(kind, 1.0), runs, tuple(range(n)), max(sizes), True)


def bytes_of(dtype: str, dimensions: str) -> int:
    """Bytes of an array; types that are not in the table, of 8 bits each, count so."""
    size = math.prod(int(d) for d in dimensions.split(",")) if dimensions else 1
    return size * WIDTHS.get(dtype, 8) // 8


def group(line: str) -> tuple[int, ...]:
    """The first group of devices that exchange with each other, by their numbers in the mesh; all groups are alike."""
    if match := IOTA.search(line):
        shape, source = numbers(match.group(1)), numbers(match.group(2))
        ids = np.arange(math.prod(source)).reshape(source)
        ids = ids.transpose(numbers(match.group(3))) if match.group(3) else ids
        return tuple(int(i) for i in ids.reshape(shape)[0])
    if match := MESH.search(line):
        return along_axes(*match.groups())
    if match := LISTED.search(line):
        return numbers(match.group(1)[1:].partition("}")[0])
    if match := PAIRS.search(line):
        return ring([numbers(pair) for pair in match.group(1)[1:-1].split("},{")])
    return ()


def along_axes(axes: str, device_ids: str | None, order: str | None, named: str) -> tuple[int, ...]:
    """The first group along the named axes of a mesh written out: 'axis_0'=2,'axis_1'=4 over devices in some order."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if device_ids:
        ids = ids.reshape(numbers(device_ids))
        ids = ids.transpose(numbers(order)) if order else ids
    taken = set(re.findall(r"'(\w+)'", named))
    place = tuple(slice(None) if name in taken else 0 for name in sizes)
    return tuple(int(i) for i in ids.reshape(tuple(sizes.values()))[place].ravel())


def ring(pairs: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The devices that a permutation's first one reaches."""
    follow = dict(pairs)
    members = [pairs[0][0]]
    while (following := follow.get(members[-1])) is not None and following not in members:
        members.append(following)
    return tuple(members)


def numbers(text: str) -> tuple[int, ...]:
    """Integers between commas."""
    return tuple(int(part) for part in text.split(",") if part)
