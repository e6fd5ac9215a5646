"""How fast are 32 pictures of 640 x 480 made a model's input, against transformers' Pillow processors?

Both sides take the same decoded Pillow images and give one array; "device" takes their bytes as one array instead, and
runs as a compiled program on jax's default device. transformers' other processors need torchvision, which is not here.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import refuse_when_busy, save, side_by_side, summary, table

BATCH, WIDTH, HEIGHT = 32, 640, 480
IMAGES = {
    "vit, 224 bilinear": ("ViTImageProcessor", {}),
    "clip, 224 bicubic and crop": ("CLIPImageProcessor", {}),
    "siglip, 384 bicubic": ("SiglipImageProcessor", {"size": {"height": 384, "width": 384}}),
    "convnext, 224 of 256 bicubic": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "normalise alone": ("ViTImageProcessor", {"do_resize": False}),
}
THEIRS = "transformers"


def pictures() -> list[Any]:
    """Smooth pictures, with some noise, at random."""
    from PIL import Image

    random = np.random.default_rng(0)
    out = []
    for _ in range(BATCH):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        fine = np.asarray(coarse.resize((WIDTH, HEIGHT), 3)).astype(int) + random.integers(-9, 10, (HEIGHT, WIDTH, 3))
        out.append(Image.fromarray(fine.clip(0, 255).astype(np.uint8)))
    return out


def image_case(name: str) -> tuple[dict[str, Callable[[], Any]], Callable[[], dict[str, float]]]:
    """What is timed, by name, and a function that gives the largest differences, in steps of 255."""
    import jax
    import transformers

    from jaxformers.ops.images import device_preprocess
    from jaxformers.processing.images.families import PROCESSORS

    kind, options = IMAGES[name]
    ours, theirs = PROCESSORS[kind](**options), getattr(transformers, f"{kind}Pil")(**options)
    images = pictures()
    batch = jax.device_put(np.stack([np.asarray(image) for image in images]))
    on_device = device_preprocess(ours)
    cases = {
        THEIRS: lambda: theirs(images, return_tensors="np")["pixel_values"],
        "transformers again": lambda: theirs(images, return_tensors="np")["pixel_values"],
        "jaxformers": lambda: ours(images, return_tensors="np")["pixel_values"],
        "device": lambda: on_device(batch).block_until_ready(),
    }

    def differences() -> dict[str, float]:
        wanted = cases[THEIRS]()
        steps = 255 * np.reshape(ours.image_std, (-1, 1, 1))
        return {n: float(np.abs((np.asarray(cases[n]()) - wanted) * steps).max()) for n in ("jaxformers", "device")}

    return cases, differences


def measure_images(only: list[str]) -> list[dict[str, Any]]:
    """One row for each image processor."""
    import jax

    rows = []
    for name in IMAGES:
        if not any(part in name for part in only):
            continue
        cases, differences = image_case(name)
        times = summary(side_by_side(cases, rounds=5, least=0.2), THEIRS)
        row = {"case": name, "device": jax.devices()[0].device_kind, "times": times, "steps": differences()}
        rows.append(row)
        print(name, {case: f"{t['median_ms']:.1f} ms, x{t['ratio']:.2f}" for case, t in times.items()}, flush=True)
    return rows


def image_table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; ratios are transformers' time over the other's."""
    header = ["case", "transformers ms", "A/A", "jaxformers", "device", "steps of 255, host", "device"]
    lines = []
    for row in rows:
        t = row["times"]
        ratios = [f"{t[name]['ratio']:.2f}" for name in ("transformers again", "jaxformers", "device")]
        steps = [f"{row['steps'][name]:.2g}" for name in ("jaxformers", "device")]
        lines.append([row["case"], f"{t[THEIRS]['median_ms']:.1f}", *ratios, *steps])
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, separated by commas")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    args = parser.parse_args()
    if not args.anyway:
        refuse_when_busy()
    rows = measure_images(args.only.split(","))
    if not args.anyway:
        refuse_when_busy()  # what came while we measured spoils it as well
        save("preprocess", "python benchmarks/preprocess.py", rows)
    print(image_table(rows))


if __name__ == "__main__":
    main()
