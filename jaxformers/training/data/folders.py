"""Image folders: a folder for each class, as torchvision and `datasets` have them."""

from pathlib import Path
from typing import Any

from jaxformers.core.errors import DataError
from jaxformers.processing.images.load import load_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


class ImageFolder:
    """Rows `{"image", "label"}` of folder/class/picture; classes are numbered by name, `names` holds them."""

    def __init__(self, folder: str | Path, names: list[str] | None = None) -> None:
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"{root} is no folder: expected one with a folder of pictures for each class")
        self.names = names or sorted(path.name for path in root.iterdir() if path.is_dir())
        self.files: list[tuple[Path, int]] = []
        for label, name in enumerate(self.names):
            pictures = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
            self.files += [(path, label) for path in pictures]
        if not self.files:
            raise DataError(
                f"{root} holds no pictures in folders of classes; it has {[p.name for p in root.iterdir()][:8]}"
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.files[index]
        return {"image": load_image(path), "label": label}

    @property
    def label2id(self) -> dict[str, int]:
        """The number of each class, for a model's config."""
        return {name: number for number, name in enumerate(self.names)}
