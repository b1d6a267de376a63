"""What is trained of a frozen part: exactly what is named."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax import info, train
from dualcap_jax.config import ExperimentConfig, load_run
from dualcap_jax.errors import ConfigError
from dualcap_jax.models import variables
from dualcap_jax.pretrained.tables import flatten
from dualcap_jax.resolving import as_resolved, encodes_once
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.objectives.self_critical import self_critical
from dualcap_jax.training.optimizer import layer_factors
from dualcap_jax.training.state import init_state
from dualcap_jax.training.step import make_train_step

from .tiny import random_batch, tiny_model

PLAIN = {"schedule": "constant", "warmup_steps": 0, "learning_rate": 1e-2, "batch_size": 4}
ALL = ("encoder", "language", "merger")


def learnt(unfreeze, freeze=("encoder",), batch_norm="train", **settings):
    """The arrays, by dotted name, that two steps change, of the parameters and of the statistics; the last state."""
    config = tiny_model(batch_norm=batch_norm, dropout=0.3)
    training = TrainingConfig(**PLAIN, **settings, freeze=freeze, unfreeze=unfreeze)
    is_self_critical = training.objective == "self_critical"
    objective = self_critical() if is_self_critical else cross_entropy(frozen=training.freeze)
    state, batch = init_state(variables.init(config, 0), training, config.dtype), random_batch()
    before = jax.device_get(state["model"])
    step = make_train_step(config, training, objective)
    for _ in range(2):
        state, metrics = step(state, batch | {"advantage": np.ones((4, 2), np.float32)} if is_self_critical else batch)
    after = jax.device_get(state["model"])

    def changed(kind: str) -> set[str]:
        old, new = (dict(flatten(model[kind])) for model in (before, after))
        assert old.keys() == new.keys()
        return {".".join(place) for place in old if not np.array_equal(old[place], new[place])}

    assert bool(metrics["finite"])
    return changed("params"), changed("batch_stats") - {"image_mean"}, jax.device_get(state)


def names(kind: str, pattern: str) -> set[str]:
    """The names of arrays of the network that begin so."""
    places = dict(flatten(variables.shapes(tiny_model())[kind]))
    return {name for name in map(".".join, places) if re.match(pattern, name)}


NORMS = r"encoder\.(blocks\.\d+\.)?\w+_norm\."


@pytest.mark.parametrize(("accumulate", "average"), [(1, 0.0), (2, 0.5)])
def test_all_batch_norms_and_the_classifier_learn_and_nothing_else_of_the_encoder(accumulate, average):
    params, stats, state = learnt(("encoder.batch_norm", "encoder.classifier"), accumulate=accumulate, average=average)
    others = names("params", r"(?!encoder\.)")
    assert params - others == names("params", rf"{NORMS}|encoder\.classifier\.")
    assert stats == names("batch_stats", NORMS)
    moments = {".".join(place) for place, _ in flatten(state["optimizer"]["optax"][1].mu)}
    assert moments == others | names("params", rf"{NORMS}|encoder\.classifier\.")


@pytest.mark.parametrize(
    ("unfreeze", "params", "stats"),
    [
        (("encoder.head_norm",), r"encoder\.head_norm\.", r"encoder\.head_norm\."),
        (("encoder.head_norm.scale", "encoder.classifier"), r"encoder\.(head_norm\.scale|classifier\.)", r"$."),
        (("encoder.blocks.6", "language.blocks.0.mlp_norm", "merger.first.encoder.bias"),
         r"encoder\.blocks\.6\.|language\.blocks\.0\.mlp_norm\.|merger\.first\.encoder\.bias", r"encoder\.blocks\.6\."),
    ],
)  # fmt: skip
def test_of_frozen_parts_what_is_named_learns_and_all_else_stays_to_the_bit(unfreeze, params, stats):
    learnt_params, learnt_stats, _ = learnt(unfreeze, freeze=ALL)
    assert learnt_params == names("params", params)
    assert learnt_stats == names("batch_stats", stats)


@pytest.mark.parametrize("settings", [{"batch_norm": "frozen"}, {"objective": "self_critical"}], ids=str)
def test_statistics_stay_where_the_encoder_freezes_them_and_in_self_critical_training(settings):
    params, stats, _ = learnt(("encoder.batch_norm",), freeze=ALL, **settings)
    assert params == names("params", NORMS)
    assert stats == set()


def test_an_unfrozen_batch_norm_normalises_by_the_batch_and_the_rest_runs_as_in_evaluation():
    """The whole encoder in training, without dropout, is what frozen convolutions with unfrozen norms are."""
    config, batch = tiny_model(batch_norm="train"), random_batch()
    model = variables.init(config, 0)

    def loss(**settings):
        training = TrainingConfig(**PLAIN, **settings)
        state = init_state(jax.tree.map(np.copy, model), training, config.dtype)
        state, metrics = make_train_step(config, training, cross_entropy(frozen=training.freeze))(state, batch)
        return float(metrics["loss"]), jax.device_get(state["model"]["batch_stats"]["encoder"])

    trained, stats = loss()
    norms_alone, same_stats = loss(freeze=("encoder",), unfreeze=("encoder.batch_norm",))
    assert norms_alone == pytest.approx(trained, rel=1e-6)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5), same_stats, stats)


def test_layers_are_counted_from_the_highest_that_is_trained():
    ones = jnp.ones(3)
    factors = layer_factors({"blocks": {5: {"scale": ones}, 6: {"scale": ones}}, "classifier": {"bias": ones}}, 0.5)
    assert factors == {"blocks": {5: {"scale": 0.25}, 6: {"scale": 0.5}}, "classifier": {"bias": 1}}


@pytest.mark.parametrize("name", ["merger.first", "encoder", "classifier"])
def test_a_name_outside_the_frozen_parts_is_refused(name):
    with pytest.raises(ConfigError, match=rf"training.unfreeze='{name}': must begin with a part that training.freeze"):
        TrainingConfig(freeze=("encoder",), unfreeze=(name,))


def test_an_encoder_of_which_something_learns_is_not_encoded_once():
    config = ExperimentConfig(training=TrainingConfig(freeze=("encoder", "language")))
    assert encodes_once(config)
    for name, expected in {"language.final_norm": True, "encoder.batch_norm": False}.items():
        assert encodes_once(replace(config, training=replace(config.training, unfreeze=(name,)))) == expected


# -- the recipe: train small, fine-tune larger


def test_a_larger_image_keeps_the_share_that_the_crop_takes():
    config = ExperimentConfig()
    published = replace(config.model, encoder=replace(config.model.encoder, pretrained="some"))
    saved = replace(config, model=published, data=replace(config.data, image_size=224, resize=256))
    larger = replace(saved, data=replace(saved.data, image_size=336, resize=None))
    assert as_resolved(larger, saved).data.resize == 384
    assert as_resolved(saved, saved) == saved


def test_a_run_is_fine_tuned_at_a_larger_size(finished, tmp_path):
    start, workdir = finished[0], tmp_path / "larger"
    size = load_run(start).data.image_size
    options = ["--init-from", str(start), "--data.image-size", str(2 * size), "--training.steps", "2"]
    options += ["--training.freeze", "encoder", "language", "--training.unfreeze", "encoder.batch_norm"]
    with pytest.raises(ConfigError, match=r"='encoder.batchnorm': .* has that name; did you mean encoder.batch_norm\?"):
        train.main([*options, "encoder.batchnorm", "--workdir", str(workdir)])
    assert not workdir.exists()
    assert train.main([*options, "encoder.classifier", "--workdir", str(workdir)]) == 0
    told = "encoder and language frozen but for encoder.batch_norm and encoder.classifier, started from"
    assert told in "\n".join(info.report(info.about(workdir)))
    with pytest.raises(ConfigError, match="cannot be resumed with another setting: training.unfreeze"):
        train.main(["--workdir", str(workdir), "--training.unfreeze", "encoder.batch_norm"])
