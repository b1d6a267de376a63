"""From an experiment and a directory to a trained and evaluated run."""

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from dualcap_jax import cli
from dualcap_jax.captioner import Captioner
from dualcap_jax.config import ExperimentConfig, save_json
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.features import EncodedSource
from dualcap_jax.data.pipeline import check_images, train_iterator
from dualcap_jax.data.records import Faults, Source
from dualcap_jax.data.sources import iterate_captions, open_source, refuse_shared_images
from dualcap_jax.data.sources.entries import SPLITS, EntriesSource
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.detector import encoder_of, is_detector, load_detector
from dualcap_jax.encoding import encode_once
from dualcap_jax.errors import require
from dualcap_jax.evaluation.reports.figures import curves_figure
from dualcap_jax.evaluation.reports.text import summary, warnings
from dualcap_jax.models.variables import parameter_counts
from dualcap_jax.models.variables import shapes as model_shapes
from dualcap_jax.processes import first_alone, is_first, of_first
from dualcap_jax.resolving import (
    as_published,
    as_resolved,
    begin_from_detector,
    encodes_once,
    load_captioner,
    make_tokenizer,
    packs,
    with_vocabulary,
)
from dualcap_jax.scoring import evaluate
from dualcap_jax.teaching import load_teacher, refuse_other_vocabulary, taught, weights_of
from dualcap_jax.training.freezing import partition
from dualcap_jax.training.logs import ROW, read_rows
from dualcap_jax.training.loop import train
from dualcap_jax.training.objectives import Batch
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.objectives.distillation import distillation
from dualcap_jax.training.objectives.self_critical import (
    Reward,
    make_greedy_reward,
    make_self_critical_step,
    training_cider_d,
)
from dualcap_jax.training.packing import plan_training
from dualcap_jax.training.run import Run, Start, claimed
from dualcap_jax.training.sharding import describe, local_copy, local_mesh, make_mesh, place
from dualcap_jax.training.state import InitFrom, State, first_state, refuse_other_network
from dualcap_jax.training.state import shapes as state_shapes
from dualcap_jax.training.step import Metrics, make_train_step
from dualcap_jax.training.trained_on import (
    Index,
    check_data,
    check_teacher,
    checksum,
    index_of,
    load_own_tokenizer,
    note,
)
from dualcap_jax.validation import make_evaluate, validated_images


def less_memory(config: ExperimentConfig) -> list[str]:
    """What to change where memory does not suffice for training."""
    training = config.training
    mends = []
    for part in ("encoder", "language"):
        if (remat := getattr(config.model, part).remat) != "blocks":
            mends.append(f"set --model.{part}.remat blocks (now {remat})")
    if training.objective == "self_critical":
        mends.append(f"lower --training.samples-per-image (now {training.samples_per_image})")
    mends.append(
        f"in a new run directory, lower --training.batch-size (now {training.batch_size}) or --data.image-size (now "
        f"{config.data.image_size}), or raise --training.accumulate (now {training.accumulate})"
    )
    return mends


def cut_captions(source: Source, tokenizer: CaptionTokenizer, data: DataConfig) -> str:
    """A line that tells how many captions lose their end; empty where none does."""
    longer = tokenizer.count_longer(map(data.styled, iterate_captions(source)), data.max_length)
    if not longer:
        return ""
    captions = int(source.caption_counts.sum())
    return (
        f"captions: {longer:,} of {captions:,} are longer than data.max_length={data.max_length} tokens and lose their "
        "end; a larger --data.max-length keeps more\n"
    )


def skipped(sources: Sequence[Source]) -> str:
    """A line that tells what the sources of one set had to skip; empty where it is nothing."""
    faults = Faults("skip")
    for source in sources:
        faults.skipped |= source.faults.skipped
    return f"{faults.summary()}\n" if faults.skipped else ""


