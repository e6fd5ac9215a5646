"""`jaxformers detect`: what is in a picture and where, and the picture with boxes around it."""

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  jaxformers detect --model ./detr street.jpg
  jaxformers detect --model ./detr --threshold 0.9 --out boxes.png street.jpg
  jaxformers detect --model ./detr --json *.jpg | jq .objects

--out writes the picture with its boxes; with several pictures it names a folder."""
COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    from jaxformers.pipelines.arguments import add_model

    parser = subparsers.add_parser(
        "detect",
        help="find objects in pictures",
        description="Find objects in pictures and draw boxes around them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("picture", nargs="+", help="picture files or URLs")
    add_model(parser)
    parser.add_argument("--threshold", type=float, default=0.5, help="how likely an object must be (default: 0.5)")
    parser.add_argument("--out", help="write the picture with boxes to this file, or into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object per picture")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, look, print and draw."""
    from jaxformers.pipelines.arguments import check_files, loading_keywords, print_json

    check_files(options.picture, options.out)
    from jaxformers.pipelines.tasks import pipeline
    from jaxformers.processing.images.load import load_image

    pipe = pipeline("object-detection", options.model, **loading_keywords(options))
    for name in options.picture:
        picture = load_image(name)
        objects = pipe(picture, threshold=options.threshold)
        if options.json:
            print_json({"picture": name, "objects": objects})
        else:
            for one in objects:
                print(
                    "\t".join([name, one["label"], f"{one['score']:.3f}", *map(str, one["box"].values())]), flush=True
                )
        if options.out:
            target = Path(options.out)
            draw(picture, objects).save(target / f"{Path(name).stem}.png" if target.is_dir() else target)


def draw(picture: Any, objects: list[dict[str, Any]]) -> Any:
    """The picture with a box and a name around every object, likelier ones on top."""
    from PIL import ImageDraw

    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    labels = sorted({one["label"] for one in objects})
    width = max(2, min(drawn.size) // 200)
    for one in sorted(objects, key=lambda o: o["score"]):
        color = COLORS[labels.index(one["label"]) % len(COLORS)]
        box = one["box"]
        left, top = min(box["xmin"], box["xmax"]), min(box["ymin"], box["ymax"])
        right, bottom = max(box["xmin"], box["xmax"]), max(box["ymin"], box["ymax"])
        pen.rectangle((left, top, right, bottom), outline=color, width=width)
        text = f"{one['label']} {one['score']:.2f}"
        at = pen.textbbox((max(left, 0), max(top, 0)), text)
        pen.rectangle(at, fill=color)
        pen.text((max(left, 0), max(top, 0)), text, fill="white")
    return drawn
