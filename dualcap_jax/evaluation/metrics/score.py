"""All scores of captions by name, as one flat dictionary for a report."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float

from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.evaluation.metrics.bleu import chrf, corpus_bleu, mean_interval, ter
from dualcap_jax.evaluation.metrics.character_bleu import character_bleu_nltk
from dualcap_jax.evaluation.metrics.coco_caption import coco_caption_scores, document_frequencies
from dualcap_jax.evaluation.metrics.diversity import diversity
from dualcap_jax.evaluation.metrics.java_metrics import meteor, require, spice
from dualcap_jax.evaluation.metrics.words import splitter, warnings

RESAMPLES = 1000
"""Corpora drawn for each confidence interval, as sacrebleu does."""


def check_metrics(config: EvaluationConfig) -> None:
    """Tell what is missing before anything else is done.

    Raises:
        MetricError: "meteor", "spice" or the tokenizer lacks what it runs on.
    """
    splitter(config.tokenize)
    for name in config.metrics:
        if name in ("meteor", "spice"):
            require(name)


def score_captions(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    config: EvaluationConfig | None = None,
    *,
    training_captions: Iterable[Sequence[str]] | None = None,
) -> tuple[dict[str, Any], Float[np.ndarray, "image"] | None]:
    """Score captions by the metrics that the configuration names.

    Args:
        hypotheses: One caption for each image.
        references: Its references, one or more for each image.
        config: The default one unless given.
        training_captions: What was trained on, image by image: for the share of novel captions, and where the
            configuration asks for it for CIDEr-D's document frequencies.

    Returns:
        Of the corpus, what JSON can hold, from 0 to 100 where not said otherwise:
        bleu: the keys of `corpus_bleu`, intervals of 1000 resamples among them;
        coco: `coco_bleu_1` .. `coco_bleu_4`, `coco_rouge_l`, and `coco_cider_d` (0 to 1000), as papers print them, with
        `coco_cider_d_interval` of 1000 resamples;
        diversity: the keys of `diversity` after `diversity_`, its shares from 0 to 1;
        character-bleu: `character_bleu_nltk_1` .. `character_bleu_nltk_4`, 0 to 1, as the original printed them;
        chrf, ter: the keys of those functions;
        meteor, spice: `coco_meteor`, `coco_spice`;
        `tokenize` where it is not 13a, and `warnings`, sentences, where a score means nothing.
        And CIDEr-D of each image (0 to 1000), None where coco is not asked for.

    Raises:
        ValueError: as `corpus_bleu`, or where training captions are asked for and not given.
        MetricError: when "meteor" or "spice" lacks what it runs on.
    """
    config = config or EvaluationConfig()
    lowercase, tokenize = config.lowercase, config.tokenize
    trained_on = None if training_captions is None else list(training_captions)
    words, words_of_references = hypotheses, references  # of what splits them itself, as COCO-caption does
    if tokenize != "13a":
        split = splitter(tokenize)
        words = [split(text) for text in hypotheses]
        words_of_references = [[split(text) for text in some] for some in references]
        trained_on = trained_on and [[split(text) for text in some] for some in trained_on]
    scores: dict[str, Any] = {}
    image_cider_d, weightless = None, False
    if "bleu" in config.metrics:
        scores |= corpus_bleu(hypotheses, references, lowercase=lowercase, tokenize=tokenize, resamples=RESAMPLES)
    if "coco" in config.metrics:
        corpus = words_of_references
        if config.cider_corpus == "train":
            if trained_on is None:
                raise ValueError("evaluation.cider_corpus=train: the training captions are not there")
            corpus = trained_on
        frequencies = document_frequencies(corpus)
        weightless = frequencies.weightless
        coco = coco_caption_scores(words, words_of_references, document_frequencies=frequencies)
        scores |= {f"coco_bleu_{order}": 100 * score for order, score in enumerate(coco.bleu, start=1)}
        image_cider_d = 100 * coco.image_cider_d
        scores |= {"coco_rouge_l": 100 * coco.rouge_l, "coco_cider_d": 100 * coco.cider_d}
        scores["coco_cider_d_interval"] = mean_interval(image_cider_d, resamples=RESAMPLES)
    if "diversity" in config.metrics:
        counted = diversity(words, None if trained_on is None else chain.from_iterable(trained_on))
        scores |= {f"diversity_{key}": value for key, value in counted.items()}
    if "character-bleu" in config.metrics:
        scores |= character_bleu_nltk(hypotheses, references)
    if "chrf" in config.metrics:
        scores |= chrf(hypotheses, references, lowercase=lowercase)
    if "ter" in config.metrics:
        scores |= ter(words, words_of_references, lowercase=lowercase)
    if "meteor" in config.metrics:
        scores["coco_meteor"] = 100 * meteor(hypotheses, references)
    if "spice" in config.metrics:
        scores["coco_spice"] = 100 * spice(hypotheses, references)
    if tokenize != "13a":
        scores["tokenize"] = tokenize
    bleu = not {"bleu", "coco"}.isdisjoint(config.metrics)
    if told := warnings(hypotheses, references, tokenize, bleu=bleu, weightless=weightless):
        scores["warnings"] = told
    return scores, image_cider_d
