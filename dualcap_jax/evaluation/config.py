"""Settings of the evaluation."""

from dataclasses import dataclass
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types

Metric = Literal["bleu", "coco", "diversity", "character-bleu", "chrf", "ter", "meteor", "spice"]
"""A group of scores that `score_captions` knows."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored and shown."""

    metrics: tuple[Metric, ...] = ("bleu", "coco", "diversity", "character-bleu")
    """Scores computed: sacrebleu's BLEU; COCO-caption's BLEU, ROUGE-L and CIDEr-D; how captions differ; the original's
    BLEU of characters; sacrebleu's chrF and TER; METEOR and SPICE, which need Java and pycocoevalcap."""

    cider_corpus: Literal["references", "train"] = "references"
    """Which captions tell CIDEr-D how rare an n-gram is: the references, as in papers, or the training split's."""

    samples: int = 16
    """Images shown with their captions in samples.png; 0 draws none."""

    lowercase: bool = False
    """Lower-case captions and references before BLEU, chrF and TER; the signature says which."""

    def __post_init__(self) -> None:
        """Reject an impossible value, naming field, value and accepted range."""
        check_types(self, "evaluation.")
        require(self.samples >= 0, "evaluation.samples", self.samples, "must be at least 0")
