"""From a detector's experiment and a directory to a trained run."""

import shlex
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from dualcap_jax import cli, interrupts
from dualcap_jax.config import save_json
from dualcap_jax.data.boxes.pipeline import open_boxes, train_batches, validation_batches
from dualcap_jax.data.boxes.records import BoxSource
from dualcap_jax.detection.nms import Detections
from dualcap_jax.detection.scoring import Found, Truth, average_precision, require_pycocotools
from dualcap_jax.detector import DetectorExperiment, load_detector
from dualcap_jax.models.variables import Variables, bind, parameter_counts
from dualcap_jax.pretrained.load import preprocessing
from dualcap_jax.training.detection import DETECTOR
from dualcap_jax.training.logs import ROW, read_rows
from dualcap_jax.training.loop import Scores, train
from dualcap_jax.training.objectives import Batch
from dualcap_jax.training.objectives.detection import ImageSums, detection, image_sums
from dualcap_jax.training.run import Run, Start, claimed
from dualcap_jax.training.sharding import divide, make_mesh, whole
from dualcap_jax.training.state import InitFrom, first_state, refuse_other_network
from dualcap_jax.training.step import make_train_step
from dualcap_jax.training.trained_on import Index, check_data, checksum, note


def train_run(config: DetectorExperiment, workdir: Path, start: Start) -> int:
    """Train, or go on training; returns the exit code.

    Args:
        config: the experiment.
        workdir: its run directory.
        start: what that is.

    Raises:
        UserError: what is wrong with the experiment, its data or the directory.
    """
    require_pycocotools()
    training, resumed = config.training.settings, start == "resumed"
    mesh = make_mesh(config.sharding, training.batch_size, training.accumulate)
    train_source, validation_source = sources = open_boxes(config.data)
    config = with_classes(config if resumed else as_published(config), len(train_source.names))
    other = cache(partial(load_detector, config.init_from)) if config.init_from else None
    if other and not resumed:
        refuse_other_network(other().model, config.model)
    with claimed(workdir, start) as workdir:
        indices = (
            list(map(index_of, sources)) if config.data.root else [{}, {}]
        )  # scenes: their configuration tells all
        check_data(workdir, indices[0], config.data.root, "boxes", "train_detector")
        run = Run(workdir, training, checksum([indices[1], training.validation_images]))
        note(workdir, None, indices[0])
        save_json(config, workdir / DETECTOR)  # last: a directory that holds it is a run

        print(f"run directory: {workdir}{' (resuming)' if resumed else ''}")
        images, classes = [len(source) for source in sources], sum(map(bool, train_source.names))
        print(f"data: {images[0]} images to train on, {images[1]} to validate on; {classes} classes")
        for source in sources:
            print(f"{source.faults.summary()}\n" if source.faults.skipped else "", end="")
        print(f"model: {sum(parameter_counts(config.model).values()):,} parameters ({config.model.encoder.variant})")
        batches = train_batches(train_source, config.data, training.batch_size, training.seed)
        with cli.naming_memory(less_memory(config)):
            init_from: InitFrom | None = (lambda: (other().model, [])) if other else None
            state, notes = first_state(config.model, training, run.checkpoints, batches, mesh, init_from)
            print("".join(f"{note}\n" for note in notes), end="", flush=True)
            step = make_train_step(config.model, training, detection(config.model.encoder), mesh)
            evaluate = make_evaluate(config, validation_source, mesh)
            count = f"{mesh.size} x " if mesh.size > 1 else ""
            print(f"device: {count}{jax.devices()[0].device_kind}, {config.model.dtype}; compiling", flush=True)
            train(state, step, evaluate, batches, run, per="matched anchor")
    rows = [row for row in read_rows(workdir / "metrics.jsonl", ROW) if row["split"] == "validation"]
    best = max(rows, key=lambda row: row["AP"])
    print(f"best on validation: AP {best['AP']:.4f}, AP50 {best['AP50']:.4f}, of step {best['step']}")
    print(f"written: {workdir}/ (checkpoints, metrics.jsonl)")
    print(f"train a captioner from it: python -m dualcap_jax.train --init-from {shlex.quote(str(workdir))}")
    return 0


def as_published(config: DetectorExperiment) -> DetectorExperiment:
    """The experiment with what belongs to its pretrained weights filled in where it is left open."""
    encoder = config.model.encoder
    if encoder.pretrained is None or encoder.normalization is not None:
        return config
    encoder = replace(encoder, normalization=preprocessing(encoder).normalization)
    return replace(config, model=replace(config.model, encoder=encoder))


def with_classes(config: DetectorExperiment, number: int) -> DetectorExperiment:
    """The experiment with a detector of so many classes."""
    return replace(config, model=replace(config.model, encoder=replace(config.model.encoder, num_classes=number)))


def index_of(source: BoxSource) -> Index:
    """What the order and the content of training hang on, but for the images' own bytes."""
    records = map(source.__getitem__, range(len(source)))
    return {record.filename: f"{zlib.crc32(b''.join(map(np.ndarray.tobytes, record.boxes))):08x}" for record in records}


def less_memory(config: DetectorExperiment) -> str:
    """What to change where memory does not suffice."""
    training, remat = config.training, config.model.encoder.remat
    return (
        f"in a new run directory, lower --training.batch-size (now {training.batch_size}) or --data.image-size (now "
        f"{config.data.image_size}), or raise --training.accumulate (now {training.accumulate}); or set "
        f"--model.encoder.remat blocks (now {remat})"
    )


def make_evaluate(config: DetectorExperiment, source: BoxSource, mesh: Mesh) -> Callable[[Variables], Scores | None]:
    """Validation's losses and average precision as a function of the network's variables; None where an end was asked
    for meanwhile."""
    size, images = config.data.image_size, config.training.validation_images or len(source)
    batches = validation_batches(source, config.data, config.training.batch_size, images)
    records = {record.image_id: record for record in map(source.__getitem__, range(min(images, len(source))))}

    @jax.jit
    def step(model: Variables, batch: Batch) -> tuple[ImageSums, Detections]:
        network = bind(config.model, whole(mesh, model))
        logits, outputs = network(batch["image"])
        sums = image_sums(config.model.encoder, batch, logits, outputs)
        return whole(mesh, (sums, network.find(logits, outputs, size)))

    def evaluate(model: Variables) -> Scores | None:
        total: Counter[str] = Counter()
        truths: list[Truth] = []
        found: list[Found] = []
        for batch in batches:
            if interrupts.asked():
                return None
            ids = batch.pop("image_id")
            sums, detections = jax.device_get(step(model, divide(mesh, batch)))
            total.update({name: float(values[ids >= 0].sum()) for name, values in sums.items()})
            for row in np.flatnonzero(ids >= 0):
                record = records[int(ids[row])]
                sides = np.array(record.size[::-1] * 2, np.float32)
                truths.append(Truth(record.boxes.corners * sides, record.boxes.classes, record.boxes.crowd))
                boxes, scores, classes = detections.boxes[row], detections.scores[row], detections.classes[row]
                found.append(Found(boxes / size * sides, scores, classes))
        weight = total.pop("matched") + 1
        return {name: value / weight for name, value in total.items()} | average_precision(truths, found)

    return evaluate
