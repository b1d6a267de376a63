"""Prepare COCO 2017, or a set of one's own, once: records that are read fast, with images cropped if wanted.

    python scripts/prepare_coco.py --manual-dir DOWNLOADS data/coco2017 --image-size 380
    python scripts/prepare_coco.py --manual-dir DOWNLOADS data/karpathy --division karpathy --image-size 380
    python scripts/prepare_coco.py --folder MY_IMAGES data/mine

DOWNLOADS holds annotations_trainval2017.zip, train2017.zip and val2017.zip of cocodataset.org, zipped or unzipped; for
Karpathy's division dataset_coco.json too, or the caption_datasets.zip that it comes in. A folder is whatever `train`
reads. A preparation that was stopped goes on where it was; a reader never sees a part of a set.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.prepared.coco_captions_2017 import CocoCaptions2017, CocoConfig
from dualcap_jax.data.prepared.reader import PUBLISHED, read_metadata, stored_transform
from dualcap_jax.data.prepared.writer import CaptionsBuilder, FolderCaptions, FolderConfig, Squares, prepare
from dualcap_jax.data.reading import ReadingConfig, add_arguments, part
from dualcap_jax.data.records import DataError
from dualcap_jax.data.transform import ImageTransform


def main(arguments: Sequence[str]) -> int:
    """Prepare a set."""
    parser = cli.ArgumentParser("data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manual-dir", type=Path, help="directory of COCO's downloads")
    parser.add_argument("--folder", type=Path, help="a set of one's own, instead")
    parser.add_argument("out", type=Path, help="directory to write to")
    parser.add_argument("--division", choices=list(PUBLISHED), default="2017", help="of COCO's images (%(default)s)")
    parser.add_argument("--image-size", type=int, help="store squares of so many pixels; else the files as they are")
    parser.add_argument("--resize", type=int, help="shorter side before the centre crop; else the image size")
    parser.add_argument("--interpolation", choices=["bilinear", "bicubic"], default="bilinear", help="(%(default)s)")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs of squares, 1 to 100 (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(%(default)s)")
    parser.add_argument("--validation-fraction", type=float, default=DataConfig.validation_fraction)
    parser.add_argument("--split-seed", type=int, default=DataConfig.split_seed)
    add_arguments(parser, ReadingConfig)
    args = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # tfds tells the name of every configuration
    if (args.manual_dir is None) == (args.folder is None):
        raise DataError("give --manual-dir (COCO's downloads) or --folder (a set of one's own)")
    source = args.manual_dir or args.folder
    if not source.is_dir():
        raise DataError(f"'{source}' is not a directory")
    if args.threads < 1:
        raise DataError(f"--threads {args.threads}: must be at least 1")
    squares = None
    if args.image_size is not None:
        transform = ImageTransform(args.image_size, args.resize or args.image_size, args.interpolation)
        squares = Squares(transform, args.quality)
    common: dict[str, Any] = {"squares": squares, "reading": part(ReadingConfig, args), "threads": args.threads}
    builder = make_builder(args, common)
    directory = prepare(builder, source)
    report(builder, directory, None if args.folder else PUBLISHED[args.division])
    return 0


def make_builder(args: argparse.Namespace, common: dict[str, Any]) -> CaptionsBuilder:
    """The builder that the arguments ask for."""
    squares = common["squares"]
    name = f"{args.division if args.folder is None else 'folder'}_{squares.name if squares else 'full'}"
    where = {"data_dir": str(args.out), "file_format": "array_record"}
    if args.folder is None:
        return CocoCaptions2017(config=CocoConfig(name=name, division=args.division, **common), **where)
    data = DataConfig(validation_fraction=args.validation_fraction, split_seed=args.split_seed)
    return FolderCaptions(config=FolderConfig(name=name, data=data, **common), **where)


def report(builder: CaptionsBuilder, directory: Path, published: dict[str, int] | None) -> None:
    """Print what is there now."""
    metadata = read_metadata(directory)
    for split, index in metadata["splits"].items():
        images, captions = len(index["captions"]), sum(index["captions"])
        told = ""
        if published:
            told = " (as published)" if images == published[split] else f" (published: {published[split]:,})"
        print(f"{split}: {images:,} images{told}, {captions:,} captions")
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{directory}: {size / 1e6:,.1f} MB; train with --data.root {directory}")
    if stored := stored_transform(metadata):
        print(
            f"  --data.image-size {stored.size} --data.resize {stored.resize} "
            f"--data.interpolation {stored.interpolation}"
        )
    if (faults := getattr(builder, "faults", None)) and faults.skipped:
        print(faults.summary())


if __name__ == "__main__":
    cli.run(main)
