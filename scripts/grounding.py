"""Do words owe what they say to the part of the image that they speak of? Of a run on scenes, where that is known.

    python scripts/grounding.py RUN [--split test] [--images 1000] [--out grounding.png]

Takes one group an image, of those that the network's caption names rightly, and prints as mean +- standard error over
images, and as a figure:

1. what painting its box over with the background does to the log-probability of its words, in nats, beside painting
   over as large a box elsewhere, and the box of another group;
2. of images with another group, the pointing game (Zhang et al. 2018): how often the maximum of a word's Grad-CAM
   lies in the group's box, by the stride of the feature maps, beside how often it lies in another group's; with the
   merger attention also of what the word heeds. Where several pixels are the maximum, by the share of them. Chance is
   a box's share of the image.
"""

from dualcap_jax import Captioner, cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from what_is_seen import bare_words, estimate

from dualcap_jax.data.scenes.captions import parse_caption
from dualcap_jax.data.scenes.drawing import cells
from dualcap_jax.data.scenes.scene import Scene
from dualcap_jax.data.sources.scenes import ScenesSource

WORDS = ("count", "colour", "shape")  # of a group, in the order that captions have them
STRIDES = (2, 4, 8, 16, 32)  # of EfficientNet
Box = tuple[slice, slice]


def boxes(scene: Scene, image: np.ndarray) -> list[Box]:
    """The bounding box of each group: what is not background in its cell."""
    ink = np.abs(image.astype(int) - image[0, 0]).max(-1) > 24
    found = []
    for cell in cells(scene):
        left, top, right, bottom = (round(edge * len(image)) for edge in cell)
        places = np.nonzero(ink[top:bottom, left:right])
        y, x = (slice(at + each.min(), at + each.max() + 1) for at, each in zip((top, left), places, strict=True))
        found.append((y, x))
    return found


def elsewhere(box: Box, side: int, rng: Random) -> Box | None:
    """A box of the same size beside this one, where there is room."""
    (top, bottom), (left, right) = ((part.start, part.stop) for part in box)
    height, width = bottom - top, right - left
    free = [
        (slice(y, y + height), slice(x, x + width))
        for y in range(side - height + 1)
        for x in range(side - width + 1)
        if y >= bottom or y + height <= top or x >= right or x + width <= left
    ]
    return rng.choice(free) if free else None


def measure(captioner: Captioner, source: ScenesSource) -> tuple[dict, dict]:
    """Values of both tables, by row and column."""
    changes, hits, rng = defaultdict(list), defaultdict(list), Random(0)
    maps: dict[str, Callable[..., np.ndarray]] = {
        str(stride): partial(captioner.grad_cam, stride=stride) for stride in STRIDES
    }
    if captioner.config.model.merger.reads:
        maps["attention"] = captioner.attention_map
    images = [captioner.prepare(source[index].read_image()) for index in range(len(source))]
    for index, caption in enumerate(captioner(images, explain=True)):
        image, scene, words = images[index], source.scene(index), bare_words(caption)
        named = {  # a group by where its words begin
            group: start
            for start in range(len(words) - 2)
            for group in parse_caption(" ".join(words[start : start + 3])).groups
        }
        right = [number for number, group in enumerate(scene.groups) if group in named]
        if not right:
            continue
        places = boxes(scene, image)
        chosen = rng.choice(right)
        start, box = named[scene.groups[chosen]], places.pop(chosen)
        another = rng.choice(places) if places else None
        regions = {"its box": box, "elsewhere": elsewhere(box, len(image), rng), "another group": another}
        for name, region in regions.items():
            if region:
                painted = image.copy()
                painted[region] = image[0, 0]
                for place, word in enumerate(captioner.explain(painted, caption)[start : start + 3]):
                    changes[name, WORDS[place]].append(word.log_prob - caption.words[start + place].log_prob)
        if another:
            for kind, map_of in maps.items():
                for place, name in enumerate(WORDS):
                    heatmap = map_of(image, caption, start + place)
                    peak = (heatmap == heatmap.max()) / (heatmap == heatmap.max()).sum()
                    hits[name, kind].append(peak[box].sum())
                    hits[f"{name}, another's", kind].append(peak[another].sum())
                hits["chance", kind].append(peak[box].size / peak.size)
    return changes, hits


def show(title: str, values: dict, axes: Axes) -> None:
    """Print a table, and draw it as bars."""
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*values, strict=True))
    print(f"\n{title}\n{'':<20}" + "".join(f"{column:>20}" for column in columns))
    for number, row in enumerate(rows):
        means, errors = zip(*(estimate(values[row, column]) for column in columns), strict=True)
        cells = "".join(f"{mean:>+12.3f} +-{error:>5.3f}" for mean, error in zip(means, errors, strict=True))
        print(f"{row:<20}{cells}   of {len(values[row, columns[0]])}")
        where = np.arange(len(columns)) + 0.8 * number / len(rows)
        axes.bar(where, means, 0.8 / len(rows), yerr=errors, align="edge", label=row)
    axes.set_xticks(np.arange(len(columns)) + 0.4, list(map(str, columns)))
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)


def main(arguments: Sequence[str]) -> int:
    """Print the tables, draw the figure."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir")
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    parser.add_argument("--images", type=int, default=1000, help="more than the run's own split has are drawn")
    parser.add_argument("--out", default="grounding.png")
    args = parser.parse_args(arguments)
    captioner = Captioner.load(args.workdir)
    data = captioner.config.data
    if data.root:
        parser.error(f"{args.workdir} was trained on {data.root}: what is where is known of scenes alone")
    data = replace(data, scenes=replace(data.scenes, **{args.split: args.images}))
    changes, hits = measure(captioner, ScenesSource(data, args.split))
    figure = Figure((13, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=(1, 2))
    show("Change of log-probability when painted over, nats", changes, panels[0])
    show("A map's maximum in the group's box, share: Grad-CAM by stride, attention", hits, panels[1])
    figure.savefig(args.out, dpi=120)
    return 0


if __name__ == "__main__":
    cli.run(main)
