"""How a run is trained."""

from dataclasses import dataclass
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types
from dualcap_jax.models.config import Part

Which = Literal["best", "latest"]
"""A checkpoint of a run: the best by validation, or the latest."""


BATCH_NORM = "encoder.batch_norm"
"""What `TrainingConfig.unfreeze` calls all batch norms of the encoder together."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimizer, schedule, and what is saved when; the defaults train the embedded set."""

    steps: int = 1600
    """Optimizer steps of the run."""
    batch_size: int = 64
    """Examples per optimizer step; an example is an image with data.captions_per_image of its captions."""
    accumulate: int = 1
    """Parts that a batch is split into. They are computed one after the other, which saves memory, and their
    gradients are summed. Must divide training.batch_size."""
    learning_rate: float = 3e-3
    """Highest learning rate of Adam."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to 0 at the last step."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0."""
    encoder_learning_rate: float = 1.0
    """Factor on the learning rate of the image encoder."""
    language_learning_rate: float = 1.0
    """Factor on the learning rate of the language model."""
    merger_learning_rate: float = 1.0
    """Factor on the learning rate of the merger."""
    freeze: tuple[Part, ...] = ()
    """Parts that are not trained. They run as in evaluation, without dropout and with running statistics."""
    unfreeze: tuple[str, ...] = ()
    """What is trained of the parts in training.freeze all the same, by its place in the network: a module, such as
    encoder.classifier, encoder.head_norm or language.blocks.11, or encoder.batch_norm: all batch norms of the encoder.
    Of a batch norm the statistics too, unless model.encoder.batch_norm is frozen."""
    adam_b2: float = 0.999
    """Share that Adam's mean of squared gradients keeps at each step, in [0, 1). Less suits short runs."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) on kernels and embeddings."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients; larger ones are scaled down to it. 0: no limit."""
    objective: Literal["cross_entropy", "self_critical", "distillation"] = "cross_entropy"
    """What is trained for. cross_entropy: to predict the next token of given captions. self_critical: to draw captions
    of high CIDEr-D, after cross entropy, from the run that init_from names (Rennie et al. 2017). distillation: to
    predict the next token of given captions as another run does, training.teacher (Hinton et al. 2015)."""
    samples_per_image: int = 5
    """Captions that self_critical draws of each image."""
    baseline: Literal["mean", "greedy"] = "mean"
    """What self_critical compares the reward of a drawn caption with. mean: with that of the others drawn of the image.
    greedy: with that of its greedy caption, as first published; costs another search."""
    teacher: str = ""
    """Run that distillation learns from: its directory, or a captioner that was saved or published. Its tokenizer is
    the student's."""
    temperature: float = 2.0
    """What distillation divides logits by, the teacher's and the student's, before it compares their distributions:
    more shows more of what the teacher holds possible."""
    soft_share: float = 0.5
    """Share of the loss that the teacher's distributions have in distillation, in [0, 1]; the captions have the
    rest."""
    loss: Literal["real_tokens", "all_positions"] = "real_tokens"
    """Loss to minimise. real_tokens: the mean over real tokens. all_positions: the mean over all positions, padding
    counted as token 0, as the original did."""
    label_smoothing: float = 0.0
    """Share of each label that goes to all tokens of the vocabulary alike, in [0, 1): less trust in the one caption
    that was written where others would do. Validation is without it. For loss real_tokens only."""
    average: float = 0.0
    """Share that the average of the parameters keeps at each step, in [0, 1); the average is what is validated, saved
    and used. 0: none, the parameters themselves. In the first steps it keeps less."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one before it, in encoder and language model, more than 0 and
    at most 1: early layers of published weights then change less. 1: all learn alike."""
    pack: bool = True
    """Lay captions side by side in rows, so that little is computed on padding. The losses are the same. Not done with
    model.merger.norm batch, whose statistics are of every token, the last one too."""
    validate_every: int = 500
    """Steps between validations. The best checkpoint is the one with the lowest validation loss, of self_critical the
    one whose greedy captions have the highest CIDEr-D."""
    validation_images: int = 0
    """Images used in each validation: the first of the split, in whole batches. 0: all of them."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    on_save_error: Literal["stop", "go_on"] = "stop"
    """What to do where a checkpoint can't be written, as on a full disk. stop: end. go_on: warn, train on, and try
    again at the next one; the last one must be written. The checkpoint before it stands either way."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    seed: int = 0
    """Seed of the initial parameters, of dropout and of the order of the data."""

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
        for name in ("label_smoothing", "average", "adam_b2"):
            require(0 <= getattr(self, name) < 1, f"training.{name}", getattr(self, name), "must be in [0, 1)")
        require(0 < self.layer_decay <= 1, "training.layer_decay", self.layer_decay, "must be in (0, 1]")
        smooths_real = not self.label_smoothing or self.loss == "real_tokens"
        message = "must be 0 with training.loss=all_positions"
        require(smooths_real, "training.label_smoothing", self.label_smoothing, message)
        require(0 <= self.soft_share <= 1, "training.soft_share", self.soft_share, "must be in [0, 1]")
        require(0 < self.temperature < float("inf"), "training.temperature", self.temperature, "must be more than 0")
        only: dict[str, dict[str, object]] = {
            "self_critical": {"loss": "real_tokens", "label_smoothing": 0.0},
            "distillation": {"loss": "real_tokens"},
        }
        for name, value in only.get(self.objective, {}).items():
            message = f"must be {value} with training.objective={self.objective}"
            require(getattr(self, name) == value, f"training.{name}", getattr(self, name), message)
        if self.objective == "distillation":
            require(bool(self.teacher), "training.teacher", "", "must name the run that distillation learns from")
        if self.objective == "self_critical":
            least = {"mean": 2, "greedy": 1}[self.baseline]
            message = f"must be at least {least} with training.baseline={self.baseline}"
            require(self.samples_per_image >= least, "training.samples_per_image", self.samples_per_image, message)
        leaves_some = len(set(self.freeze)) < 3 or self.unfreeze
        require(bool(leaves_some), "training.freeze", " ".join(self.freeze), "leaves nothing to train")
        for name in self.unfreeze:
            message = f"must begin with a part that training.freeze names, and a dot, such as {BATCH_NORM}"
            part, dot, _ = name.partition(".")
            require(part in self.freeze and bool(dot), "training.unfreeze", name, message)

    @property
    def freezes_encoder(self) -> bool:
        """Whether nothing of the encoder changes, and so neither what it makes of an image."""
        return "encoder" in self.freeze and not any(name.startswith("encoder.") for name in self.unfreeze)