def train_run(config: ExperimentConfig, workdir: Path, start: Start, describes: bool = False) -> int:
    """Train, or go on training, then evaluate; of several processes all call it.

    Args:
        config: the experiment.
        workdir: its run directory.
        start: what that is.
        describes: print how parameters and optimizer state lie on the devices instead.

    Returns:
        The exit code.

    Raises:
        UserError: what is wrong with the experiment, its data or the directory.
    """
    resumed = start == "resumed"
    mesh = make_mesh(config.sharding, config.training.batch_size, config.training.accumulate)
    refuse_several(config)
    detector = cache(partial(load_detector, config.init_from)) if is_detector(config.init_from) else None
    other = cache(partial(load_captioner, config.init_from)) if config.init_from and not detector else None
    teacher = load_teacher(config) if config.training.objective == "distillation" else None
    if not resumed:
        config = as_resolved(config, other().config) if other else as_published(config)
    sources = open_source(config.data, "train"), open_source(config.data, "validation")
    refuse_shared_images(*sources, "validation")
    if isinstance(sources[1], EntriesSource) and not encodes_once(config):  # others are known to be whole
        check_images(sources[1], validated_images(config) or len(sources[1]), os.cpu_count() or 1)
    if resumed:
        tokenizer = load_own_tokenizer(workdir, config.model.language.vocab_size)
    else:
        if other:
            tokenizer = other().tokenizer
        elif teacher and not config.data.tokenizer and config.model.language.pretrained is None:
            tokenizer = teacher.tokenizer
        else:
            tokenizer = make_tokenizer(config, sources[0])
        config = with_vocabulary(config, tokenizer.vocab_size)
        if other:
            refuse_other_network(other().model, config.model)
        if detector:
            encoder_of(config.init_from, detector(), config.model)
    partition(model_shapes(config.model), config.training)  # refuses names that are none
    if teacher:
        refuse_other_vocabulary(config, teacher, tokenizer)
    if describes:
        print(describe(mesh, state_shapes(config.model, config.training)))
        return 0
    of_first(None)  # all have looked at the run directory
    with ExitStack() as stack:
        with first_alone() as first:
            if first:
                workdir = stack.enter_context(claimed(workdir, start))
                if not resumed:
                    tokenizer.save(workdir / "tokenizer")
        workdir = Path(of_first(str(workdir)))
        init_from: InitFrom | None = (lambda: (other().model, [])) if other else None
        if detector:
            init_from = partial(begin_from_detector, config, detector)
        return _train(config, workdir, resumed, sources, tokenizer, mesh, teacher, init_from)


