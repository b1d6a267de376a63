"""Settings of the evaluation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored and shown."""

    samples: int = 16
    """Pictures shown with their captions in samples.png; 0 draws none."""

    lowercase: bool = False
    """Lower-case captions and references before BLEU; the signature says which."""

    def __post_init__(self) -> None:
        """Reject an impossible value, naming field, value and accepted range."""
        if self.samples < 0:
            raise ValueError(f"evaluation.samples={self.samples}: must be at least 0")
