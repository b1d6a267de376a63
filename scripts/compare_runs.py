"""Evaluations side by side, each against the first, with significance.

    python scripts/compare_runs.py RUN RUN... [--evaluation validation-beam5]

A RUN is a run directory, whose evaluation of that name is taken, or the JSON file of an evaluation. All must be of the
same images and references. Prints a Markdown table: corpus BLEU (sacrebleu) and CIDEr-D (COCO-caption), each with the
middle 95 % of 1000 resamples; the difference to the first run's; and how likely one at least as large is by chance, by
paired approximate randomization over 10,000 trials (BLEU: sacrebleu's; CIDEr-D: scipy's).
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy.stats import permutation_test

from dualcap_jax.errors import UserError
from dualcap_jax.evaluation.config import EvaluationConfig, Tokenize
from dualcap_jax.evaluation.metrics.score import check_metrics, score_captions
from dualcap_jax.evaluation.reports.files import read_report, read_reports
from dualcap_jax.evaluation.reports.values import ScoredCaption

TRIALS = 10_000


class NotComparable(UserError):
    """What cannot be put side by side, told in a sentence."""


def read(run: str, name: str) -> dict[int, ScoredCaption]:
    """Caption and references of each image.

    Raises:
        NotComparable: the run has no evaluation of that name.
        ReportError: the file holds none.
    """
    path = Path(run)
    if path.is_dir():
        there = [each.name for each in read_reports(path / "evaluation")]
        path = path / "evaluation" / f"{name}.json"
        if not path.is_file():
            raise NotComparable(f"{run} has no evaluation {name}; it has {', '.join(there) or 'none'}")
    return {each.image_id: each for each in read_report(path).captions}


def compare(evaluations: Sequence[dict[int, ScoredCaption]], tokenize: Tokenize = "13a") -> list[dict[str, Any]]:
    """Scores of each evaluation, and for all but the first `bleu_4_p` and `coco_cider_d_p`.

    Raises:
        NotComparable: they are of different images or references.
    """
    first, *others = evaluations
    for number, other in enumerate(others, start=2):
        if other.keys() != first.keys():
            raise NotComparable(f"run {number} is of other images than run 1: {len(other)} and {len(first)}")
        if differing := [key for key in first if other[key].references != first[key].references]:
            raise NotComparable(f"run {number} has other references than run 1 for image {differing[0]}")
    references = [each.references for each in first.values()]
    captions = [[each[key].caption for key in first] for each in evaluations]
    settings = EvaluationConfig(("bleu", "coco"), tokenize=tokenize)
    check_metrics(settings)
    scored = [score_captions(each, references, settings) for each in captions]
    results = [scores for scores, _ in scored]
    if others:
        named: Any = [(str(number), each) for number, each in enumerate(captions)]
        streams: Any = list(zip_longest(*references))
        tested: Any = PairedTest(named, {"BLEU": BLEU(tokenize=tokenize)}, streams, "ar", TRIALS)()[1]
        for result, (_, cider_d), bleu in zip(results[1:], scored[1:], tested["BLEU"][1:], strict=True):
            # Of no difference sacrebleu says that chance never gives more: true, and no answer.
            result["bleu_4_p"] = bleu.p_value if result["bleu_4"] != results[0]["bleu_4"] else 1.0
            result["coco_cider_d_p"] = permutation_test(
                (scored[0][1], cider_d),
                lambda ours, theirs, axis: np.mean(ours - theirs, axis=axis),
                permutation_type="samples",
                vectorized=True,
                n_resamples=TRIALS,
                batch=1000,
                rng=np.random.default_rng(0),
            ).pvalue
    return results


def table(names: Sequence[str], results: Sequence[dict[str, Any]]) -> str:
    """The comparison as Markdown."""

    def cell(result: dict[str, Any], key: str) -> str:
        low, high = result[f"{key}_interval"]
        text = f"{result[key]:.1f} ({low:.1f} to {high:.1f})"
        if f"{key}_p" in result:
            text += f", {result[key] - results[0][key]:+.1f}, p = {result[f'{key}_p']:.2g}"
        return text

    lines = ["| run | BLEU-4 | CIDEr-D |", "| --- | ---: | ---: |"]
    for name, result in zip(names, results, strict=True):
        lines.append(f"| {name} | {cell(result, 'bleu_4')} | {cell(result, 'coco_cider_d')} |")
    told = dict.fromkeys(warning for result in results for warning in result.get("warnings", ()))
    return "\n".join([*lines, *(f"\nWarning: {warning}" for warning in told)])


def main(arguments: Sequence[str]) -> int:
    """Print the table; returns the exit code."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", help="run directories, or JSON files of evaluations; the first is compared with"
    )
    parser.add_argument("--evaluation", default="validation-beam5", help="which of a run directory's")
    parser.add_argument(
        "--tokenize", "--evaluation.tokenize", choices=get_args(Tokenize), default="13a", help="as of evaluate"
    )
    args = parser.parse_args(arguments)
    print(table(args.runs, compare([read(run, args.evaluation) for run in args.runs], args.tokenize)))
    return 0


if __name__ == "__main__":
    cli.run(main)
