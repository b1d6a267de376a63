"""The BLEU of the original report: over characters, by sentence, each order alone; not what papers mean by BLEU."""

import string
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from math import exp

from dualcap_jax.evaluation.metrics.inputs import check_captions

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _ngrams(text: str, order: int) -> Iterator[str]:
    return map("".join, zip(*(text[start:] for start in range(order)), strict=False))


def character_bleu_nltk(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """What NLTK's `sentence_bleu` gives when handed strings where it wants lists of words, averaged over captions.

    Its n-grams are then of characters, spaces included; with weights (1, 0, 0, 0), (0, 1, 0, 0) .. each order stands
    alone. Text is first lower-cased and stripped of ASCII punctuation. Good to compare with figures made in the same
    way, and with nothing else.

    Args:
        hypotheses: One caption for each image.
        references: Its references, one or more for each image.

    Returns:
        `character_bleu_nltk_1` .. `character_bleu_nltk_4`, 0 to 1, of each order alone.

    Raises:
        ValueError: when there is nothing to score, the lengths differ, or an image has no reference.

    Source: `nltk.translate.bleu_score.sentence_bleu`, NLTK 3.9, without smoothing.
    """
    check_captions(hypotheses, references)
    sums = [0.0] * 4
    for hypothesis, some in zip(hypotheses, references, strict=True):
        for index, score in enumerate(_sentence(_clean(hypothesis), [_clean(each) for each in some])):
            sums[index] += score
    return {f"character_bleu_nltk_{order}": total / len(hypotheses) for order, total in enumerate(sums, start=1)}


def _clean(text: str) -> str:
    return text.lower().translate(_NO_PUNCTUATION)


def _sentence(hypothesis: str, references: Sequence[str]) -> list[float]:
    """Brevity penalty times precision, of each order."""
    length = len(hypothesis)
    closest = min((abs(len(each) - length), len(each)) for each in references)[1]
    penalty = 1.0 if length > closest else exp(1 - closest / length) if length else 0.0
    scores = []
    for order in (1, 2, 3, 4):
        counts = Counter(_ngrams(hypothesis, order))
        limits = dict.fromkeys(counts, 0)
        for reference in references:
            for ngram, count in Counter(filter(counts.__contains__, _ngrams(reference, order))).items():
                limits[ngram] = max(limits[ngram], count)
        matches = sum(min(count, limits[ngram]) for ngram, count in counts.items())
        if order == 1 and not matches:
            return [0.0] * 4
        # NLTK's stand-in for a precision of zero is the smallest float.
        scores.append(penalty * (matches / max(1, length - order + 1) or sys.float_info.min))
    return scores
