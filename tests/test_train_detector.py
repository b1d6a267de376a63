"""A detector learns boxes: its run stops, goes on and is scored; a captioner starts from it."""

import json
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

from dualcap_jax import caption, interrupts, train, train_detector, trainer
from dualcap_jax.detection.targets import assign
from dualcap_jax.detector import encoder_of, load_detector
from dualcap_jax.errors import Stopped
from dualcap_jax.models.variables import bind

from .commands import TINY
from .test_command_errors import errors_of

NETWORK = (
    "--model.encoder.width 0.25 --model.encoder.depth 0.2 --model.encoder.channels 8 --model.encoder.cells 1 "
    "--model.encoder.repeats 1 --model.encoder.finest 4 --data.image-size 32"
).split()
SCENES = "--data.scenes.train 24 --data.scenes.validation 6".split()
STEPS = (
    "--training.steps 6 --training.batch-size 4 --training.validate-every 3 --training.checkpoint-every 2 "
    "--training.log-every 2 --training.warmup-steps 2"
).split()


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    workdir = str(tmp_path_factory.mktemp("runs") / "detector")
    assert train_detector.main([*NETWORK, *SCENES, *STEPS, "--workdir", workdir]) == 0
    return workdir


def rows_of(workdir) -> list[dict]:
    with open(f"{workdir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def test_validation_tells_losses_and_average_precision(detector):
    validations = [row for row in rows_of(detector) if row["split"] == "validation"]
    assert [row["step"] for row in validations] == [3, 6]
    for row in validations:
        assert row["loss"] == pytest.approx(row["class_loss"] + row["box_loss"], rel=1e-5)
        assert 0 <= row["AP"] <= row["AP50"] <= 1


def test_a_run_that_was_stopped_ends_as_one_that_was_not(detector, tmp_path, monkeypatch):
    args = [*NETWORK, *SCENES, *STEPS, "--workdir", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        asked = iter([None] * 3 + [signal.SIGINT] * 99)
        patched.setattr(interrupts, "asked", lambda: next(asked))
        with pytest.raises(Stopped, match="of 6; the same command resumes it"):
            train_detector.main(args)
    assert train_detector.main(["--workdir", str(tmp_path / "run")]) == 0
    for each in ("loss", "AP", "class_loss"):
        assert rows_of(tmp_path / "run")[-1][each] == rows_of(detector)[-1][each]
    with pytest.raises(ValueError, match=r"cannot be resumed with another setting: data.flip is False, asked for True"):
        train_detector.main(["--workdir", str(tmp_path / "run"), "--data.flip", "True"])


def test_a_detector_finds_what_its_outputs_tell(detector):
    config, model = load_detector(detector)
    network, encoder = bind(config.model, model), config.model.encoder
    boxes = np.array([[2, 3, 12, 11], [10, 14, 25, 31]], np.float32)
    anchors = encoder.anchors(32)
    targets = jax.jit(assign)(anchors, boxes, np.array([5, 24], np.int32))
    logits = np.where(np.arange(1, 25) == np.asarray(targets.labels)[:, None], 4.0, -4.0).astype(np.float32)
    found = network.find(logits[None], targets.boxes[None], 32, most=3)
    order = np.argsort(found.classes[0, :2])
    np.testing.assert_allclose(found.boxes[0, order], boxes, atol=1e-3)
    assert found.classes[0, order].tolist() == [4, 23]
    assert found.scores[0].tolist()[0] > 0.9 > 0.1 > found.scores[0].tolist()[2]


def begun(monkeypatch, args) -> tuple:
    """The experiment of a training, and the weights that it begins with; it is not trained."""
    found = []
    monkeypatch.setattr(trainer, "_train", lambda config, *others: found.append((config, others[-1])) or 0)
    assert train.main(args) == 0
    return found[0]


CAPTIONER = [*TINY[TINY.index("--model.language.width") :], "--model.merger.strides", "16"]


def test_a_captioner_starts_from_its_backbone_and_bifpn(detector, tmp_path, monkeypatch):
    workdir = str(tmp_path / "captioner")
    config, begin = begun(monkeypatch, [*CAPTIONER, "--init-from", detector, "--workdir", workdir])
    theirs, model = load_detector(detector)
    encoder = config.model.encoder
    assert (encoder.variant, encoder.width, encoder.channels, config.data.image_size) == ("d0", 0.25, 8, 32)
    weights, notes = begin()
    assert notes == [f"encoder: the detector's of {detector}"]
    assert set(model["params"]["encoder"]) - set(weights["params"]["encoder"]) == {"class_head", "box_head"}
    for kind in ("params", "batch_stats"):
        for name, tree in weights[kind]["encoder"].items():
            jax.tree.map(np.testing.assert_array_equal, tree, model[kind]["encoder"][name])

    with_heads = replace(config.model, encoder=replace(encoder, num_classes=theirs.model.encoder.num_classes))
    taken = encoder_of(detector, load_detector(detector), with_heads)
    assert set(taken["params"]) == set(model["params"]["encoder"])


REFUSED = [
    (train.main, ["--init-from", "{}", "--model.encoder.variant", "d1"], "its detector has variant d0, and"),
    (train.main, ["--init-from", "{}", "--model.encoder.variant", "d1"], "give --model.encoder.variant d0"),
    (
        train.main,
        ["--init-from", "{}", "--model.encoder.channels", "16", *CAPTIONER[-2:]],
        "another efficientdet than model.encoder: ",
    ),
    (
        train.main,
        ["--init-from", "{}", "--config", "small.py"],
        "an efficientdet, and model.encoder.kind is efficientnet",
    ),
    (train.main, ["--init-from", "{}", "--training.objective", "self_critical"], "begin with a captioner trained by"),
    (train.main, ["--workdir", "{}"], "exists and is no run directory"),
    (
        caption.main,
        ["{}", "a.jpg"],
        "the run of a detector, which captions nothing; python -m dualcap_jax.train --init-",
    ),
    (train_detector.main, ["--init-from", "nowhere"], "--init-from nowhere: not the run directory of a detector"),
    (train_detector.main, ["--workdir", "full"], "exists and is no detector's run; give a new or an empty one"),
    (train_detector.main, ["--data.root", "nowhere"], "data.root='nowhere' is not a directory"),
    (train_detector.main, ["--data.root", "full"], "holds no annotations/instances_train*.json (COCO's boxes)"),
    (train_detector.main, ["--config", "small.py"], "get_config() returned ExperimentConfig, not a DetectorExperiment"),
    (train_detector.main, ["--training.batch-size", "0"], "training.batch_size=0: must be at least 1"),
    (train_detector.main, ["--training.freeze", "encoder"], "--training.freeze: there is no such option"),
]


@pytest.mark.parametrize(("main", "args", "message"), REFUSED)
def test_mistakes_are_told_in_a_line(detector, main, args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "small.py").write_text(
        "from dualcap_jax.config import ExperimentConfig\ndef get_config():\n    return ExperimentConfig()\n"
    )
    before = sorted(tmp_path.rglob("*"))
    code, printed = errors_of(main, [each.format(detector) for each in args], capsys, monkeypatch)
    assert code == 2
    assert message in printed
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "__pycache__"}) == before
