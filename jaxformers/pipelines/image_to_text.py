"""Image-to-text: a caption, or what a model writes about a picture and a prompt."""

from dataclasses import dataclass, replace
from typing import Any

from jaxformers.pipelines.image_text_to_text import ImageTextOptions, ImageTextToText
from jaxformers.pipelines.rows import Row


@dataclass(frozen=True)
class ImageToTextOptions(ImageTextOptions):
    """prompt: what the model is asked about the picture; the image token is put before it if it is not in it."""

    prompt: str | None = None


class ImageToText(ImageTextToText):
    """A picture to [{"generated_text"}]."""

    task = "image-to-text"
    options = ImageToTextOptions

    def is_one(self, inputs: Any) -> bool:
        return hasattr(inputs, "size") or super().is_one(inputs)

    def __call__(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        """As every pipeline of pictures."""
        return super(ImageTextToText, self).__call__(inputs, **options)

    def asked(self, options: ImageToTextOptions) -> str:
        """The prompt with its place for the picture."""
        token = getattr(self.processor, "image_token", "<image>")
        prompt = options.prompt or ""
        return prompt if token in prompt else f"{token}\n{prompt}" if prompt else token

    def prepare(self, item: Any, options: ImageToTextOptions) -> list[Row]:  # type: ignore[override]
        return super().prepare({"images": item, "text": self.asked(options)}, options)

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
        alone = replace(options, return_full_text=False)
        found = super().finish(self.asked(options), rows, outputs, alone)
        return [{k: v for k, v in record.items() if k != "input_text"} for record in found]
