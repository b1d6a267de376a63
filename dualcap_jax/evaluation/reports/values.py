"""What reports are about: an evaluation, its captions, and those of them that are shown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

Score = bool | int | float | str | list[float] | list[str] | None
"""Of a corpus, under its metric's name; None: not measured, or not finite."""

GIVEN = 0.7
"""Nats from which on the image counts as what gave a word: it made it twice as likely."""


@dataclass(frozen=True)
class ExplainedWord:
    """A word of a caption, and how much of it the image gave."""

    text: str
    log_prob: float
    """Log-probability of the word, in nats."""
    seen: float
    """What the image added to it, in nats."""


@dataclass(frozen=True)
class ScoredCaption:
    """The caption of one image, and what is known of it; the fields are those of its row in the JSON file."""

    image_id: int
    caption: str
    score: float | None = None
    """The captioner's own: log-probability for its length. None: it gives none."""
    references: tuple[str, ...] = ()
    cider_d: float | None = None
    """0 to 1000. None: not measured."""


@dataclass(frozen=True)
class ShownCaption:
    """A caption beside its image.

    Raises:
        ValueError: the image is not uint8 [height, width, 3].
    """

    caption: ScoredCaption
    image: np.ndarray
    """uint8 [height, width, 3]."""
    words: tuple[ExplainedWord, ...] = ()
    """The caption's; none where it was not explained."""

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image {self.caption.image_id}: {image.dtype} {image.shape}, not uint8 [height, width, 3]"
            )


@dataclass(frozen=True)
class Evaluation:
    """The captions of a split and all that was measured of them."""

    name: str
    """Of its files, such as "validation-beam5"."""
    split: str
    dataset: str
    """What the images are of, in words; begins with "COCO" where they are COCO's, and holds "Karpathy test" where they
    are that split."""
    captions: tuple[ScoredCaption, ...]
    """One for each image."""
    step: int | None = None
    """Training steps of the captioner. None: not one of ours."""
    decoding: Mapping[str, Any] | None = None
    """Settings of the search, where it was ours."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """`loss`, `loss_all_positions`, `perplexity`."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Of the corpus, as `score_captions` gives them."""
    scenes: Mapping[str, float] = field(default_factory=dict)
    """Accuracies, 0 to 100, where the images are drawn scenes."""

    @property
    def measures(self) -> dict[str, Score]:
        """Losses and scores."""
        return {**self.losses, **self.scores}


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
