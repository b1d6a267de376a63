"""How a detector is trained."""

from dataclasses import dataclass
from typing import Literal

from dualcap_jax.fields import check_types
from dualcap_jax.training.config import TrainingConfig

DETECTOR = "detector.json"
"""In the run directory of a detector: its experiment, as config.json in a captioner's."""


@dataclass(frozen=True)
class DetectorTrainingConfig:
    """Optimizer, schedule, and what is saved when; the defaults train on the embedded scenes."""

    steps: int = 1200
    """Optimizer steps of the run."""
    batch_size: int = 32
    """Images per optimizer step."""
    accumulate: int = 1
    """Parts that a batch is split into. They are computed one after the other, which saves memory, and their
    gradients are summed. Must divide training.batch_size."""
    learning_rate: float = 3e-3
    """Highest learning rate of Adam; it falls to 0 at the last step, as a cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) on kernels."""
    clip_norm: float = 10.0
    """Largest global norm of the gradients; larger ones are scaled down to it. 0: no limit."""
    average: float = 0.0
    """Share that the average of the parameters keeps at each step, in [0, 1); the average is what is validated, saved
    and used. 0: none, the parameters themselves. In the first steps it keeps less."""
    validate_every: int = 300
    """Steps between validations. The best checkpoint is the one with the highest average precision."""
    validation_images: int = 0
    """Images used in each validation: the first of the split. 0: all of them."""
    checkpoint_every: int = 300
    """Steps between checkpoints."""
    on_save_error: Literal["stop", "go_on"] = "stop"
    """What to do where a checkpoint can't be written, as on a full disk. stop: end. go_on: warn, train on, and try
    again at the next one; the last one must be written. The checkpoint before it stands either way."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    seed: int = 0
    """Seed of the initial parameters and of the order of the data."""

    def __post_init__(self) -> None:
        check_types(self, "training.")
        self.settings  # noqa: B018 (it checks each field)

    @property
    def settings(self) -> TrainingConfig:
        """The same for the loop that trains captioners too."""
        return TrainingConfig(**vars(self))
