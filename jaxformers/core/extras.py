"""Optional packages: imported when they are first needed, with an error that names the extra which brings them."""

import importlib
from typing import Any

from jaxformers.core.errors import MissingExtra


def require(package: str, *, extra: str, purpose: str) -> Any:
    """Import an optional package. Raises MissingExtra, which says what needs it and how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f"{purpose} needs {package.partition('.')[0]}, which is not installed: pip install 'jaxformers[{extra}]'"
        ) from error
