"""What an experiment leaves open, filled in: by its pretrained weights, by a run, by the captions; and what follows."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dualcap_jax.captioner import Captioner
from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.records import Source
from dualcap_jax.data.sources import iterate_captions
from dualcap_jax.data.text import CaptionTokenizer, load_tokenizer, train_tokenizer
from dualcap_jax.detector import TrainedDetector, encoder_of, is_detector, load_experiment_of
from dualcap_jax.errors import ConfigError
from dualcap_jax.models.variables import Variables
from dualcap_jax.pretrained.files import locate
from dualcap_jax.pretrained.load import language_as_published, load_pretrained, preprocessing


def load_captioner(source: str) -> Captioner:
    """The captioner of a run, of a directory it was saved to, or of the Hugging Face hub."""
    return Captioner.load(source) if Path(source).is_dir() else Captioner.from_pretrained(source)


def experiment_of(source: str) -> ExperimentConfig:
    """What a run that starts from another one trains, unless it is told: the captioner's experiment; of a detector the
    embedded one, with the detector's images, and with its backbone and BiFPN as the encoder."""
    if not is_detector(source):
        return load_captioner(source).config
    config, base = load_experiment_of(source), ExperimentConfig()
    encoder = replace(config.model.encoder, pretrained=None, num_classes=0, detections=0)
    images = {name: getattr(config.data, name) for name in ("root", "image_size", "scenes")}
    return replace(base, model=replace(base.model, encoder=encoder), data=replace(base.data, **images))


def begin_from_detector(config: ExperimentConfig, load: Callable[[], TrainedDetector]) -> tuple[Variables, list[str]]:
    """A network with the encoder of a detector that `load` gives; and what was done, in sentences."""
    model, notes = load_pretrained(config.model, config.training.seed)
    encoder = encoder_of(config.init_from, load(), config.model)
    model = {kind: tree | {"encoder": encoder[kind]} for kind, tree in model.items()}
    return model, [*notes, f"encoder: the detector's of {config.init_from}"]


def with_vocabulary(config: ExperimentConfig, size: int) -> ExperimentConfig:
    """The experiment with a language model of so many tokens."""
    language = replace(config.model.language, vocab_size=size)
    return replace(config, model=replace(config.model, language=language))


def as_published(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with what belongs to its pretrained weights filled in where it is left open.

    Raises:
        PretrainedError: when they cannot be had.
    """
    encoder, language, data = config.model.encoder, config.model.language, config.data
    if encoder.pretrained is not None:
        belongs = preprocessing(encoder)
        encoder = replace(encoder, normalization=encoder.normalization or belongs.normalization)
        data = replace(
            data,
            resize=data.resize or math.floor(data.image_size / belongs.crop_fraction),
            interpolation=data.interpolation or belongs.interpolation,
        )
    if language.pretrained is not None:
        language = language_as_published(language)
    return replace(config, model=replace(config.model, encoder=encoder, language=language), data=data)


def as_resolved(config: ExperimentConfig, saved: ExperimentConfig) -> ExperimentConfig:
    """What `as_published` and the tokenizer filled in when the run began."""
    encoder, language, data = config.model.encoder, config.model.language, config.data
    if encoder.pretrained is not None:
        encoder = replace(encoder, normalization=encoder.normalization or saved.model.encoder.normalization)
        same_share = saved.data.resize and saved.data.resize * data.image_size // saved.data.image_size
        interpolation = data.interpolation or saved.data.interpolation
        data = replace(data, resize=data.resize or same_share, interpolation=interpolation)
    old = saved.model.language
    if language.pretrained is not None and (language.kind, language.pretrained) == (old.kind, old.pretrained):
        shape = {
            name: getattr(old, name)
            for name in ("max_positions", "width", "layers", "heads", "activation")
            if hasattr(old, name)
        }
        language = replace(language, **shape)
    model = replace(config.model, encoder=encoder, language=language)
    return with_vocabulary(replace(config, model=model, data=data), old.vocab_size)


def make_tokenizer(config: ExperimentConfig, source: Source) -> CaptionTokenizer:
    """The tokenizer that the experiment names, or its language model's, or one trained on the source's captions.

    Raises:
        ConfigError: when it is of another vocabulary than the pretrained language model.
    """
    language = config.model.language
    if language.pretrained is not None:
        path = locate(language.pretrained, language.revision)
        tokenizer = load_tokenizer(config.data.tokenizer or (path if path.is_dir() else path.parent))
        if tokenizer.vocab_size != language.vocab_size:
            raise ConfigError(
                f"data.tokenizer={config.data.tokenizer!r}: {tokenizer.vocab_size} tokens, but "
                f"model.language.pretrained={language.pretrained} embeds {language.vocab_size}; "
                "they must be of one vocabulary"
            )
        return tokenizer
    if config.data.tokenizer:
        return load_tokenizer(config.data.tokenizer)
    return train_tokenizer(map(config.data.styled, iterate_captions(source)), config.data.vocab_size)


def encodes_once(config: ExperimentConfig) -> bool:
    """Whether each image, or each of its views, is encoded once for all epochs: the features are kept."""
    keeps = config.data.features != "none" and (config.data.views > 0 or not config.data.augments)
    return config.training.freezes_encoder and keeps


def packs(config: ExperimentConfig) -> bool:
    """Whether captions lie side by side in rows."""
    return config.training.pack and config.model.merger.norm != "batch"
