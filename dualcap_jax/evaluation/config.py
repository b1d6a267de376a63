"""Settings of the evaluation."""

from dataclasses import dataclass
from typing import Literal, get_args

from dualcap_jax.errors import require

Metric = Literal["bleu", "coco", "diversity", "character-bleu", "chrf", "ter", "meteor", "spice"]
"""A group of scores that `score_captions` knows."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored and shown."""

    metrics: tuple[Metric, ...] = ("bleu", "coco", "diversity", "character-bleu")
    """Scores to compute. bleu: sacrebleu's. coco: COCO-caption's BLEU, ROUGE-L and CIDEr-D. diversity: how captions
    differ. character-bleu: the original's BLEU of characters. chrf, ter: sacrebleu's. meteor, spice: need Java and
    pycocoevalcap."""

    cider_corpus: Literal["references", "train"] = "references"
    """Captions that tell CIDEr-D how rare an n-gram is: the references, as in papers, or the training split's."""

    samples: int = 16
    """Images shown with their captions in samples.png. 0: none."""

    lowercase: bool = False
    """Lower-case captions and references before BLEU, chrF and TER; the signature says so."""

    def __post_init__(self) -> None:
        """Reject an impossible value, naming field, value and accepted range."""
        require(self.samples >= 0, "evaluation.samples", self.samples, "must be at least 0")
        corpus = self.cider_corpus
        require(corpus in ("references", "train"), "evaluation.cider_corpus", corpus, "must be 'references' or 'train'")
        known = get_args(Metric)
        for name in self.metrics:
            require(
                name in known, "evaluation.metrics", name, f"there is no such metric; choose from {', '.join(known)}"
            )
