"""Published weights, in every naming and file format, into our arrays and back."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from dualcap_jax.models import variables
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders.efficientnet import VARIANTS, EfficientNet, EfficientNetConfig
from dualcap_jax.models.language_models.gpt2 import FlaxGPT2Model, GPT2Config
from dualcap_jax.models.mergers import MergerConfig
from dualcap_jax.pretrained import efficientnet, gpt2
from dualcap_jax.pretrained.files import read_tensors
from dualcap_jax.pretrained.load import language_as_published, load_pretrained, preprocessing
from dualcap_jax.pretrained.tables import PretrainedError, export, flatten

NAMINGS = ("timm", "efficientnet-pytorch", "tensorflow", "ours")
ENCODER = EfficientNetConfig(variant="b0", width=0.25, depth=0.4, num_classes=11)
LANGUAGE = GPT2Config(vocab_size=97, max_positions=24, width=32, layers=2, heads=4)
MERGER = MergerConfig(hidden=(16, 8))
MODEL = ModelConfig(encoder=ENCODER, language=LANGUAGE, merger=MERGER)


def arrays(network, seed=None) -> dict:
    """A network's params and batch_stats as the training step has them, with random values if there is a seed."""
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    tree = {name: nnx.to_pure_dict(nnx.state(network, kind)) for name, kind in kinds.items()}
    if seed is None:
        return tree
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), tree)


def encoder_tree(config: EfficientNetConfig, seed=None) -> dict:
    return arrays(nnx.eval_shape(lambda: EfficientNet(config, rngs=nnx.Rngs(0))), seed)


def assert_equal(ours: dict, theirs: dict) -> None:
    ours, theirs = dict(flatten(ours)), dict(flatten(theirs))
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path], err_msg=".".join(path))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_array_of_every_variant_has_one_name_in_every_naming(variant):
    config = EfficientNetConfig(variant=variant)
    paths = {path for path, _ in flatten(encoder_tree(config))}
    for naming in NAMINGS:
        table = list(efficientnet.table(config, naming, classifier=True))
        assert {entry.path for entry in table} == paths
        assert len({entry.name for entry in table}) == len(paths) == len(table)
        if variant == "b4":
            assert len(table) == 610  # 418 parameters and 192 statistics


