"""How a language model is trained on text alone, and its shape."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from dualcap_jax.errors import ConfigError, require
from dualcap_jax.fields import check_types
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.language_models.gpt2 import Activation
from dualcap_jax.training.config import TrainingConfig

NOTE = "language_training.json"
"""In the directory that is written: what the language model was trained on, and how."""


@dataclass(frozen=True)
class LanguageTrainingConfig:
    """Shape, optimizer and schedule; the defaults suit some ten thousand captions on a laptop."""

    width: int = 256
    """Length of the language model's hidden states; must be a multiple of the heads."""
    layers: int = 4
    """Number of transformer blocks of the language model."""
    heads: int = 8
    """Attention heads per block of the language model; must divide the width."""
    activation: Activation = "gelu_new"
    """Of each block's MLP, by transformers' names. gelu_new: approximated by tanh, as in GPT-2. gelu: exact, as in
    Cerebras-GPT."""
    max_positions: int = 64
    """Longest sequence of the language model, in tokens; a longer document is cut into pieces."""
    dropout: float = 0.1
    """Dropout rate for embeddings, attention weights and residual branches, in [0, 1)."""
    init_deviation: float = 0.02
    """Standard deviation of the initial kernels and embeddings, above 0; narrow models learn sooner with more."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Kind of number that training computes with; what is saved is float32. bfloat16 is for accelerators: on a CPU it
    is slower."""
    epochs: int = 10
    """Times that training goes through the text, where no steps are given."""
    steps: int = 0
    """Optimizer steps of the training. 0: as many as the epochs make."""
    batch_size: int = 64
    """Documents per optimizer step; a document that was cut counts by its pieces."""
    learning_rate: float = 1e-3
    """Highest learning rate of Adam; it falls to 0 at the last step, as a cosine."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises linearly from 0; never more than a tenth of all steps."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW) on kernels and embeddings."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients; larger ones are scaled down to it. 0: no limit."""
    held_out: float = 0.05
    """Share of the documents that is kept from training to measure perplexity on, at least one; captions of one image
    stay together. The weights of the lowest perplexity on them are saved."""
    validate_every: int = 500
    """Steps between measurements of the perplexity on what is held out; the last step is followed by one too."""
    log_every: int = 100
    """Steps between lines of progress, where there is no terminal to draw a bar on."""
    seed: int = 0
    """Seed of the initial weights, of dropout, of the order of the text and of what is held out."""

    def __post_init__(self) -> None:
        check_types(self, "")
        require(self.epochs >= 1, "epochs", self.epochs, "must be at least 1")
        require(self.steps >= 0, "steps", self.steps, "must be at least 0")
        require(0 < self.held_out < 1, "held_out", self.held_out, "must be more than 0 and less than 1")
        try:
            self.network(1)
            self.training(1)
        except ConfigError as error:  # their fields are ours, without what stands before them
            raise ConfigError(str(error).replace("model.language.", "").replace("training.", "")) from None

    def network(self, vocab_size: int) -> GPT2Config:
        """The language model for so many tokens."""
        return GPT2Config(
            vocab_size=vocab_size,
            max_positions=self.max_positions,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            activation=self.activation,
            dropout=self.dropout,
            init_deviation=self.init_deviation,
        )

    def training(self, batches: int) -> TrainingConfig:
        """Optimizer and schedule, where an epoch has so many batches."""
        steps = self.steps or self.epochs * batches
        return TrainingConfig(
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=min(self.warmup_steps, steps // 10),
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            validate_every=self.validate_every,
            log_every=self.log_every,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Arguments:
    """What the train_language command's line holds."""

    text: tuple[str, ...] = ()
    """What to train on, one or more of: a .txt file (a document a line), a file of captions (.json: COCO's annotations
    or a list; .jsonl; .csv), a directory of captioned images (of which the training split is read)."""
    out: str = ""
    """Directory to write the language model to: a new or an empty one."""
    tokenizer: str = ""
    """GPT-2 vocabulary to use: a name on the Hugging Face hub or a directory. Empty: that of --init-from where it is
    given, or one trained on the text."""
    vocab_size: int = 4000
    """Tokens in the vocabulary that is trained on the text; unused where there is a tokenizer already."""
    init_from: str = ""
    """GPT-2 to train further, which gives shape and tokenizer: a name on the Hugging Face hub or a directory of Hugging
    Face's. Empty: random weights."""
    plain: Annotated[bool, tyro.conf.arg(name="data.plain")] = False
    """Learn the text in lower case and without the full stop at a document's end, as a captioner with data.plain learns
    captions."""
    on_error: Annotated[Literal["raise", "skip"], tyro.conf.arg(name="data.on-error")] = "raise"
    """A caption that is empty or no text, or a broken image's: stop and name it, or skip it, count and report."""
    training: Annotated[LanguageTrainingConfig, tyro.conf.arg(name="")] = field(default_factory=LanguageTrainingConfig)
    """Shape of the language model, and how it is trained."""
