"""A frozen encoder's outputs, computed once: training from them is training from the images."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dualcap_jax import prepare, train
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.features import EncodedSource
from dualcap_jax.data.pipeline import eval_batches, train_iterator
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources import open_source
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.encoding import encode_once, features_of
from dualcap_jax.errors import ConfigError
from dualcap_jax.models import variables
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.state import init_state
from dualcap_jax.training.step import make_train_step

from ..commands import NETWORK, SCENES, STEPS
from .tiny import tiny_model

DATA = DataConfig(image_size=32, max_length=9, captions_per_image=2)


@pytest.fixture(scope="module")
def scenes():
    data = replace(DATA, scenes=replace(DATA.scenes, train=12, validation=2, test=2))
    return data, open_source(data, "train")


@pytest.mark.parametrize("merger", [{}, {"kind": "attention", "heads": 2, "strides": (16, 32)}])
def test_training_from_features_is_training_from_images(scenes, merger, tmp_path):
    data, source = scenes
    tokenizer = train_tokenizer(["a red ring"], 270)
    config = tiny_model(**merger)
    config = replace(config, language=replace(config.language, vocab_size=tokenizer.vocab_size))
    training = TrainingConfig(batch_size=4, freeze=("encoder",), warmup_steps=0, learning_rate=1e-3)
    model = variables.init(config, 0)
    encode_once(config, data, model, source, tmp_path, "train")
    losses = []
    for images in (source, EncodedSource(source, tmp_path / "train", config.merger.reads)):
        state = init_state(jax.tree.map(np.copy, model), training, config.dtype)
        step = make_train_step(config, training, cross_entropy(frozen=training.freeze))
        batches = train_iterator(images, tokenizer, data, 4, seed=1)
        for batch, _ in zip(batches, range(4), strict=False):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    assert ("image" in batch) is False
    np.testing.assert_allclose(losses[4:], losses[:4], rtol=1e-3)  # 16 bits have three digits
    assert losses[0] != losses[3]


def test_views_are_encoded_once_and_each_epoch_takes_the_next_of_them(scenes, tmp_path):
    data, source = scenes
    config, data = tiny_model(), replace(data, flip=True, views=5)
    model = variables.init(config, 0)
    encode_once(config, data, model, source, tmp_path, "train")
    images = np.stack([source.transform.decode(source[index].read_image()) for index in range(12)])
    seen = [features_of(config, model, batch)["vector"] for batch in (images, images[:, :, ::-1])]
    views = np.load(tmp_path / "train/vector.npy").reshape(5, 12, -1)
    scale = np.abs(seen[0]).max()
    mirrored = np.array([[np.abs(row - each).max() < 0.01 * scale for each in seen[1]] for row in views[:, 0]])[:, 0]
    is_one = [np.minimum(*(np.abs(view - each).max(1) for each in seen)).max() < 0.01 * scale for view in views]
    assert all(is_one)
    assert 0 < mirrored.sum() < 5

    tokenizer = train_tokenizer(["a red ring"], 270)
    encoded = EncodedSource(source, tmp_path / "train")
    batches = train_iterator(encoded, tokenizer, data, 12, seed=1)
    epochs = [batch["vector"][np.argsort(batch["image_id"])] for batch, _ in zip(batches, range(6), strict=False)]
    for number, epoch in enumerate(epochs):
        np.testing.assert_array_equal(epoch, views[number % 5])
    plain = next(iter(eval_batches(encoded, tokenizer, data, 12)))
    np.testing.assert_array_equal(plain["vector"], views[0])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("views", [{}, {"crop_scale": 0.5, "flip": True, "views": 2}])
def test_an_interrupted_computation_goes_on_and_is_whole_only_at_its_end(scenes, tmp_path, monkeypatch, views):
    data, source = replace(scenes[0], **views), scenes[1]
    config = tiny_model()
    model = variables.init(config, 0)
    monkeypatch.setattr("dualcap_jax.encoding.BATCH", 2)
    monkeypatch.setattr("dualcap_jax.data.features.KEPT_EVERY", 2)
    encode_once(config, data, model, source, tmp_path / "once", "train")
    read = []

    class Watched(type(source)):
        def __getitem__(self, index):
            read.append(index)
            if len(read) == 9 and len(set(read)) < 12:
                raise Interrupted
            return super().__getitem__(index)

    watched = Watched(data, "train")
    with pytest.raises(Interrupted):
        encode_once(config, data, model, watched, tmp_path / "twice", "train")
    assert not (tmp_path / "twice/train/features.json").exists()
    encode_once(config, data, model, source, tmp_path / "twice", "train")
    for name in ("vector.npy", "features.json"):
        once, twice = (tmp_path / which / "train" / name for which in ("once", "twice"))
        assert once.read_bytes() == twice.read_bytes()
    before = (tmp_path / "twice/train/vector.npy").stat().st_mtime_ns
    encode_once(config, data, model, source, tmp_path / "twice", "train")
    assert (tmp_path / "twice/train/vector.npy").stat().st_mtime_ns == before


def test_features_serve_a_merger_that_reads_fewer_of_them_once_they_are_whole(scenes, tmp_path):
    data, source = scenes
    both, one, none = (
        tiny_model(kind="attention", heads=2, strides=(16, 32)),
        tiny_model(kind="attention", heads=2, strides=(32,)),
        tiny_model(),
    )
    model = variables.init(both, 0)
    encode_once(both, data, model, source, tmp_path, "train")
    for config, names in ((one, {"vector", "maps_32"}), (none, {"vector"})):
        encode_once(config, data, model, source, tmp_path, "train")
        assert EncodedSource(source, tmp_path / "train", config.merger.reads).features(0).keys() == names

    (tmp_path / "train/maps_16.npy").unlink()
    encode_once(one, data, model, source, tmp_path, "train")
    with pytest.raises(DataError, match="maps_16.npy: is gone; delete .*train"):
        encode_once(both, data, model, source, tmp_path, "train")

    (tmp_path / "train/features.json").rename(tmp_path / "train/unfinished.json")
    with pytest.raises(DataError, match=r"strides \[16, 32\], not \[32\]"):
        encode_once(one, data, model, source, tmp_path, "train")


def test_features_of_something_else_are_refused_by_name(scenes, tmp_path):
    data, source = scenes
    config = tiny_model()
    model = variables.init(config, 0)
    encode_once(config, data, model, source, tmp_path, "train")
    other = variables.init(config, 1)
    looking = replace(config, merger=replace(config.merger, kind="attention", heads=2))
    fewer = replace(data, scenes=replace(data.scenes, train=11))
    for args, told in (
        ((config, replace(data, image_size=48), model, source), "image_size 32, not 48"),
        ((config, data, other, source), "weights"),
        ((looking, data, model, source), r"strides \[\], not \[32\]"),
        ((config, fewer, model, open_source(fewer, "train")), "other images or captions"),
        ((config, replace(data, flip=True, views=2), model, source), "views None, not 2"),
    ):
        with pytest.raises(DataError, match=f"{told}.*--data.features"):
            encode_once(*args, tmp_path, "train")


def test_train_and_prepare_share_features_and_train_says_so(tmp_path, capsys):
    options = [*NETWORK, *SCENES, "--training.freeze", "encoder"]
    features = str(tmp_path / "features")
    with pytest.raises(ConfigError, match="data.views=0: must be at least 1"):
        prepare.main(["features", features, *options, "--data.flip", "True"])
    assert prepare.main(["features", features, *options, "--splits", "train", "validation"]) == 0
    assert f"train from them: --training.freeze encoder --data.features {features}" in capsys.readouterr().out
    assert train.main([*options, "--data.features", features, "--workdir", str(tmp_path / "run"), *STEPS]) == 0
    assert f"each image is encoded once, into {features}" in capsys.readouterr().out
    assert not (tmp_path / "run/features").exists()

    thawed = ["--init-from", str(tmp_path / "run"), "--training.freeze", "--workdir", str(tmp_path / "thawed")]
    assert train.main([*thawed, "--training.steps", "2"]) == 0
    assert f"data.features={features}: not read, as the encoder is trained" in capsys.readouterr().out


def test_an_image_that_was_broken_then_is_a_fault_when_training_meets_it(scenes, tmp_path):
    data, source = scenes
    config = tiny_model()

    class Broken(type(source)):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            return replace(record, read_image=lambda: b"no image") if index == 5 else record

    broken = Broken(data, "train")
    broken.faults = Faults("skip")
    encode_once(config, data, variables.init(config, 0), broken, tmp_path, "train")
    assert broken.faults.counts == {"unreadable image": 1}
    encoded = EncodedSource(broken, tmp_path / "train")
    batches = train_iterator(encoded, train_tokenizer(["a red ring"], 270), data, 4, seed=1)
    met = {int(image_id) for batch, _ in zip(batches, range(12), strict=False) for image_id in batch["image_id"]}
    assert met == set(range(12)) - {5}
