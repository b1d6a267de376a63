"""Self-critical training: its gradient on a network whose captions can be listed, its reward, and whole runs."""

import json
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualcap_jax import inference
from dualcap_jax import train as train_command
from dualcap_jax.captioner import Captioner
from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.data.sources import iterate_captions, open_source
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.decoding import Decoded, DecodingConfig, Rules
from dualcap_jax.errors import ConfigError, UserError
from dualcap_jax.evaluation.metrics.coco_caption import coco_caption_scores, document_frequencies
from dualcap_jax.models import variables
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.variables import bind
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives import images_of
from dualcap_jax.training.objectives.cross_entropy import batch_hidden
from dualcap_jax.training.objectives.self_critical import Reward, leave_one_out, self_critical, training_cider_d
from dualcap_jax.training.packing import pack

from .tiny import random_batch, tiny_model

END, LENGTH = 2, 4
"""Of the toy vocabulary {0, 1, 2}: the token that begins and ends; and the most tokens of a caption."""


def toy(dropout=0.0):
    """A network of three tokens, and its variables."""
    model = tiny_model(dropout=dropout)
    language = GPT2Config(3, 16, width=16, layers=1, heads=2, dropout=dropout, init_deviation=0.15)
    model = type(model)(model.encoder, language, model.merger, "float32")
    return model, variables.init(model, 1)


def all_captions() -> tuple[np.ndarray, np.ndarray]:
    """Every caption that can be drawn, and its mask."""
    tokens, lengths = [], []
    for words in product(range(3), repeat=LENGTH - 1):
        length = words.index(END) + 1 if END in words else LENGTH - 1
        if all(word == END for word in words[length:]):  # the end token pads, too
            tokens.append([END, *words])
            lengths.append(length + 1)
    return np.array(tokens, np.int32), np.arange(LENGTH) < np.array(lengths)[:, None]


def vectors(model, images):
    """Of images that are encoded already."""
    features = variables.shapes(model)["batch_stats"]["image_mean"].shape[0]
    return np.random.default_rng(0).standard_normal((images, features)).astype(np.float32)


def toy_batch(model, images=2):
    """All captions of each of some images."""
    tokens, mask = (np.repeat(each[None], images, 0) for each in all_captions())
    return {"vector": vectors(model, images), "tokens": tokens, "mask": mask}


@partial(jax.jit, static_argnums=0)
def log_probs(model, weights, batch):
    network = bind(model, weights)
    logits = network.language.logits(batch_hidden(network, batch, None, ()))
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(batch["tokens"][..., 1:]))
    return -jnp.sum(nll, -1, where=batch["mask"][..., 1:])


@partial(jax.jit, static_argnums=0)
def objective_gradient(model, weights, batch):
    objective = self_critical()

    def loss(params):
        network = bind(model, weights | {"params": params})
        return objective.sums(network, batch, jax.random.key(0))["loss"] / objective.weight(batch)

    return jax.grad(loss)(weights["params"])


def assert_close(ours, theirs):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    assert largest > 1e-2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), ours, theirs)


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
def test_the_expected_gradient_is_that_of_the_expected_reward(baseline, rng):
    """Over all that can be drawn, each as often as its probability says: one caption an image, or three for the mean
    of the others. With dropout in the network, which drawing and learning are both without."""
    model, weights = toy(dropout=0.3)
    batch = toy_batch(model)
    images, captions = batch["tokens"].shape[:2]
    rewards = rng.uniform(0, 10, (images, captions))
    found = np.asarray(log_probs(model, weights, batch), np.float64)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)
    assert np.exp(found).max() < 0.8
    probabilities = np.exp(found) / np.exp(found).sum(1, keepdims=True)

    def expected_reward(params):
        of_captions = jnp.exp(log_probs(model, weights | {"params": params}, batch))
        return jnp.sum(of_captions * rewards) / images

    expected = jax.jit(jax.grad(expected_reward))(weights["params"])

    # advantage of each caption times how often it is drawn
    if baseline == "greedy":
        of_greedy = rewards[:, [3]]  # whichever it is: it does not hang on what is drawn
        shares = probabilities * (rewards - of_greedy)
    else:
        drawn = np.array(list(product(range(captions), repeat=3)))  # [draws, 3]
        shares = np.zeros_like(rewards)
        for image in range(images):
            advantages = rewards[image, drawn] - leave_one_out(rewards[image, drawn])
            often = probabilities[image, drawn].prod(1, keepdims=True)
            np.add.at(shares[image], drawn, often * advantages / 3)
    batch["advantage"] = (shares * captions).astype(np.float32)  # the objective is a mean over captions
    ours = objective_gradient(model, weights, batch)
    assert_close(jax.tree.map(jnp.negative, ours), expected)


def test_what_is_drawn_is_as_likely_as_the_objective_takes_it_to_be():
    model, weights = toy()
    batch = toy_batch(model)
    rules = Rules(DecodingConfig(do_sample=True, num_return_sequences=500, max_length=LENGTH), END, END)
    features = inference.encode(model, weights, images_of(batch))
    drawn = inference.search(model, weights, features, np.array([END]), jax.random.split(jax.random.key(0), 2), rules)
    tokens, lengths = np.asarray(drawn.tokens), np.asarray(drawn.lengths)
    as_batch = {"vector": batch["vector"], "tokens": tokens, "mask": np.arange(LENGTH) < lengths[..., None]}
    assert (lengths < LENGTH).any()
    assert (tokens[..., -1] != END).any()  # cut: learnt without an end
    np.testing.assert_allclose(log_probs(model, weights, as_batch), drawn.token_log_probs.sum(-1), rtol=1e-4, atol=1e-5)

    often = np.array([[(row == caption).all(-1).mean() for caption in all_captions()[0]] for row in tokens])
    expected = np.exp(log_probs(model, weights, batch))
    assert np.abs(often - expected).max() < 5 * (0.25 / 500) ** 0.5


