"""What one device has: peak FLOPs, memory, and the bandwidths of its memory and of the links between devices."""

from dataclasses import dataclass

from jaxformers.core.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """The figures of a roofline. Bandwidths in bytes/s; `link` is one device's within a slice or machine, all its links
    in one direction together; `network` is its share of what joins slices or machines."""

    name: str
    kind: str  # as topologies name it
    flops: float  # peak of bfloat16 products
    memory: float  # bytes of HBM that a program may use
    bandwidth: float  # of HBM
    link: float
    network: float


# TPUs: Google's pages on each generation (HBM, peak, inter-chip links) and the HBM that libtpu's compiler may use;
# a host's network (v5e 100, v5p 200, v6e 400 Gbit/s) is shared by its chips (v5e and v6e 8, v5p 4). GPUs: NVIDIA's data
# sheets (dense bfloat16; NVLink 4: 450 GB/s in one direction) and one 400 Gbit/s port for each, as in DGX machines.
CHIPS = {
    chip.kind: chip
    for chip in (
        Chip("TPU v5e", "v5e", 197e12, 15.75 * GIB, 819e9, 4 * 45e9, 100e9 / 8 / 8),
        Chip("TPU v5p", "v5p", 459e12, 95 * GIB, 2765e9, 6 * 90e9, 200e9 / 8 / 4),
        Chip("TPU v6e", "v6e", 918e12, 31.25 * GIB, 1640e9, 4 * 90e9, 400e9 / 8 / 8),
        Chip("NVIDIA H100 SXM", "h100", 989e12, 79 * GIB, 3352e9, 450e9, 50e9),
        Chip("NVIDIA H200 SXM", "h200", 989e12, 139 * GIB, 4800e9, 450e9, 50e9),
    )
}


def chip(kind: str) -> Chip:
    """The chip of this kind. Raises ConfigError, naming those there are."""
    if kind not in CHIPS:
        raise ConfigError(f"there are no figures of {kind!r}; expected one of {', '.join(CHIPS)}")
    return CHIPS[kind]
