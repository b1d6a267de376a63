"""What is asked of the fit command."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.config import ModelConfig

Dtype = Literal["float32", "bfloat16", "float16"]
Remat = Literal["none", "encoder", "language", "both", "products"]


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    config: str = ""
    """Experiment file: Python with a get_config(). Empty: the embedded experiment."""
    device: str = ""
    """Card to compile for, which need not be there, such as rtx2060, rtx3090, a100 or h100; or cpu. Empty: the GPU that
    is there."""
    devices: int = 1
    """Number of devices that a batch is divided among."""
    memory: str = ""
    """Memory of each device, such as 6GiB. Empty: the card's own."""
    share: float = 0.9
    """Share of the memory that XLA may take, more than 0 and at most 1. To train with it, set
    XLA_PYTHON_CLIENT_MEM_FRACTION to it: JAX takes 0.75 unless told."""
    batch_sizes: tuple[int, ...] = ()
    """Examples of a training batch, one or several numbers. Empty: the experiment's training.batch_size."""
    dtypes: tuple[Dtype, ...] = ()
    """Kinds of numbers to compute with, one or several. Empty: the experiment's model.dtype."""
    remats: tuple[Remat, ...] = ()
    """What the backward pass computes again, one or several choices: nothing, the blocks of one part or of both, or of
    both all but what convolutions and dense layers return (products). Empty: the experiment's."""
    fill: float = 1.0
    """Share of a caption's places that tokens take, more than 0 and at most 1, where captions are packed by their
    length. 1: captions as long as data.max_length, more than which no batch takes."""
    largest: bool = True
    """Search for the largest batch that fits, by three compilations or a few more."""
    decoding: bool = True
    """Compile encoding and searching too, for decoding.batch_size images."""
    json: bool = False
    """Print JSON, in bytes, instead of tables."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=ExperimentConfig)
    """Fields of the experiment, over its file's."""


def unit_of(arguments: Arguments) -> int:
    """What batch sizes are multiples of."""
    return arguments.devices * arguments.experiment.training.accumulate


def with_remat(model: ModelConfig, remat: Remat | None) -> ModelConfig:
    """The network that computes this again in the backward pass; None: what it does already."""
    if remat is None:
        return model
    encoder, language = (remat in (part, "both") for part in ("encoder", "language"))
    blocks = replace(model.encoder, remat="blocks" if encoder else "none")
    layers = replace(model.language, remat="blocks" if language else "none")
    if remat == "products":
        blocks, layers = replace(model.encoder, remat="convolutions"), replace(model.language, remat="products")
    return replace(model, encoder=blocks, language=layers)
