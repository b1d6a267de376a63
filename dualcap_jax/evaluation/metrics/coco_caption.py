"""COCO-caption's scores (Chen et al. 2015) in Python alone: BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D.

Equal to those of pycocoevalcap 1.2, which needs Java for its tokens.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dualcap_jax.evaluation.metrics.inputs import check_captions
from dualcap_jax.evaluation.metrics.ptb import tokenize

ORDERS = (1, 2, 3, 4)
NGram = tuple[str, ...]


@dataclass(frozen=True)
class CocoScores:
    """Scores of a corpus and of each image in it, as pycocoevalcap gives them: papers print them times 100."""

    bleu: tuple[float, float, float, float]
    """BLEU-1 to BLEU-4, cumulative, 0 to 1."""
    rouge_l: float
    """0 to 1."""
    cider_d: float
    """0 to 10."""
    image_bleu: Float[np.ndarray, "image 4"]
    image_rouge_l: Float[np.ndarray, "image"]
    image_cider_d: Float[np.ndarray, "image"]


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many images' references each n-gram stands: what makes it count in CIDEr-D."""

    counts: Mapping[NGram, int]
    images: int

    @property
    def weightless(self) -> bool:
        """Whether no n-gram tells one image from another: CIDEr-D is then 0."""
        return all(count == self.images for count in self.counts.values())


class _Sentence:
    """What the scores need of a caption."""

    def __init__(self, caption: str) -> None:
        text = " ".join(tokenize(caption))
        words = text.split()  # as BLEU and CIDEr do, while ROUGE takes the empty caption for one empty word
        self.rouge_words = text.split(" ")
        self.length = len(words)
        self.ngrams = [Counter(zip(*(words[start:] for start in range(order)), strict=False)) for order in ORDERS]


class _Weighed(NamedTuple):
    """What CIDEr-D needs of a caption."""

    ngrams: Sequence[Counter[NGram]]
    """By order."""
    norms: Sequence[float]
    """Of their weights, by order."""
    bigrams: int
    """The caption's length, as the original code takes it."""


