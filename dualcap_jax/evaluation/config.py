"""Settings of the evaluation."""

from dataclasses import dataclass, fields
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types

Metric = Literal["bleu", "coco", "diversity", "character-bleu", "chrf", "ter", "meteor", "spice"]
"""A group of scores that `score_captions` knows."""

Tokenize = Literal["13a", "zh", "ja-mecab", "ko-mecab", "char", "intl", "none"]
"""How text is split into words; the names are sacrebleu's."""


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

    tokenize: Tokenize = "13a"
    """How captions and references are split into words, by sacrebleu's names: 13a for languages that put spaces between
    words, as papers do; zh for Chinese, ja-mecab for Japanese (needs mecab), char, each character a word, for Thai and
    others; intl for international punctuation; none, at spaces alone. BLEU, TER, COCO's scores and diversity use it."""

    def name(self, usual: "EvaluationConfig") -> str:
        """Tells reports apart: "-lowercase-True", each setting that changes a score and is not the `usual` one."""
        scored = [field.name for field in fields(self) if field.name not in ("metrics", "samples")]
        changed = {name: getattr(self, name) for name in scored if getattr(self, name) != getattr(usual, name)}
        return "".join(f"-{name.replace('_', '-')}-{value}" for name, value in changed.items())

    def __post_init__(self) -> None:
        """Reject an impossible value, naming field, value and accepted range."""
        check_types(self, "evaluation.")
        require(self.samples >= 0, "evaluation.samples", self.samples, "must be at least 0")
