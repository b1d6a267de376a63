"""Distillation: its loss and gradient beside torch's, packed and on given features, and whole runs with a teacher."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax import train as train_command
from dualcap_jax.captioner import Captioner
from dualcap_jax.config import load_run
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.encoding import features_of
from dualcap_jax.errors import ConfigError, UserError
from dualcap_jax.models import variables
from dualcap_jax.models.variables import bind
from dualcap_jax.ops.cross_entropy import fused_cross_entropy
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives.distillation import distillation
from dualcap_jax.training.packing import pack
from dualcap_jax.training.state import init_state
from dualcap_jax.training.step import make_train_step

from ..commands import TINY
from .tiny import random_batch, tiny_model, with_features


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 1.0), (2.0, 0.5), (4.0, 0.9)])
def test_loss_and_gradient_are_torchs(temperature, share, rng):
    torch = pytest.importorskip("torch")
    logits, teachers = 3 * rng.standard_normal((2, 5, 7, 60))
    labels, weights = rng.integers(0, 60, (5, 7)), rng.random((5, 7)) * (rng.random((5, 7)) < 0.7)
    eye = jnp.eye(60)

    def ours(logits):
        given = jnp.asarray(labels), jnp.asarray(weights, jnp.float32), 0.0, (jnp.float32(teachers), eye)
        return fused_cross_entropy(logits, eye, *given, share, temperature, most=1000)[0]

    loss, gradient = jax.jit(jax.value_and_grad(ours))(jnp.float32(logits))

    theirs = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    nll = torch.nn.functional.cross_entropy(theirs.movedim(-1, 1), torch.tensor(labels), reduction="none")
    log_probs = torch.log_softmax(theirs / temperature, -1)
    wanted = torch.softmax(torch.tensor(teachers) / temperature, -1)
    soft = torch.nn.functional.kl_div(log_probs, wanted, reduction="none").sum(-1) * temperature**2
    expected = (torch.tensor(weights) * ((1 - share) * nll + share * soft)).sum()
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_packed_and_in_parts_it_is_the_same_and_the_teacher_is_left_as_it_was():
    student, teacher = tiny_model(), tiny_model(kind="attention", heads=2, strides=(8,))
    weights = variables.init(teacher, 1)
    before = jax.device_get(weights)
    objective = distillation(teacher, weights, temperature=2.0, soft_share=0.7)
    batch, found = with_features(teacher, random_batch(captions=3)), []
    for parts, is_packed in ((1, False), (1, True), (2, True)):
        training = TrainingConfig(batch_size=4, accumulate=parts, learning_rate=1e-2, warmup_steps=0)
        state = init_state(variables.init(student, 0), training, student.dtype)
        step, losses = make_train_step(student, training, objective), []
        for _ in range(3):
            state, metrics = step(state, pack(batch, parts, apart=False) if is_packed else batch)
            losses.append(float(metrics["loss"]))
        found.append(losses)
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-4)
    assert found[0][-1] < found[0][0] - 0.05
    jax.tree.map(np.testing.assert_array_equal, weights, before)


def test_who_is_the_teacher_has_nothing_to_learn_from_it():
    model = tiny_model()
    weights = variables.init(model, 0)
    batch = random_batch()
    image = batch.pop("image")
    features = jax.device_get(features_of(model, weights, image))
    batch |= {f"teacher_{name}": each for name, each in features.items()} | {"vector": features["vector"]}
    objective = distillation(model, weights, temperature=2.0, soft_share=1.0)

    def loss(params):
        network = bind(model, weights | {"params": params})
        return objective.sums(network, batch | objective.given, jax.random.key(0))["loss"]

    value, gradient = jax.jit(jax.value_and_grad(loss))(weights["params"])
    assert abs(value) < 1e-4
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-4


STUDENT = [*TINY, "--training.objective", "distillation", "--training.schedule", "constant"]
STUDENT += ["--data.image-size", "40", "--model.merger.kind", "skip_mlp", "--model.language.width", "8"]


def distil(workdir, teacher, *options):
    arguments = [*STUDENT, "--training.teacher", teacher, "--evaluation.samples", "0", *options]
    return train_command.main(["--workdir", str(workdir), *map(str, arguments)])


@pytest.fixture(scope="module")
def student(finished, tmp_path_factory):
    """A student of 8 steps."""
    workdir = tmp_path_factory.mktemp("students") / "student"
    assert distil(workdir, finished[0], "--training.steps", 8) == 0
    return workdir


def test_a_resumed_student_goes_on_as_if_it_had_not_stopped(finished, student, tmp_path):
    assert load_run(student).training.teacher == str(finished[0])
    assert Captioner.load(student).tokenizer.digest == Captioner.load(finished[0]).tokenizer.digest
    moved = shutil.copytree(finished[0], tmp_path / "moved")
    parted = shutil.copytree(student, tmp_path / "parted")
    assert distil(parted, moved, "--training.steps", 12) == 0
    assert distil(tmp_path / "whole", moved, "--training.steps", 12) == 0
    ours, theirs = (Captioner.load(tmp_path / name, "latest") for name in ("parted", "whole"))
    assert ours.step == theirs.step == 12
    jax.tree.map(np.testing.assert_array_equal, ours.model, theirs.model)


def test_a_teacher_that_is_gone_or_another_is_told_in_a_line(student, tmp_path):
    with pytest.raises(ConfigError, match=r"^training.teacher='nowhere': nowhere: no such file[^\n]*$"):
        distil(student, "nowhere")
    with pytest.raises(UserError, match="its weights are not those that .* began to learn from"):
        distil(student, student)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], r"data.tokenizer='.*': its vocabulary of \d+ tokens is not that of training.teacher='.*', of \d+; begin"),
        (["--data.plain", "True"], "data.plain=True: must be False, as the captions that training.teacher="),
        (
            ["--data.max-length", 100, "--model.language.max-positions", 100],
            "data.max_length=100: must be at most 64, the positions of training.teacher=",
        ),
    ],
)
def test_a_student_that_cannot_follow_its_teacher_is_refused_before_anything_is_written(
    finished, tmp_path, options, told
):
    tokenizer = tmp_path / "tokenizer"
    train_tokenizer(["A dog."], 270).save(tokenizer)
    with pytest.raises(ConfigError, match=told):
        distil(tmp_path / "run", finished[0], "--data.tokenizer", tokenizer, *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"teacher": ""}, "training.teacher='': must name the run that distillation learns from"),
        ({"loss": "all_positions"}, "training.loss='all_positions': must be real_tokens with training.objective=dist"),
        ({"temperature": 0.0}, "training.temperature=0.0: must be more than 0"),
        ({"soft_share": 1.5}, r"training.soft_share=1.5: must be in \[0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        replace(TrainingConfig(objective="distillation", teacher="runs/scenes"), **settings)