def test_packed_captions_have_the_same_gradient(rng):
    model, batch = tiny_model(), random_batch(4, captions=3, length=12)
    weights = variables.init(model, 0)
    batch = {"vector": vectors(model, 4), "tokens": batch["tokens"], "mask": batch["mask"]}
    batch["advantage"] = rng.standard_normal((4, 3)).astype(np.float32)
    packed = pack(batch, 1, apart=False)
    assert len(packed["tokens"]) < 4 * 3
    assert_close(objective_gradient(model, weights, packed), objective_gradient(model, weights, batch))


def test_the_reward_is_the_cider_d_of_evaluation():
    data = DataConfig(scenes=ScenesConfig(train=60, validation=20, test=1))
    source, others = open_source(data, "train"), open_source(data, "validation")
    tokenizer = train_tokenizer(iterate_captions(source), 400)
    images = [3, 7, 11]
    texts = [
        [*source[image + 1].captions[:2], source[image].captions[0], "Blue, blue BLUE. Zebra", ""] for image in images
    ]
    tokens = np.full((3, 5, 40), tokenizer.pad_id, np.int32)
    lengths = np.zeros((3, 5), np.int32)
    for place in np.ndindex(3, 5):
        ids = tokenizer.encode(texts[place[0]][place[1]], 40 if place[1] else 8)  # the first ones are cut
        tokens[place][: len(ids)], lengths[place] = ids, len(ids)
    nothing = np.zeros(lengths.shape, np.float32)
    found = Decoded(tokens, lengths, nothing, np.zeros(tokens.shape, np.float32))
    rewards = Reward(source, tokenizer, training_cider_d(source))(np.array([source[i].image_id for i in images]), found)

    frequencies = document_frequencies([source[place].captions for place in range(len(source))])
    for column in range(5):
        captions = [tokenizer.decode(tokens[row, column, : lengths[row, column]]) for row in range(3)]
        references = [source[image].captions for image in images]
        scores = coco_caption_scores(captions, references, document_frequencies=frequencies)
        np.testing.assert_allclose(rewards[:, column], scores.image_cider_d, atol=1e-9)
    assert (rewards[:, 2] > 1).all()
    assert (rewards[:, 4] == 0).all()
    of_others = Reward(others, tokenizer, training_cider_d(source))
    assert of_others(np.array([others[0].image_id]), Decoded(*(values[:1] for values in found))).shape == (1, 5)


def test_leaving_one_out():
    np.testing.assert_allclose(leave_one_out(np.array([[1.0, 2.0, 6.0]])), [[4.0, 3.5, 1.5]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "all_positions"}, "training.loss='all_positions': must be real_tokens with training.objective"),
        ({"label_smoothing": 0.1}, "training.label_smoothing=0.1: must be 0.0 with training.objective"),
        ({"samples_per_image": 1}, "training.samples_per_image=1: must be at least 2 with training.baseline=mean"),
        ({"samples_per_image": 0, "baseline": "greedy"}, "must be at least 1 with training.baseline=greedy"),
    ],
)
def test_settings_that_make_no_sense_together_name_the_field(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(objective="self_critical", **settings)


def self_critical_run(start, workdir, steps):
    settings = (
        f"--training.objective self_critical --training.baseline greedy --training.steps {steps} "
        "--training.batch-size 16 --training.accumulate 2 --training.freeze encoder --training.average 0.5 "
        "--training.schedule constant --training.learning-rate 5e-3 --training.warmup-steps 1 "
        "--training.validate-every 8 --training.checkpoint-every 8 --training.log-every 4 --evaluation.samples 0"
    )
    return train_command.main(["--init-from", str(start), "--workdir", str(workdir), *settings.split()])


def rows(workdir, split):
    every = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row for row in every if row["split"] == split]


def test_steps_raise_the_reward_and_a_resumed_run_goes_on_as_if_it_had_not_stopped(finished, tmp_path, capsys):
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert self_critical_run(finished[0], once, 16) == 0
    assert "CIDEr-D of greedy captions (best)" in capsys.readouterr().out
    rewards = [row["reward"] for row in rows(once, "train")]
    assert rewards[-1] > 1.5 * rewards[0] > 0
    validated = {row["step"]: row["reward"] for row in rows(once, "validation")}
    assert Captioner.load(once).step == max(validated, key=validated.get)
    assert all(row["loss"] > 0 for row in rows(once, "validation"))

    for steps in (8, 16):
        assert self_critical_run(finished[0], twice, steps) == 0
    ours, theirs = (Captioner.load(workdir, "latest") for workdir in (twice, once))
    assert ours.step == theirs.step == 16
    jax.tree.map(np.testing.assert_array_equal, ours.model, theirs.model)


def test_without_a_run_to_begin_with_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="random captions teach nothing; .*--init-from RUN"):
        train_command.main(["--workdir", str(tmp_path / "run"), "--training.objective", "self_critical"])
