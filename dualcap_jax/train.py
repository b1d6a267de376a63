"""Train a captioner: python -m dualcap_jax.train [--config FILE.py] [--workdir DIR] [--section.field VALUE ...]."""

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import jax
import tyro

from dualcap_jax import cli
from dualcap_jax.captioner import Captioner
from dualcap_jax.config import ExperimentConfig, differences, load_experiment, load_json, save_json
from dualcap_jax.data.pipeline import eval_batches, train_iterator
from dualcap_jax.data.records import Source
from dualcap_jax.data.sources import iterate_captions, open_source, refuse_shared_images
from dualcap_jax.data.text import CaptionTokenizer, load_tokenizer, train_tokenizer
from dualcap_jax.errors import ConfigError
from dualcap_jax.evaluation.reports.figures import curves_figure
from dualcap_jax.evaluation.reports.text import summary
from dualcap_jax.models.variables import Variables, parameter_counts
from dualcap_jax.pretrained.files import locate
from dualcap_jax.pretrained.load import language_as_published, preprocessing
from dualcap_jax.scoring import evaluate
from dualcap_jax.training.logs import read_json_lines
from dualcap_jax.training.loop import train
from dualcap_jax.training.objectives import Objective
from dualcap_jax.training.objectives.cross_entropy import cross_entropy, mean_losses
from dualcap_jax.training.run import Run
from dualcap_jax.training.state import first_state
from dualcap_jax.training.step import make_eval_step, make_train_step

# What may change when a run is resumed: nothing that the trained weights or the order of the data hang on.
RESUMABLE = (
    "training.steps",
    "training.validate_every",
    "training.validation_images",
    "training.checkpoint_every",
    "training.log_every",
    "decoding.",
    "evaluation.",
    "data.root",
    "model.encoder.remat",
    "model.language.remat",
    "data.read_threads",
)


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    config: str = ""
    """Experiment: a Python file with get_config(). Empty: the embedded one, or the run's own when resuming."""
    workdir: str = ""
    """Run directory; resumed where it holds a run. Empty: a new one under runs/."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=ExperimentConfig)
    """Fields of the experiment, over its file's."""


def parse(args: Sequence[str]) -> tuple[ExperimentConfig, Path, bool]:
    """The experiment, its run directory, and whether that is resumed.

    Raises:
        ConfigError: when the run directory holds something else, or a run that the arguments contradict.
    """
    named, _ = cli.first(Arguments, args)
    saved = None
    if named["workdir"] and (Path(named["workdir"]) / "config.json").is_file():
        saved = load_json(Path(named["workdir"]) / "config.json")
    if named["config"]:
        base = load_experiment(named["config"])
    elif saved is None and named["init-from"]:
        base = load_captioner(named["init-from"]).config
    else:
        base = saved or ExperimentConfig()
    description = "Train a captioner. Settings can also be read from a file (--config) and are saved with the run."
    arguments = cli.parse(Arguments, args, "train", description, Arguments(named["config"], named["workdir"], base))

    config = arguments.experiment
    name = Path(arguments.config).stem if arguments.config else "scenes"
    workdir = Path(arguments.workdir or f"runs/{datetime.now():%Y%m%d-%H%M%S}-{name}")
    training = config.training
    if saved is None and training.warmup_steps > training.steps:
        print(
            f"warning: training.warmup_steps={training.warmup_steps} is more than training.steps={training.steps}: the "
            f"learning rate never rises to its height; give --training.warmup-steps {training.steps // 10}",
            file=sys.stderr,
        )
    if saved is not None:
        config = _as_resolved(config, saved)
        changed = {
            name: values for name, values in differences(saved, config).items() if not name.startswith(RESUMABLE)
        }
        if changed:
            listed = "; ".join(f"{name} is {old!r}, asked for {new!r}" for name, (old, new) in changed.items())
            raise ConfigError(f"{workdir}: cannot be resumed with another setting: {listed}")
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ConfigError(f"--workdir {workdir}: exists and is no run directory; give a new or an empty one")
    return config, workdir, saved is not None


def load_captioner(source: str) -> Captioner:
    """The captioner of a run, of a directory it was saved to, or of the Hugging Face hub."""
    return Captioner.load(source) if Path(source).is_dir() else Captioner.from_pretrained(source)


def _with_vocabulary(config: ExperimentConfig, size: int) -> ExperimentConfig:
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


