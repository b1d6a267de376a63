"""Compare exported captioners with their run on a split: python scripts/compare_exported.py RUN EXPORTED...

Captions images one at a time. Prints for the run and for each folder that `dualcap export` wrote as stablehlo or onnx
its size, the milliseconds that an image takes (median), how many captions are those of the run, and the scores. Where a
caption is another, it prints both with their scores: of a tie they are the same.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dualcap_jax import Captioner, UserError
from dualcap_jax.data.sources import fitting, open_source
from dualcap_jax.evaluation.metrics.coco_caption import coco_caption_scores
from dualcap_jax.exporting.standalone import ExportedError, load_exported


def captioned(captioner: Callable[[bytes], Any], images: Sequence[bytes]) -> tuple[list[Any], float]:
    """A caption of each image, and the median of the seconds that they take, the first not counted."""
    captions, seconds = [], []
    for image in images:
        began = time.perf_counter()
        captions.append(captioner(image))
        seconds.append(time.perf_counter() - began)
    return captions, median(seconds[1:] or seconds)


def size_of(folder: Path) -> float:
    """In MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main(arguments: Sequence[str]) -> int:
    """Print the comparison."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run directory")
    parser.add_argument("exported", nargs="+", help="folders that were exported from it")
    parser.add_argument("--root", default="", help="captioned images; empty: those that the run was trained on")
    parser.add_argument("--split", default="validation", help="which of them")
    parser.add_argument("--images", type=int, default=50, help="how many of them")
    args = parser.parse_args(arguments)
    captioner = Captioner.load(args.run)
    data = fitting(args.root) if args.root else captioner.config.data
    source = open_source(data, args.split)
    records = [source[place] for place in range(min(args.images, len(source)))]
    images, references = [record.read_image() for record in records], [list(record.captions) for record in records]
    expected, seconds = captioned(captioner, images)
    compared = [("the run", expected, seconds, size_of(Path(args.run) / "checkpoints" / "best"))]
    for folder in map(Path, args.exported):
        try:
            exported = load_exported(folder)
        except ExportedError as error:
            raise UserError(str(error)) from None
        compared.append((str(folder), *captioned(exported, images), size_of(folder)))
    print(f"{len(images)} images of {args.split}")
    print(f"{'':40} {'MB':>7} {'ms an image':>11} {'the same':>8} {'BLEU-4':>6} {'CIDEr-D':>7}")
    for name, captions, seconds, size in compared:
        scores = coco_caption_scores([each.text for each in captions], references)
        same = sum(ours.text == theirs.text for ours, theirs in zip(expected, captions, strict=True))
        told = f"{100 * scores.bleu[3]:6.1f} {100 * scores.cider_d:7.1f}"
        print(f"{name[-40:]:40} {size:7.1f} {1000 * seconds:11.1f} {same:8} {told}")
    for name, captions, *_ in compared[1:]:
        for ours, theirs in zip(expected, captions, strict=True):
            if ours.text != theirs.text:
                print(f"{name}: {theirs.text!r} ({theirs.score:.5f}), the run {ours.text!r} ({ours.score:.5f})")
    return 0


if __name__ == "__main__":
    cli.run(main)
