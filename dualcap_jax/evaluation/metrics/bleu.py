"""Corpus scores by sacrebleu (Post 2018), over any number of references for each caption."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.bleu import BLEUScore

from dualcap_jax.evaluation.config import Tokenize
from dualcap_jax.evaluation.metrics.inputs import check_captions

ORDERS = (1, 2, 3, 4)
SEED = 12345
"""Of the draws for confidence intervals; sacrebleu's."""


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    lowercase: bool = False,
    tokenize: Tokenize = "13a",
    resamples: int = 0,
    seed: int = SEED,
) -> dict[str, Any]:
    """BLEU-1 to BLEU-4 of a corpus of captions, as papers report them.

    `bleu_n` is cumulative: brevity penalty times the geometric mean of the precisions of orders 1 to n, each
    counted over the whole corpus, the brevity penalty with the reference closest in length. Tokens are those of
    sacrebleu. Where no n-gram of some order matches at all, sacrebleu's "exp" smoothing puts half a match (then a
    quarter, an eighth ...) in place of zero; without a single matching word the score is 0, as it is where no
    hypothesis is long enough to have an n-gram of that order.

    Args:
        hypotheses: One caption for each image.
        references: Its references, one or more for each image.
        lowercase: Ignore case.
        tokenize: What splits the words.
        resamples: Corpora drawn from the images, with replacement, for confidence intervals (Koehn 2004); 0 for
            none, sacrebleu takes 1000.
        seed: Of the draws; sacrebleu's own unless given.

    Returns:
        `bleu_1` .. `bleu_4`, `precision_1` .. `precision_4` (of each order alone, smoothed as BLEU-4 is), 0 to 100;
        `brevity_penalty`, 0 to 1; `signature`, sacrebleu's, of BLEU-4; where there are resamples, `bleu_1_interval`
        .. `bleu_4_interval`: [low, high] of the middle 95 %, bounded as in `sacrebleu.significance`.

    Raises:
        ValueError: when there is nothing to score, the lengths differ, or an image has no reference.
    """
    statistics = _statistics(hypotheses, references, lowercase, tokenize)
    scores = [_bleu(statistics.sum(axis=0), order) for order in ORDERS]
    result: dict[str, Any] = {f"bleu_{order}": score.score for order, score in zip(ORDERS, scores, strict=True)}
    for order, precision in zip(ORDERS, scores[-1].precisions, strict=True):
        result[f"precision_{order}"] = precision
    result["brevity_penalty"] = scores[-1].bp
    result["signature"] = _signature(references, lowercase, tokenize)
    if resamples:
        drawn = _resampled(statistics, resamples, seed)
        result |= {f"bleu_{order}_interval": _middle_95(drawn[:, order - 1]) for order in ORDERS}
    return result


def chrf(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False
) -> dict[str, float | str]:
    """The corpus's chrF (Popović 2015) by sacrebleu: F-score of character n-grams of orders 1 to 6.

    Returns:
        `chrf`, 0 to 100, and sacrebleu's `chrf_signature`.

    Raises:
        ValueError: as `corpus_bleu`.
    """
    check_captions(hypotheses, references)
    metric = CHRF(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, _streams(references)).score
    return {"chrf": score, "chrf_signature": str(metric.get_signature())}


def ter(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False
) -> dict[str, float | str]:
    """The corpus's translation edit rate (Snover et al. 2006) by sacrebleu: edits per 100 reference words.

    Args:
        hypotheses: One caption for each image.
        references: Its references, one or more for each image.
        lowercase: Ignore case.

    Returns:
        `ter`, 0 or more and lower for better captions, and sacrebleu's `ter_signature`.

    Raises:
        ValueError: as `corpus_bleu`.
    """
    check_captions(hypotheses, references)
    metric = TER(case_sensitive=not lowercase)
    score = metric.corpus_score(hypotheses, _streams(references)).score
    return {"ter": score, "ter_signature": str(metric.get_signature())}


def _streams(references: Sequence[Sequence[str]]) -> list[tuple[Any, ...]]:
    """From [image][reference] to sacrebleu's [reference][image], None where an image has fewer."""
    return list(zip_longest(*references))


def _signature(references: Sequence[Sequence[str]], lowercase: bool, tokenize: Tokenize) -> str:
    """sacrebleu's, which depends on the numbers of references alone."""
    metric = BLEU(lowercase=lowercase, tokenize=tokenize)
    metric.corpus_score(["", ""], _streams([[""] * number(map(len, references)) for number in (min, max)]))
    return str(metric.get_signature())


def _statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool, tokenize: Tokenize
) -> Int[np.ndarray, "image 10"]:
    """Of each caption: its length, its closest reference's, matches of each order, n-grams of each order."""
    check_captions(hypotheses, references)
    metric = BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=True)  # which changes nothing in the counts
    scores = [
        metric.sentence_score(hypothesis, list(some)) for hypothesis, some in zip(hypotheses, references, strict=True)
    ]
    return np.array([[each.sys_len, each.ref_len, *each.counts, *each.totals] for each in scores])


def _bleu(statistics: Int[np.ndarray, "10"], order: int) -> BLEUScore:
    """BLEU of an order from the sums of `_statistics`: the counts of order 4 hold those of the lower ones."""
    sys_len, ref_len, *counts = statistics.tolist()
    matches, ngrams = counts[:order], counts[4 : 4 + order]
    return BLEU.compute_bleu(matches, ngrams, sys_len, ref_len, smooth_method="exp", max_ngram_order=order)


def _times(images: int, resamples: int, seed: int) -> Int[np.ndarray, "resample image"]:
    """How often each image is in each corpus that is drawn with replacement."""
    draws = np.random.default_rng(seed).choice(images, size=(resamples, images), replace=True)
    return np.stack([np.bincount(draw, minlength=images) for draw in draws])


def _resampled(
    statistics: Int[np.ndarray, "image 10"], resamples: int, seed: int
) -> Float[np.ndarray, "resample order"]:
    """BLEU of each order in corpora drawn with replacement."""
    drawn = _times(len(statistics), resamples, seed) @ statistics
    return np.array([[_bleu(row, order).score for order in ORDERS] for row in drawn])


def mean_interval(scores: Float[np.ndarray, "image"], resamples: int, seed: int = SEED) -> list[float]:
    """Of a score that is the mean over images: [low, high] as `corpus_bleu` gives."""
    return _middle_95(_times(len(scores), resamples, seed) @ scores / len(scores))


def _middle_95(scores: Float[np.ndarray, "resample"]) -> list[float]:
    """Bounds of the middle 95 % of the scores."""
    beyond = len(scores) // 40
    ordered = np.sort(scores).tolist()
    return [ordered[beyond], ordered[-1 - beyond]]
