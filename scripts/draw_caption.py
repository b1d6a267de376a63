"""Draw an image with its caption beneath: each word coloured by what the image gave it.

    python scripts/draw_caption.py RUN IMAGE OUT.png

A word is green where the image gave it, as on the terminal with `caption --explain True`. The figure below it is what
the image added to its log-probability, in nats.
"""

from dualcap_jax import Caption, Captioner, Word, cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea, VPacker
from PIL.Image import Image, Resampling

from dualcap_jax.data.images import ImageError, decode_image
from dualcap_jax.data.reading import ImagesConfig, add_arguments, part
from dualcap_jax.evaluation.reports.values import GIVEN
from dualcap_jax.files import replacing

GREEN, GREY = "#1a7f37", "#57606a"
SIDE = 384  # pixels that the image's longer side is drawn with
LETTERS = 34  # that a line holds at most, spaces counted


def lines(words: Sequence[Word]) -> Iterator[list[Word]]:
    """The words of each line."""
    line: list[Word] = []
    for word in words:
        if line and sum(len(each.text) + 1 for each in [*line, word]) > LETTERS:
            yield line
            line = []
        line.append(word)
    yield line


def drawn(word: Word) -> Artist:
    """A word, and below it what the image gave it."""
    colour = GREEN if word.seen > GIVEN else GREY
    text = TextArea(word.text, textprops={"color": colour, "size": 14})
    figure = TextArea(f"{word.seen:+.1f}", textprops={"color": colour, "size": 8})
    return VPacker(children=[text, figure], align="center", pad=0, sep=3)


def draw(image: Image, caption: Caption) -> Figure:
    """The image over its caption."""
    scale = SIDE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Resampling.BILINEAR)
    figure = Figure((image.width / 100, image.height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image)
    axes.set_axis_off()
    rows: list[Artist] = [
        HPacker(children=list(map(drawn, line)), align="top", pad=0, sep=7) for line in lines(caption.words)
    ]
    text = VPacker(children=rows, align="center", pad=0, sep=8)
    below = AnnotationBbox(
        text, (0.5, -0.03), xycoords="axes fraction", box_alignment=(0.5, 1), frameon=False, annotation_clip=False
    )
    axes.add_artist(below)
    return figure


def main(arguments: Sequence[str]) -> int:
    """Draw the image."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", metavar="RUN", help="run directory")
    parser.add_argument("image", metavar="IMAGE", type=Path)
    parser.add_argument("out", metavar="OUT.png", type=Path)
    add_arguments(parser, ImagesConfig)
    args = parser.parse_args(arguments)
    try:
        image = decode_image(args.image.read_bytes(), part(ImagesConfig, args), str(args.image))
    except ImageError as error:
        raise ImageError(f"{args.image}: {error}") from None
    caption = Captioner.load(args.workdir)(image, explain=True)
    with replacing(args.out) as partial:
        draw(image, caption).savefig(partial, format="png", bbox_inches="tight", pad_inches=0.15)
    print(f"written: {args.out}: {caption.text}")
    return 0


if __name__ == "__main__":
    cli.run(main)