def _train(
    config: ExperimentConfig,
    workdir: Path,
    resumed: bool,
    sources: tuple[Source, Source],
    tokenizer: CaptionTokenizer,
    mesh: Mesh,
    teacher: Captioner | None,
    init_from: InitFrom | None,
) -> int:
    """Train in a directory that is ours."""
    train_source, validation_source = sources
    training, index = config.training, _index(config.data, train_source)
    check_data(workdir, index, config.data.root)
    teachers_weights = weights_of(teacher) if teacher else ""
    check_teacher(workdir, teachers_weights, training.teacher)
    validation = checksum([_index(config.data, validation_source), training.validation_images])
    run = Run(workdir, training, validation)
    with first_alone() as first:
        if first:
            note(workdir, tokenizer, index, teachers_weights)
            save_json(config, workdir / "config.json")  # last: a directory that holds it is a run

    told = "" if resumed else cut_captions(train_source, tokenizer, config.data)
    counts = parameter_counts(config.model)
    print(f"run directory: {workdir}{' (resuming)' if resumed else ''}")
    print(f"data: {len(train_source)} images to train on, {len(validation_source)} to validate on")
    known = skipped(sources)
    print(told, known, sep="", end="")
    listed = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    print(f"model: {sum(counts.values()):,} parameters ({listed}); vocabulary {tokenizer.vocab_size}")

    is_own = config.data.features in ("auto", "none")
    directory = workdir / "features" if is_own else Path(config.data.features)
    if encodes_once(config):
        train_source, validation_source = (
            EncodedSource(source, directory / split, config.model.merger.reads)
            for source, split in zip(sources, SPLITS, strict=False)
        )
    elif not is_own and not teacher:
        reason = "the encoder is trained, or data.views is 0 and images are cropped or mirrored at random"
        print(f"data.features={config.data.features}: not read, as {reason}")
    mergers, seen_by_teacher = [config.model.merger], None
    if teacher:
        print(f"teacher: {training.teacher}, step {teacher.step}; it encodes each image once, into {directory}/teacher")
        mergers.append(teacher.config.model.merger)
        seen_by_teacher = taught(config, teacher, directory / "teacher")
    packer, process, processes = None, jax.process_index(), jax.process_count()
    if packs(config) and training.objective != "self_critical":
        exacting = min(mergers, key=lambda merger: merger.is_pointwise)  # which of them needs each caption by itself
        packer, filled = plan_training(train_source, tokenizer, config.data, training, exacting, mesh.size, processes)
        rows = training.accumulate * mesh.size * packer.room.rows
        print(
            f"packing: {training.batch_size * config.data.captions_per_image} captions of a batch lie in {rows} rows; "
            f"{100 * filled:.0f} % of the positions are real"
        )
    size = training.batch_size // processes
    batches = train_iterator(
        train_source, tokenizer, config.data, size, training.seed, process, processes, seen_by_teacher
    )
    with cli.naming_memory(*less_memory(config)):
        state, notes = first_state(config.model, training, run.checkpoints, batches, mesh, init_from)
        print("".join(f"{note}\n" for note in notes), end="", flush=True)
        if encodes_once(config):
            views = f"{config.data.views} views of each image are" if config.data.augments else "each image is"
            print(f"encoder: frozen, so {views} encoded once, into {directory}", flush=True)
            variables = local_copy(mesh, local_mesh(mesh), state["model"])
            with first_alone() as first:
                for source, split in zip(sources, SPLITS, strict=False) if first else ():
                    encode_once(config.model, config.data, variables, source, directory, split)
            del variables
        objective = cross_entropy(training.loss, training.freeze, training.label_smoothing)
        minimised = objective
        if teacher:
            soft = training.temperature, training.soft_share, training.freeze, training.label_smoothing
            minimised = distillation(teacher.config.model, place(mesh, teacher.model), *soft)
        step: Callable[[State, Batch], tuple[State, Metrics]]
        train_step, reward = make_train_step(config.model, training, minimised, mesh), None
        step = (lambda state, batch: train_step(state, packer(batch))) if packer else train_step
        if training.objective == "self_critical":
            cider_d, searching = training_cider_d(train_source), (tokenizer, config.data.max_length)
            of_training, of_validation = (
                Reward(source, tokenizer, cider_d) for source in (train_source, validation_source)
            )
            step = make_self_critical_step(config.model, training, *searching, of_training, mesh)
            reward = make_greedy_reward(config.model, *searching, of_validation, mesh)
        evaluating = make_evaluate(config, objective, validation_source, tokenizer, mesh, reward)
        count = f"{mesh.size} x " if mesh.size > 1 else ""
        print(
            f"device: {count}{mesh.devices.flat[0].device_kind}, {config.model.dtype}; compiling the first step",
            flush=True,
        )
        train(state, step, evaluating, batches, run)
    if (found := skipped(sources)) != known:
        print(found, end="")

    if is_first():
        curves_figure(list(read_rows(workdir / "metrics.jsonl", ROW)), workdir / "curves.png")
    split = "validation" if config.data.root else "test"
    with cli.naming_memory(config.decoding.less_memory):
        scores, report = evaluate(Captioner.load(workdir), workdir, split, wait=True)
    print(summary(scores))
    print("".join(f"warning: {warning}\n" for warning in warnings(scores)), end="")
    print(f"written: {workdir}/ (checkpoints, metrics.jsonl, curves.png, samples.png), {report}")
    print(f"caption an image: python -m dualcap_jax.caption {shlex.quote(str(workdir))} IMAGE")
    return 0


def refuse_several(config: ExperimentConfig) -> None:
    """Before anything is written, see whether several processes can train together.

    Raises:
        ConfigError: they can't.
    """
    if (processes := jax.process_count()) == 1:
        return
    message = f"trains in one process, not in {processes}; it uses all devices of that"
    require(config.training.objective != "self_critical", "training.objective", config.training.objective, message)
    on_save_error = config.training.on_save_error
    message = f"must be stop in {processes} processes: one that went on alone would leave the others waiting"
    require(on_save_error == "stop", "training.on_save_error", on_save_error, message)


def _index(data: DataConfig, source: Source) -> Index:
    """Of drawn scenes none: their configuration tells all."""
    return index_of(source) if data.root else {}
