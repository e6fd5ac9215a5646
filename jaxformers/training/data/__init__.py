"""Data: sources of rows, transforms, packing, collators, and the loader that makes batches of them."""

from jaxformers.training.data.device import host_share, to_device
from jaxformers.training.data.loader import DataLoader

__all__ = ["DataLoader", "host_share", "to_device"]
