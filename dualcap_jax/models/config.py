"""Shape of the whole network."""

from dataclasses import dataclass, field
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types
from dualcap_jax.models.encoders import EfficientNetConfig, EncoderConfig
from dualcap_jax.models.language_models import GPT2Config, LanguageModelConfig
from dualcap_jax.models.mergers import MergerConfig

Part = Literal["encoder", "language", "merger"]
"""The three parts, which are also the top-level names of the parameters."""


@dataclass(frozen=True)
class ModelConfig:
    """The whole network; the defaults are the small one of the embedded run."""

    encoder: EncoderConfig = field(
        default_factory=lambda: EfficientNetConfig(
            variant="b0",
            width=0.5,
            depth=0.5,
            num_classes=256,
            dropout=0.0,
            drop_connect=0.0,
            batch_norm_momentum=0.95,
        )
    )
    """The image encoder."""
    language: LanguageModelConfig = field(
        default_factory=lambda: GPT2Config(
            vocab_size=512, max_positions=64, width=96, layers=2, heads=4, dropout=0.0, init_deviation=0.1
        )
    )
    """The language model."""
    merger: MergerConfig = field(
        default_factory=lambda: MergerConfig(
            kind="attention",  # a pooled vector tells what is there; where it is, and beside what, only maps tell
            hidden=(256, 128),
            positions=64,
            init_gain=1.0,
            strides=(8,),
            heads=4,
            grid=8,  # 64 pixels at stride 8
        )
    )
    """What joins the two."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Kind of number that the network computes with. Parameters, norms, softmax, loss and statistics stay float32.
    float16 trains with dynamic loss scaling. The 16-bit kinds are for accelerators: on most CPUs they are slower."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        heads, width = self.merger.heads, self.language.width
        divides = not self.merger.reads or width % heads == 0
        require(divides, "model.merger.heads", heads, f"must divide model.language.width={width}")