@pytest.mark.parametrize("variant", ["b0", "lite0"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_an_exported_encoder_comes_back_to_the_bit(variant, naming, tmp_path):
    config = replace(ENCODER, variant=variant)
    tree = encoder_tree(config, seed=1)
    save_file(export(efficientnet.table(config, naming, classifier=True), tree), tmp_path / "model.safetensors")
    loaded, told = efficientnet.load(config, encoder_tree(config), read_tensors(tmp_path), "some")
    assert_equal(loaded, tree)
    assert "classifier" not in told


def test_names_and_layouts_are_those_of_efficientnet_pytorch():
    pytest.importorskip("torch")
    from tests.models.torch_encoder import twins

    twin, ours = twins("b0", 64)
    state = {name: value.numpy() for name, value in twin.state_dict().items()}
    loaded, _ = efficientnet.load(EfficientNetConfig(), encoder_tree(EfficientNetConfig()), state, "efficientnet-b0")
    assert_equal(loaded, arrays(ours))


@pytest.mark.parametrize("naming", NAMINGS)
def test_another_class_count_keeps_everything_but_the_classifier_and_says_so(naming):
    tree = encoder_tree(ENCODER, seed=1)
    tensors = export(efficientnet.table(ENCODER, naming, classifier=True), tree)
    for classes, words in ((5, "without its classifier (the new one has 5 classes)"), (0, "num_classes is 0")):
        config = replace(ENCODER, num_classes=classes)
        initial = encoder_tree(config, seed=2)
        loaded, told = efficientnet.load(config, initial, tensors, "some")
        assert words in told
        expected = {kind: dict(tree[kind]) for kind in tree}
        del expected["params"]["classifier"]
        if classes:
            expected["params"]["classifier"] = initial["params"]["classifier"]
        assert_equal(loaded, expected)


def test_a_tensorflow_checkpoint_gives_its_moving_averages_under_any_scope():
    tree, raw = encoder_tree(ENCODER, seed=1), encoder_tree(ENCODER, seed=2)
    table = list(efficientnet.table(ENCODER, "tensorflow", classifier=True))
    tensors = {f"efficientnet-b0/{name}": array for name, array in export(table, raw).items()}
    tensors |= {
        f"efficientnet-b0/{name}/ExponentialMovingAverage": array for name, array in export(table, tree).items()
    }
    tensors |= {"efficientnet-b0/stem/conv2d/kernel/RMSProp": np.zeros(3), "global_step": np.int64(7)}
    loaded, _ = efficientnet.load(ENCODER, encoder_tree(ENCODER), tensors, "efficientnet-b0")
    assert_equal(loaded, tree)


def broken(tensors, case):
    name = "blocks.1.0.conv_dw.weight"
    if case == "missing":
        del tensors[name]
    elif case == "half a classifier":
        del tensors["classifier.bias"]
    elif case == "extra":
        tensors["blocks.9.0.conv_dw.weight"] = np.zeros(3, np.float32)
    else:
        tensors[name] = tensors[name][..., :-1].copy()
    return tensors


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", r"1 missing: blocks\.1\.0\.conv_dw\.weight"),
        ("half a classifier", r"1 missing: classifier\.bias"),
        ("extra", r"1 left over: blocks\.9\.0\.conv_dw\.weight"),
        ("shape", r"1 of another shape: blocks\.1\.0\.conv_dw\.weight is \[48, 1, 3, 2\], not \[48, 1, 3, 3\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(case, message):
    tensors = broken(export(efficientnet.table(ENCODER, "timm", classifier=True), encoder_tree(ENCODER, 1)), case)
    with pytest.raises(PretrainedError, match=f"some: .*{message}"):
        efficientnet.load(ENCODER, encoder_tree(ENCODER), tensors, "some")


def test_weights_of_another_variant_are_refused_by_name():
    tensors = export(efficientnet.table(ENCODER, "timm", classifier=True), encoder_tree(ENCODER, 1))
    with pytest.raises(PretrainedError, match="weights of b4, but model.encoder.variant is b0"):
        efficientnet.load(ENCODER, encoder_tree(ENCODER), tensors, "timm/tf_efficientnet_b4.ap_in1k")


@pytest.mark.parametrize(
    ("name", "published", "expected"),
    [
        ("advprop/efficientnet-b0", None, ("advprop", "bicubic", 224 / 256)),
        ("adv-efficientnet-b0-44fb3a87", None, ("advprop", "bicubic", 224 / 256)),
        ("tf_efficientnet_b0.ap_in1k", None, ("advprop", "bicubic", 224 / 256)),
        ("tf_efficientnet_b0.ns_jft_in1k", None, ("imagenet", "bicubic", 224 / 256)),
        (
            "some",
            {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 0.9}},
            ("advprop", "bilinear", 0.9),
        ),
        ("some", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, ("imagenet", "bicubic", 224 / 256)),
    ],
)
def test_the_preprocessing_comes_with_the_weights(name, published, expected, tmp_path):
    directory = tmp_path / name
    directory.mkdir(parents=True)
    if published:
        (directory / "config.json").write_text(json.dumps(published))
    assert preprocessing(replace(ENCODER, pretrained=str(directory))) == expected


def test_unknown_colours_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"mean": [0.1] * 3, "std": [1.0] * 3}))
    with pytest.raises(PretrainedError, match=r"set model\.encoder\.normalization to one of"):
        preprocessing(replace(ENCODER, pretrained=str(tmp_path)))


def language_tree(config: GPT2Config) -> dict:
    tree = arrays(nnx.eval_shape(lambda: FlaxGPT2Model(config, rngs=nnx.Rngs(0))))
    return {"params": tree["params"]}


def hidden(tree: dict, config: GPT2Config, tokens: np.ndarray) -> np.ndarray:
    graph, _ = nnx.split(nnx.eval_shape(lambda: FlaxGPT2Model(config, rngs=nnx.Rngs(0))))
    return np.asarray(nnx.merge(graph, jax.tree.map(jax.numpy.asarray, tree["params"])).hidden(tokens))


