"""How much of each word the image gave, averaged over the captions of a split of a run's data.

    python scripts/what_is_seen.py RUN [--split test] [--images 200] [--out what_is_seen.png]

Prints each word that occurs at least eight times: how often, and the mean of what the image added to its
log-probability, in nats, most first. For a run on scenes also the same by kind of word, as a figure too: mean and
standard error over the captions that have words of the kind.
"""

from dualcap_jax import Caption, Captioner, cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from dualcap_jax.data.scenes.scene import COLOURS, SHAPES
from dualcap_jax.data.sources import open_source

KINDS = {
    "colours": set(COLOURS),
    "shapes": {shape + ending for shape in SHAPES for ending in ("", "s", "es")},
    "counts": {"two", "three", "four"},  # and "a" before a colour
    "relations": {"left", "right", "top", "bottom", "above", "below", "between", "middle", "row", "column"},
    "articles": {"a", "the"},
    "prepositions": {"of", "on", "in", "at", "to", "from"},
}


def bare_words(caption: Caption) -> list[str]:
    """The words of a caption without punctuation."""
    return [word.text.strip(".,") for word in caption.words]


def kind_of(words: list[str], place: int) -> str:
    """Which of `KINDS` a word of a scene's caption is of, or "others"."""
    if words[place] == "a" and words[place + 1 :] and words[place + 1] in COLOURS:
        return "counts"
    return next((name for name, members in KINDS.items() if words[place] in members), "others")


def estimate(of: ArrayLike) -> tuple[float, float]:
    """Mean and its standard error."""
    values = np.asarray(of)
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else np.nan


def by_kind(captions: list[Caption], out: str) -> None:
    """Print and draw what is seen of each kind of word."""
    seen = defaultdict(list)
    for caption in captions:
        words, of_kinds = bare_words(caption), defaultdict(list)
        for place, word in enumerate(caption.words):
            of_kinds[kind_of(words, place)].append(word.seen)
        for name, values in of_kinds.items():
            seen[name].append(np.mean(values))
    names = [name for name in (*KINDS, "others") if name in seen]
    means, errors = zip(*(estimate(seen[name]) for name in names), strict=True)
    print("\nkind        captions    mean  standard error")
    for name, mean, error in zip(names, means, errors, strict=True):
        print(f"{name:<12}{len(seen[name]):>8}{mean:>+8.2f}{error:>8.2f}")
    figure = Figure((6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(names, means, yerr=errors, capsize=3)
    axes.tick_params("x", rotation=30)
    axes.set_ylabel("what the image adds, nats")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(out, dpi=120)


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", default="what_is_seen.png")
    args = parser.parse_args(arguments)
    captioner = Captioner.load(args.workdir)
    source = open_source(captioner.config.data, args.split)
    images = [source[index].read_image() for index in range(min(args.images, len(source)))]
    captions = captioner(images, explain=True)
    seen = defaultdict(list)
    for caption in captions:
        for text, word in zip(bare_words(caption), caption.words, strict=True):
            seen[text].append(word.seen)
    averages = {word: sum(values) / len(values) for word, values in seen.items() if len(values) >= 8}
    for text, mean in sorted(averages.items(), key=lambda item: -item[1]):
        print(f"{text:<16}{len(seen[text]):>6}{mean:>+8.2f}")
    if not captioner.config.data.root:
        by_kind(captions, args.out)
    return 0


if __name__ == "__main__":
    cli.run(main)
