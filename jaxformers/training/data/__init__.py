"""Data: sources of rows, transforms, packing, collators, and the loader that makes batches of them."""

from jaxformers.training.data.device import host_share, to_device
from jaxformers.training.data.loader import DataLoader
from jaxformers.training.data.packing import BestFit, ConcatSplit, FirstFit, PackedSource, packing_efficiency

__all__ = [
    "BestFit",
    "ConcatSplit",
    "DataLoader",
    "FirstFit",
    "PackedSource",
    "host_share",
    "packing_efficiency",
    "to_device",
]
