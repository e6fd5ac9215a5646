"""The result of a feature extractor or an image processor: a dictionary of model inputs, also read as attributes."""

from __future__ import annotations

from collections import UserDict
from typing import Any

from jaxformers.processing.batch import to_array


class BatchFeature(UserDict):
    """Model inputs by name; `batch["input_features"]` and `batch.input_features` are the same."""

    def __init__(self, data: dict[str, Any] | None = None, tensor_type: str | None = None):
        super().__init__(data)
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        # `data` itself is missing while the object is being unpickled.
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"BatchFeature has no {name!r}; it holds {list(data)}")

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def convert_to_tensors(self, tensor_type: str | None) -> BatchFeature:
        """Turn what can be an array into one in place: "np" gives numpy arrays, "jax" arrays of jax."""
        if tensor_type is not None:
            for name, value in self.data.items():
                self.data[name] = to_array(name, value, tensor_type)
        return self
