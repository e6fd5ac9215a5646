"""Data: sources of rows, transforms, packing, collators, and the loader that makes batches of them."""

from jaxformers.training.data.chat import TokenizeChat, TokenizeCompletion
from jaxformers.training.data.device import host_share, to_device
from jaxformers.training.data.files import read_rows
from jaxformers.training.data.folders import ImageFolder
from jaxformers.training.data.loader import DataLoader
from jaxformers.training.data.mixture import mix
from jaxformers.training.data.order import BucketBatches
from jaxformers.training.data.packing import BestFit, ConcatSplit, FirstFit, PackedSource, packing_efficiency
from jaxformers.training.data.pairs import FitPairs
from jaxformers.training.data.position import all_states
from jaxformers.training.data.sources import Stream
from jaxformers.training.data.text import ProcessImage, Tokenize, TokenizeWords
from jaxformers.training.data.tfds import tfds_source

__all__ = [
    "BestFit",
    "BucketBatches",
    "ConcatSplit",
    "DataLoader",
    "FirstFit",
    "FitPairs",
    "ImageFolder",
    "PackedSource",
    "ProcessImage",
    "Stream",
    "Tokenize",
    "TokenizeChat",
    "TokenizeCompletion",
    "TokenizeWords",
    "all_states",
    "host_share",
    "mix",
    "packing_efficiency",
    "read_rows",
    "tfds_source",
    "to_device",
]
