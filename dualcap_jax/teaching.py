"""A student's teacher: opened, found to fit, and what its encoder makes of the training images."""

from dataclasses import replace
from pathlib import Path

import jax

from dualcap_jax.captioner import Captioner
from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.features import EncodedSource
from dualcap_jax.data.sources import open_source
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.encoding import checksum, encode_once
from dualcap_jax.errors import ConfigError, UserError, require
from dualcap_jax.processes import first_alone
from dualcap_jax.resolving import load_captioner


def load_teacher(config: ExperimentConfig) -> Captioner:
    """The teacher that an experiment names.

    Raises:
        ConfigError: it can't be had, or can't read this experiment's captions.
    """
    source = config.training.teacher
    try:
        teacher = load_captioner(source)
    except UserError as error:
        raise ConfigError(f"training.teacher={source!r}: {error}") from error
    positions, merger = teacher.config.model.language.max_positions, teacher.config.model.merger
    if merger.norm == "batch":
        positions = min(positions, merger.positions)
    message = f"must be at most {positions}, the positions of training.teacher={source!r}"
    require(config.data.max_length <= positions, "data.max_length", config.data.max_length, message)
    plain = teacher.config.data.plain
    message = f"must be {plain}, as the captions that training.teacher={source!r} learnt"
    require(config.data.plain == plain, "data.plain", config.data.plain, message)
    return teacher


def refuse_other_vocabulary(config: ExperimentConfig, teacher: Captioner, tokenizer: CaptionTokenizer) -> None:
    """The distributions of two networks can be compared over one vocabulary alone.

    Raises:
        ConfigError: the student's tokenizer is another than its teacher's.
    """
    if tokenizer.digest == teacher.tokenizer.digest:
        return
    own = {"init_from": config.init_from, "data.tokenizer": config.data.tokenizer}
    own["model.language.pretrained"] = config.model.language.pretrained or ""
    name, value = next((each for each in own.items() if each[1]), ("data.tokenizer", ""))
    raise ConfigError(
        f"{name}={value!r}: its vocabulary of {tokenizer.vocab_size} tokens is not that of training.teacher="
        f"{config.training.teacher!r}, of {teacher.tokenizer.vocab_size}; begin without it, and the student takes its "
        "teacher's, or train by cross entropy on captions that the teacher wrote"
    )


def weights_of(teacher: Captioner) -> str:
    """A checksum of its weights."""
    return checksum(jax.tree.leaves(teacher.model))


def taught(config: ExperimentConfig, teacher: Captioner, directory: Path) -> EncodedSource:
    """An experiment's training images as its teacher encodes them: each whole, at the teacher's size.

    Args:
        config: of the student.
        teacher: its encoder.
        directory: where features are kept; those that are there already are not computed again.

    Raises:
        DataError: the directory holds others, or the disk has no room.
    """
    own = teacher.config.data
    size = {name: getattr(own, name) for name in ("image_size", "resize", "interpolation")}
    data = replace(config.data, **size, crop_scale=1.0, flip=False)
    source = open_source(data, "train")
    with first_alone() as first:
        if first:
            encode_once(teacher.config.model, data, teacher.model, source, directory, "train")
    return EncodedSource(source, directory / "train", teacher.config.model.merger.reads)
