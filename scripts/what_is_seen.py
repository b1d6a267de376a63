"""How much of each word the picture gave, averaged over the captions of a split of a run's data.

    python scripts/what_is_seen.py RUN [--split test] [--images 200]

Prints each word that occurs at least eight times: how often, and the mean of what the picture added to its
log-probability, in nats, most first.
"""

import argparse
from collections import defaultdict

from dualcap_jax import Captioner
from dualcap_jax.data.sources import open_source


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    captioner = Captioner.load(args.workdir)
    source = open_source(captioner.config.data, args.split)
    pictures = [source[index].read_image() for index in range(min(args.images, len(source)))]
    seen = defaultdict(list)
    for caption in captioner(pictures, explain=True):
        for word in caption.words:
            seen[word.text.strip(".,")].append(word.seen)
    means = {word: sum(values) / len(values) for word, values in seen.items() if len(values) >= 8}
    for text, mean in sorted(means.items(), key=lambda item: -item[1]):
        print(f"{text:<16}{len(seen[text]):>6}{mean:>+8.2f}")


if __name__ == "__main__":
    main()
