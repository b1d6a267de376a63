"""Time all metrics that need no Java against pycocoevalcap's: python scripts/benchmark_metrics.py [--images 5000]."""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from dualcap_jax.evaluation.metrics.coco_caption import coco_caption_scores
from dualcap_jax.evaluation.metrics.score import score_captions


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    images: int = 5000
    """Images, as in COCO's validation split, each with one caption to score."""
    references: int = 5
    """References of each."""
    words: int = 8000
    """Words of the vocabulary, drawn by Zipf's law."""
    repeats: int = 3
    """Times that each side is measured, in turn."""
    seed: int = 0
    """Of the captions."""


def make_captions(arguments: Arguments) -> tuple[list[str], list[list[str]]]:
    """Captions of COCO's length: references that share words with each other, and a hypothesis that shares with them.

    Returns:
        Hypotheses, and the references of each image.
    """
    draw = random.Random(arguments.seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = list({"".join(draw.choices(letters, k=draw.randint(2, 9))): None for _ in range(arguments.words)})
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    pool = iter(draw.choices(words, weights, k=40 * arguments.images * (arguments.references + 2)))

    def caption(theme: Sequence[str]) -> str:
        chosen = [draw.choice(theme) if draw.random() < 0.6 else next(pool) for _ in range(draw.choice(range(7, 15)))]
        chosen[0] = chosen[0].capitalize()
        if draw.random() < 0.1:
            place = draw.randrange(len(chosen))
            chosen[place] += draw.choice([",", "'s", "-" + next(pool), " 2"])
        return " ".join(chosen) + draw.choice([".", ".", ".", " .", ""])

    hypotheses, references = [], []
    for _ in range(arguments.images):
        theme = [next(pool) for _ in range(10)]
        hypotheses.append(caption(theme).rstrip(" .").lower())
        references.append([caption(theme) for _ in range(arguments.references)])
    return hypotheses, references


def our_coco_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D."""
    scores = coco_caption_scores(hypotheses, references)
    return [*scores.bleu, scores.rouge_l, scores.cider_d]


def pycocoevalcap() -> Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]] | None:
    """Its tokenizer, BLEU, ROUGE-L and CIDEr-D as one function; None where it or Java isn't there."""
    if shutil.which("java") is None:
        return None
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError:
        return None

    def scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        tokenizer = PTBTokenizer()
        results = tokenizer.tokenize({index: [{"caption": each}] for index, each in enumerate(hypotheses)})
        targets = tokenizer.tokenize({i: [{"caption": each} for each in some] for i, some in enumerate(references)})
        bleu, _ = Bleu(4).compute_score(targets, results, verbose=0)
        return [
            *bleu,
            float(Rouge().compute_score(targets, results)[0]),
            float(Cider().compute_score(targets, results)[0]),
        ]

    return scores


def main(args: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    arguments = cli.parse(Arguments, args, "benchmark_metrics", __doc__.split(":")[0])
    hypotheses, references = make_captions(arguments)
    theirs = pycocoevalcap()
    sides: dict[str, Callable[[], object]] = {
        "all default metrics, here": lambda: score_captions(hypotheses, references),
        "BLEU, ROUGE-L, CIDEr-D, here": lambda: our_coco_scores(hypotheses, references),
    }
    if theirs is not None:
        sides["the same, pycocoevalcap"] = lambda: theirs(hypotheses, references)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(arguments.repeats):
        for name, measure in sides.items():
            start = perf_counter()
            results[name] = measure()
            seconds[name].append(perf_counter() - start)
    print(f"{arguments.images} images, {arguments.references} references each, median of {arguments.repeats}:")
    for name, times in seconds.items():
        print(f"  {name:<29} {median(times):6.2f} s  ({min(times):.2f} to {max(times):.2f})")
    if theirs is not None:
        pairs = zip(results["BLEU, ROUGE-L, CIDEr-D, here"], results["the same, pycocoevalcap"], strict=True)
        print(f"  largest difference of the six scores: {max(abs(ours - other) for ours, other in pairs):.1e}")
    return 0


if __name__ == "__main__":
    cli.run(main)