class CiderD:
    """CIDEr-D (Vedantam et al. 2015): cosine of n-gram weights, clipped, penalised for length; 0 to 10.

    Args:
        frequencies: Of a corpus: how much each n-gram counts.
        sigma: Bigrams that a caption may be longer or shorter than its reference, as a standard deviation.
    """

    def __init__(self, frequencies: DocumentFrequencies, sigma: float = 6.0):
        log_images = math.log(frequencies.images)
        self._variance = sigma**2
        self._squared_weights = {
            ngram: (log_images - math.log(images)) ** 2 for ngram, images in frequencies.counts.items()
        }
        self._unseen = log_images**2  # of an n-gram that no reference has

    def __call__(self, captions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Of several captions of one image."""
        targets = [self.weigh(_Sentence(reference)) for reference in references]
        return [self.score(self.weigh(_Sentence(caption)), targets) for caption in captions]

    def weigh(self, sentence: _Sentence) -> _Weighed:
        """A caption or reference, for `score`."""
        weight_of, unseen = self._squared_weights.get, self._unseen
        norms = [
            math.sqrt(sum(count * count * weight_of(ngram, unseen) for ngram, count in of_order.items()))
            for of_order in sentence.ngrams
        ]
        return _Weighed(sentence.ngrams, norms, max(0, sentence.length - 1))

    def score(self, caption: _Weighed, references: Sequence[_Weighed]) -> float:
        """Of one caption: the mean over its references."""
        return 10 * sum(self._similarity(caption, reference) for reference in references) / len(references)

    def _similarity(self, caption: _Weighed, reference: _Weighed) -> float:
        total, weights = 0.0, self._squared_weights
        for ours, theirs, our_norm, their_norm in zip(
            caption.ngrams, reference.ngrams, caption.norms, reference.norms, strict=True
        ):
            shared = ours.keys() & theirs.keys()
            if shared and our_norm and their_norm:
                product = sum(
                    min(ours[ngram], theirs[ngram]) * theirs[ngram] * weights.get(ngram, self._unseen)
                    for ngram in shared
                )
                total += product / (our_norm * their_norm)
        difference = caption.bigrams - reference.bigrams
        return total / len(ORDERS) * math.exp(-(difference**2) / (2 * self._variance))


def document_frequencies(references: Iterable[Sequence[str]]) -> DocumentFrequencies:
    """Count the images in whose references each n-gram of orders 1 to 4 stands.

    Args:
        references: Of each image of a corpus, such as the training split, any number.
    """
    return _document_frequencies([_Sentence(reference) for reference in set(some)] for some in references)


def coco_caption_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    document_frequencies: DocumentFrequencies | None = None,
) -> CocoScores:
    """Score captions as the COCO caption challenge does.

    Args:
        hypotheses: One caption for each image.
        references: Its references, one or more for each image.
        document_frequencies: For CIDEr-D, of another corpus; of these references unless given.

    Raises:
        ValueError: when there is nothing to score, the lengths differ, or an image has no reference.
    """
    check_captions(hypotheses, references)
    sentences = _sentences([hypotheses, *references])
    captions = [sentences[hypothesis] for hypothesis in hypotheses]
    targets = [[sentences[reference] for reference in some] for some in references]
    frequencies = document_frequencies or _document_frequencies(targets)

    statistics = np.array([_bleu_statistics(*pair) for pair in zip(captions, targets, strict=True)], np.float64)
    rouge_l = np.array([_rouge_l(*pair) for pair in zip(captions, targets, strict=True)])
    measure = CiderD(frequencies)
    weighed = {text: measure.weigh(sentence) for text, sentence in sentences.items()}
    cider_d = np.array(
        [
            measure.score(weighed[hypothesis], [weighed[reference] for reference in some])
            for hypothesis, some in zip(hypotheses, references, strict=True)
        ]
    )
    bleu = tuple(_bleu(statistics.sum(axis=0, keepdims=True))[0].tolist())
    return CocoScores(bleu, float(rouge_l.mean()), float(cider_d.mean()), _bleu(statistics), rouge_l, cider_d)


def _sentences(captions: Sequence[Sequence[str]]) -> dict[str, _Sentence]:
    """Each different caption, read once."""
    return {caption: _Sentence(caption) for caption in {caption for some in captions for caption in some}}


def _document_frequencies(references: Iterable[Sequence[_Sentence]]) -> DocumentFrequencies:
    counts: Counter[NGram] = Counter()
    images = 0  # counted here: those of a large set come one by one
    for some in references:
        images += 1
        counts.update({ngram for sentence in some for of_order in sentence.ngrams for ngram in of_order})
    return DocumentFrequencies(counts, images)


def _bleu_statistics(caption: _Sentence, references: Sequence[_Sentence]) -> list[int]:
    """Length, length of the closest reference (the shorter of two), matches and n-grams of each order."""
    closest = min((abs(reference.length - caption.length), reference.length) for reference in references)[1]
    matches = [
        sum(min(count, max(each.ngrams[n][ngram] for each in references)) for ngram, count in caption.ngrams[n].items())
        for n in range(len(ORDERS))
    ]
    return [caption.length, closest, *matches, *(max(0, caption.length - order + 1) for order in ORDERS)]


def _bleu(statistics: Float[np.ndarray, "row 10"]) -> Float[np.ndarray, "row 4"]:
    """Cumulative BLEU of each row; pycocoevalcap's small numbers stand in for smoothing."""
    small, tiny = 1e-9, 1e-15
    lengths, closest, matches, ngrams = np.split(statistics, [1, 2, 6], axis=1)
    precisions = np.cumprod((matches + tiny) / (ngrams + small), axis=1) ** (1 / np.array(ORDERS))
    ratios = (lengths + tiny) / (closest + small)
    return precisions * np.exp(np.minimum(0, 1 - 1 / ratios))


def _rouge_l(caption: _Sentence, references: Sequence[_Sentence], beta: float = 1.2) -> float:
    """F-score of the longest common subsequence, precision and recall each of its best reference (Lin 2004)."""
    masks: dict[str, int] = {}
    for place, word in enumerate(caption.rouge_words):
        masks[word] = masks.get(word, 0) | 1 << place
    common = [_common_subsequence(masks, len(caption.rouge_words), each.rouge_words) for each in references]
    precision = max(common) / len(caption.rouge_words)
    recall = max(length / len(each.rouge_words) for length, each in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _common_subsequence(masks: Mapping[str, int], length: int, words: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of its table held in the bits of one integer (Hyyrö 2004).

    Args:
        masks: The places of each word of one sentence, as bits.
        length: Of that sentence.
        words: The other sentence.
    """
    everywhere = (1 << length) - 1
    row = everywhere
    for word in words:
        found = row & masks.get(word, 0)
        row = (row + found) | (row - found)
    return length - (row & everywhere).bit_count()
