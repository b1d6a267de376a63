"""How a run is trained."""

from dataclasses import dataclass
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types
from dualcap_jax.models.config import Part


@dataclass(frozen=True)
class TrainingConfig:
    """Optimizer, schedule, and what is saved when; the defaults train the embedded set."""

    steps: int = 1600
    """Optimizer steps of the run."""
    batch_size: int = 64
    """Examples per optimizer step; an example is an image with data.captions_per_image of its captions."""
    accumulate: int = 1
    """Parts that a batch is split into and computed one after the other, gradients summed; divides
    batch_size."""
    learning_rate: float = 3e-3
    """Adam's learning rate at its height."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """After the warm-up: constant, or falling to 0 at the last step."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises linearly from 0."""
    encoder_learning_rate: float = 1.0
    """Factor on the learning rate for the image encoder."""
    language_learning_rate: float = 1.0
    """Factor on the learning rate for the language model."""
    merger_learning_rate: float = 1.0
    """Factor on the learning rate for the merger."""
    freeze: tuple[Part, ...] = ()
    """Parts that are not trained; they run as in evaluation (no dropout, running statistics)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) on kernels and embeddings."""
    clip_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it; 0 turns it off."""
    loss: Literal["real_tokens", "all_positions"] = "real_tokens"
    """What is minimised: the mean over real tokens, or over all positions with padding counted as token 0, as
    the original did. Validation reports both."""
    validate_every: int = 500
    """Steps between validations; the best checkpoint is the one of the lowest validation loss."""
    validation_images: int = 0
    """Images used in each validation, the first of the split, in whole batches; 0 takes all."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    seed: int = 0
    """Of the initial parameters, dropout and the order of the data."""

    def __post_init__(self) -> None:
        check_types(self, "training.")
        at_least = {"steps": 1, "batch_size": 1, "accumulate": 1, "warmup_steps": 0, "validate_every": 1}
        at_least |= {"validation_images": 0, "checkpoint_every": 1, "log_every": 1, "seed": 0}
        at_least |= {"learning_rate": 0, "weight_decay": 0, "clip_norm": 0}
        at_least |= {f"{part}_learning_rate": 0 for part in ("encoder", "language", "merger")}
        for name, least in at_least.items():
            value = getattr(self, name)
            require(least <= value < float("inf"), f"training.{name}", value, f"must be at least {least}")
        divides = self.batch_size % self.accumulate == 0
        require(divides, "training.accumulate", self.accumulate, f"must divide training.batch_size={self.batch_size}")
        require(len(set(self.freeze)) < 3, "training.freeze", " ".join(self.freeze), "leaves nothing to train")
