"""Text, images and sound to arrays: numpy in, numpy out."""

from jaxformers.processing.batch import BatchEncoding
from jaxformers.processing.tokenizer import Tokenizer

__all__ = ["BatchEncoding", "Tokenizer"]
