"""Look at a set before training on it: counts, sizes, caption lengths, and everything that is wrong with it.

    python scripts/describe_data.py DIR [--split train] [--max-length 36] [--tokenizer gpt2] [--out description]

Prints a table and writes it as OUT.md, with two histograms in OUT.png: widths and heights of the images; lengths of
the captions in tokens, with the cut of `--data.max-length`. Every image is decoded, so that broken ones are found.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from dualcap_jax.data.images import ImageError, decode_image, full_size
from dualcap_jax.data.reading import ImagesConfig, ReadingConfig, add_arguments, part
from dualcap_jax.data.records import Record, Source
from dualcap_jax.data.sources import fitting, iterate_captions, open_source
from dualcap_jax.data.text import CaptionTokenizer, load_tokenizer, train_tokenizer
from dualcap_jax.files import replacing, require_writable, write_text


@dataclass
class Description:
    """What was found in a split."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of each readable image."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of each caption, framing tokens included, before any cut."""
    captions_per_image: list[int] = field(default_factory=list)
    same_image: int = 0
    """Images whose bytes another has too."""
    same_caption: int = 0
    """Captions that another image has word for word."""
    repeated_caption: int = 0
    """Captions that their own image has twice."""


def look_at(record: Record, reading: ImagesConfig) -> tuple[tuple[int, int], bytes] | str:
    """Width and height of a record's image and a digest of its bytes, or what is wrong with it."""
    try:
        data = record.read_image()
        size = full_size(decode_image(data, reading, record.filename))
        return record.size or size, hashlib.sha256(data).digest()
    except ImageError as error:
        return f"image '{record.filename}': {error}"
    except OSError as error:
        return f"image '{record.filename}': can't be read ({error.strerror or error})"


def describe(source: Source, tokenizer: CaptionTokenizer, reading: ReadingConfig, threads: int = 2) -> Description:
    """Read a whole source; unreadable images are reported to its faults."""
    found = Description()
    digests: Counter[bytes] = Counter()
    captions: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        for start in tqdm(range(0, len(source), 256), "read", unit="x256 images", disable=None):
            records = [source[index] for index in range(start, min(start + 256, len(source)))]
            for record, seen in zip(records, pool.map(partial(look_at, reading=reading), records), strict=True):
                found.captions_per_image.append(len(record.captions))
                found.lengths += [len(tokenizer.encode(caption, sys.maxsize)) for caption in record.captions]
                own = set(record.captions)
                found.repeated_caption += len(record.captions) - len(own)
                captions.update(own)
                if isinstance(seen, str):
                    source.faults.report("unreadable image", seen)
                else:
                    found.sizes.append(seen[0])
                    digests[seen[1]] += 1
    found.same_image = sum(count for count in digests.values() if count > 1)
    found.same_caption = sum(count for count in captions.values() if count > 1)
    return found


def table(found: Description, source: Source, max_length: int) -> list[tuple[str, str]]:
    """Rows of what was found."""

    def spread(values: Sequence[int]) -> str:
        return f"{min(values)} to {max(values)}, mean {np.mean(values):.1f}, median {np.median(values):.0f}"

    cut = sum(length > max_length for length in found.lengths)
    rows = [
        ("images", f"{len(source):,}"),
        ("captions", f"{len(found.lengths):,}"),
        ("captions of an image", spread(found.captions_per_image)),
        ("tokens of a caption, both framing ones included", spread(found.lengths)),
        (f"captions cut at {max_length} tokens", f"{cut:,} ({cut / len(found.lengths):.2%})"),
        ("images that are there twice or more, byte for byte", f"{found.same_image:,}"),
        ("captions that several images share", f"{found.same_caption:,}"),
        ("captions that one image has twice", f"{found.repeated_caption:,}"),
    ]
    if found.sizes:
        widths, heights = zip(*found.sizes, strict=True)
        rows[3:3] = [("width, pixels", spread(widths)), ("height, pixels", spread(heights))]
    kinds = ("unreadable image", "missing image", "image without captions", "empty caption", "duplicate id")
    counts = {**dict.fromkeys(kinds, 0), **source.faults.counts}
    return rows + [(f"fault: {kind}", f"{count:,}") for kind, count in counts.items()]


def draw(found: Description, max_length: int, path: Path) -> None:
    """The two histograms of the original's report."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    sides, lengths = figure.subplots(1, 2)
    if found.sizes:
        bins = np.histogram_bin_edges(np.array(found.sizes).ravel(), 40).tolist()
        for label, values in zip(("width", "height"), zip(*found.sizes, strict=True), strict=True):
            sides.hist(values, bins, alpha=0.6, label=label)
        sides.legend()
    sides.set(xlabel="pixels", ylabel="images", title=f"{len(found.sizes):,} images")
    lengths.hist(found.lengths, np.arange(min(found.lengths), max(found.lengths) + 2).tolist(), align="left")
    lengths.axvline(max_length + 0.5, color="tab:red", label=f"cut at {max_length}")
    lengths.set(
        xlabel="tokens, both framing ones included", ylabel="captions", title=f"{len(found.lengths):,} captions"
    )
    lengths.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def main(arguments: Sequence[str]) -> int:
    """Describe a split."""
    parser = cli.ArgumentParser("data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="the set, as --data.root")
    parser.add_argument("--split", default="train", help="(%(default)s)")
    parser.add_argument("--max-length", type=int, default=36, help="the cut, as --data.max-length (%(default)s)")
    parser.add_argument("--tokenizer", default="", help="as --data.tokenizer; else one trained on the captions")
    parser.add_argument("--vocab-size", type=int, default=1024, help="of the trained one (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("description"), help="files to write, without ending")
    add_arguments(parser, ImagesConfig)
    args = parser.parse_args(arguments)
    table_path, figure_path = (args.out.with_name(f"{args.out.name}.{ending}") for ending in ("md", "png"))
    for path in (table_path, figure_path):
        require_writable(path)
    reading = ReadingConfig(**asdict(part(ImagesConfig, args)), on_error="skip")  # all that is wrong is to be told
    source = open_source(fitting(args.root, reading), args.split)
    trained = None if args.tokenizer else train_tokenizer(iterate_captions(source), args.vocab_size)
    tokenizer = trained or load_tokenizer(args.tokenizer)
    found = describe(source, tokenizer, reading, args.threads)
    rows = table(found, source, args.max_length)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    for message in list(source.faults.skipped)[:20]:
        print(f"  {message}")
    lines = [f"# {args.root}, {args.split}", "", "| | |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    text = "\n".join([*lines, "", *map("- {}".format, source.faults.skipped), ""])
    write_text(table_path, text)
    draw(found, args.max_length, figure_path)
    print(f"written: {table_path}, {figure_path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