@pytest.mark.parametrize("form", ["whole", "sharded", "body", "torch", "torch sharded"])
def test_a_hugging_face_gpt2_computes_what_transformers_computes(form, published_gpt2, tmp_path):
    import torch

    directory, network = published_gpt2
    if form != "whole":
        directory = tmp_path
    if form == "sharded":
        network.save_pretrained(directory, max_shard_size="20KB")
        assert len(list(directory.glob("*.safetensors"))) > 2
    elif form == "body":
        network.transformer.save_pretrained(directory)
    elif form.startswith("torch"):
        network.config.save_pretrained(directory)
        names = list(network.state_dict())
        parts = [names] if form == "torch" else [names[:9], names[9:]]
        files = ["pytorch_model.bin"] if form == "torch" else ["pytorch_model-1.bin", "pytorch_model-2.bin"]
        for file, part in zip(files, parts, strict=True):
            torch.save({name: network.state_dict()[name] for name in part}, directory / file)
        index = {"weight_map": {name: file for file, part in zip(files, parts, strict=True) for name in part}}
        if form != "torch":
            (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = language_as_published(GPT2Config(pretrained=str(directory), dropout=0.0))
    assert (config.vocab_size, config.width, config.layers, config.heads) == (97, 32, 2, 4)
    loaded, _ = gpt2.load(config, language_tree(config), read_tensors(directory), "some")
    tokens = np.random.default_rng(0).integers(0, 97, (3, 20))
    with torch.inference_mode():
        theirs = network.transformer(torch.from_numpy(tokens)).last_hidden_state.numpy()
    assert np.abs(hidden(loaded, config, tokens) - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_an_exported_language_model_is_read_by_transformers(published_gpt2, tmp_path):
    transformers = pytest.importorskip("transformers")
    directory, network = published_gpt2
    config = language_as_published(GPT2Config(pretrained=str(directory)))
    loaded, _ = gpt2.load(config, language_tree(config), read_tensors(directory), "some")
    network.config.save_pretrained(tmp_path)
    exported = export(gpt2.table(config, "transformer."), loaded)
    save_file(exported, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "relu"}, "activation_function='relu'; only 'gelu_new' or 'gelu' is"),
        ({"n_inner": 7}, "n_inner=7; only 128"),
        ({"model_type": "bert"}, "model_type='bert'"),
        ({"n_embd": None}, "lacks 'n_embd'"),
    ],
)
def test_a_network_that_is_not_gpt2_is_refused(change, message, tmp_path):
    published = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, **change}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in published.items() if v is not None}))
    with pytest.raises(PretrainedError, match=message):
        language_as_published(GPT2Config(pretrained=str(tmp_path)))


def test_the_network_starts_from_both_and_keeps_its_merger(published_gpt2, tmp_path):
    directory, _ = published_gpt2
    tree = encoder_tree(ENCODER, seed=3)
    save_file(export(efficientnet.table(ENCODER, "timm", classifier=True), tree), tmp_path / "model.safetensors")
    config = replace(
        MODEL,
        encoder=replace(ENCODER, pretrained=str(tmp_path)),
        language=replace(LANGUAGE, pretrained=str(directory)),
    )
    initial = variables.init(config, 0)
    loaded, notes = load_pretrained(config, 0)
    assert_equal({kind: loaded[kind]["encoder"] for kind in loaded}, tree)
    assert_equal(loaded["params"]["merger"], initial["params"]["merger"])
    wte = read_tensors(directory)["transformer.wte.weight"]
    np.testing.assert_array_equal(loaded["params"]["language"]["token_embedding"], wte)
    assert len(notes) == 2


def test_broken_files_are_told_in_a_sentence(published_gpt2, tmp_path):
    torch = pytest.importorskip("torch")
    directory, _ = published_gpt2
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((directory / "model.safetensors").read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"weight": Path("/tmp")}, tmp_path / "pickle.pth")
    (tmp_path / "notes.txt").write_text("")
    for name, message in {
        "cut.safetensors": "broken or incomplete",
        "empty": "holds no model.safetensors",
        "text.pth": "broken, or more than weights",
        "pickle.pth": "broken, or more than weights",
        "notes.txt": "not one of .safetensors",
    }.items():
        with pytest.raises(PretrainedError, match=message):
            read_tensors(tmp_path / name)