def _as_resolved(config: ExperimentConfig, saved: ExperimentConfig) -> ExperimentConfig:
    """What `as_published` and the tokenizer filled in when the run began."""
    encoder, language, data = config.model.encoder, config.model.language, config.data
    if encoder.pretrained is not None:
        encoder = replace(encoder, normalization=encoder.normalization or saved.model.encoder.normalization)
        resize, interpolation = data.resize or saved.data.resize, data.interpolation or saved.data.interpolation
        data = replace(data, resize=resize, interpolation=interpolation)
    old = saved.model.language
    if language.pretrained is not None and (language.kind, language.pretrained) == (old.kind, old.pretrained):
        shape = {
            name: getattr(old, name) for name in ("max_positions", "width", "layers", "heads") if hasattr(old, name)
        }
        language = replace(language, **shape)
    model = replace(config.model, encoder=encoder, language=language)
    return _with_vocabulary(replace(config, model=model, data=data), old.vocab_size)


def less_memory(config: ExperimentConfig) -> list[str]:
    """What to change where memory does not suffice for training."""
    training = config.training
    parts = [part for part in ("encoder", "language") if not getattr(config.model, part).remat]
    remat = " and ".join(f"--model.{part}.remat True" for part in parts)
    return [f"set {remat} (now False)"] * bool(parts) + [
        f"in a new run directory, lower --training.batch-size (now {training.batch_size}) or --data.image-size (now "
        f"{config.data.image_size}), or raise --training.accumulate (now {training.accumulate})"
    ]


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
    return train_tokenizer(iterate_captions(source), config.data.vocab_size)


def make_evaluate(
    config: ExperimentConfig, objective: Objective, source: Source, tokenizer: CaptionTokenizer
) -> Callable[[Variables], dict[str, float]]:
    """Validation's losses as a function of the network's variables."""
    batch_size = config.training.batch_size
    batches = eval_batches(source, tokenizer, config.data, batch_size)
    limit = math.ceil(config.training.validation_images / batch_size) or None
    step = make_eval_step(config.model, objective)
    return lambda variables: mean_losses(step(variables, batch) for batch in islice(batches, limit))


def main(args: Sequence[str]) -> int:
    """Train, or go on training, then evaluate; returns the exit code."""
    config, workdir, resumed = parse(args)
    other = cache(partial(load_captioner, config.init_from)) if config.init_from else None
    if not resumed:
        config = _as_resolved(config, other().config) if other else as_published(config)
    train_source = open_source(config.data, "train")
    validation_source = open_source(config.data, "validation")
    refuse_shared_images(train_source, validation_source, "validation")
    if resumed:
        tokenizer = load_tokenizer(workdir / "tokenizer")
    else:
        tokenizer = other().tokenizer if other else make_tokenizer(config, train_source)
        config = _with_vocabulary(config, tokenizer.vocab_size)
        tokenizer.save(workdir / "tokenizer")
    save_json(config, workdir / "config.json")  # last: a directory that holds it is a run

    counts = parameter_counts(config.model)
    print(f"run directory: {workdir}{' (resuming)' if resumed else ''}")
    print(f"data: {len(train_source)} images to train on, {len(validation_source)} to validate on")
    listed = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    print(f"model: {sum(counts.values()):,} parameters ({listed}); vocabulary {tokenizer.vocab_size}")
    print(f"device: {jax.devices()[0].device_kind}, {config.model.dtype}; compiling the first step", flush=True)

    training, run = config.training, Run(workdir, config.training)
    batches = train_iterator(train_source, tokenizer, config.data, training.batch_size, training.seed)
    model_of_other = (lambda: other().model) if other else None
    with cli.naming_memory(*less_memory(config)):
        state, notes = first_state(config.model, training, run.checkpoints, batches, model_of_other)
        print("".join(f"{note}\n" for note in notes), end="", flush=True)
        objective = cross_entropy(training.loss, training.freeze)
        step = make_train_step(config.model, training, objective)
        train(state, step, make_evaluate(config, objective, validation_source, tokenizer), batches, run)
    for source in (train_source, validation_source):
        if source.faults.skipped:
            print(source.faults.summary())

    curves_figure(read_json_lines(workdir / "metrics.jsonl"), workdir / "curves.png")
    split = "validation" if config.data.root else "test"
    with cli.naming_memory(config.decoding.less_memory):
        scores, report = evaluate(Captioner.load(workdir), workdir, split)
    print(summary(scores))
    print(f"written: {workdir}/ (checkpoints, metrics.jsonl, curves.png, samples.png), {report}")
    print(f"caption an image: python -m dualcap_jax.caption {shlex.quote(str(workdir))} IMAGE")
    return 0


if __name__ == "__main__":
    cli.run(main)
