"""A detector's published weights: effdet's names, the authors' and our own, and an EfficientNet for its backbone."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from dualcap_jax.models.encoders.efficientdet import EfficientDetConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.pretrained import efficientdet, efficientnet
from dualcap_jax.pretrained.files import read_tensors
from dualcap_jax.pretrained.load import preprocessing
from dualcap_jax.pretrained.tables import PretrainedError, export, flatten, own_table

from ..models.torch_detector import arrays_of, effdets, tree_of

CONFIG = EfficientDetConfig("d0", 0.25, 0.2, channels=16, cells=2, repeats=1, num_classes=5)


@pytest.fixture(scope="module")
def tree():
    """Of a detector, drawn at random."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), tree_of(CONFIG))


def named(tree, naming) -> dict[str, np.ndarray]:
    """A whole file's tensors."""
    before = {"effdet": "backbone.", "tensorflow": "efficientnet-b0/"}[naming]
    table = [
        entry._replace(name=before * (entry.path[1] == "backbone") + entry.name)
        for entry in efficientdet.table(CONFIG, naming, tree)
    ]
    tensors = export(table, tree)
    for name in [name for name in tensors if name.endswith("/WSM")]:  # a variable for each weight there
        every = tensors.pop(name)
        tensors |= {f"{name}{suffix}": one for suffix, one in zip(("", "_1", "_2"), every, strict=False)}
    return tensors


def assert_equal(found, expected):
    found, expected = dict(flatten(found)), dict(flatten(expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=".".join(path))


def test_the_names_are_those_of_effdets_own_network():
    twin = effdets("d0", 128)
    tree = tree_of(EfficientDetConfig("d0"))
    loaded, told = efficientdet.load(EfficientDetConfig("d0"), tree, arrays_of(twin), "tf_efficientdet_d0_34.pth")
    count = sum(not name.endswith("num_batches_tracked") for name in twin.state_dict())
    assert told == f"encoder: {count} tensors from tf_efficientdet_d0_34.pth"
    assert {path: leaf.shape for path, leaf in flatten(loaded)} == {path: leaf.shape for path, leaf in flatten(tree)}


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_file_in_effdets_names_is_read(tree, prefix, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {prefix + name: torch.from_numpy(value) for name, value in named(tree, "effdet").items()}
    torch.save(tensors | {prefix + "backbone.bn1.num_batches_tracked": torch.tensor(3)}, tmp_path / "some.pth")
    assert_equal(efficientdet.load(CONFIG, tree_of(CONFIG), read_tensors(tmp_path / "some.pth"), "some")[0], tree)


def test_the_authors_checkpoint_is_read_by_its_averages(tree, tmp_path):
    tf = pytest.importorskip("tensorflow")
    values = {}
    for name, value in named(tree, "tensorflow").items():
        values |= {name: 0 * value, f"{name}/ExponentialMovingAverage": value, f"{name}/Momentum": 0 * value}
    for name in (
        "efficientnet-b0/blocks_0/tpu_batch_normalization/gamma",
        "resample_p6/conv2d/kernel",
        "fpn_cells/cell_0/fnode0/op_after_combine5/conv/pointwise_kernel",
        "fpn_cells/cell_0/fnode5/resample_0_2_10/bn/moving_mean",
        "fpn_cells/cell_1/fnode7/WSM_1",
        "class_net/class-0-bn-3/beta",
        "box_net/box-predict/bias",
    ):
        assert name in values
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.Variable(array) for name, array in values.items()}
        variables["global_step"] = tf.compat.v1.Variable(np.int64(1))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(tmp_path / "model"))
    assert_equal(efficientdet.load(CONFIG, tree_of(CONFIG), read_tensors(tmp_path), "some")[0], tree)


def test_our_own_names_are_read(tree, tmp_path):
    save_file(export(own_table(tree, ("encoder",)), tree), tmp_path / "model.safetensors")
    assert_equal(efficientdet.load(CONFIG, tree_of(CONFIG), read_tensors(tmp_path), "some")[0], tree)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (0, "without its heads (num_classes is 0)"),
        (3, "without its 5 classes (the new one has 3)"),
    ],
)
@pytest.mark.parametrize("naming", ["effdet", "tensorflow"])
def test_heads_for_other_classes_are_left_out_and_said_so(tree, classes, told, naming):
    config = replace(CONFIG, num_classes=classes)
    start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree_of(config))
    loaded, note = efficientdet.load(config, start, named(tree, naming), "some")
    left = ("class_head", "box_head") if classes == 0 else ("class_head.predict",)
    count = sum(not ".".join(path[1:]).startswith(left) for path, _ in flatten(tree))
    assert note == f"encoder: {count} tensors from some, {told}"
    for part in ("backbone", "fpn"):
        assert_equal(loaded["params"][part], tree["params"][part])
    if classes:
        assert_equal(loaded["params"]["box_head"], tree["params"]["box_head"])
        assert_equal(loaded["params"]["class_head"]["predict"], start["params"]["class_head"]["predict"])
    else:
        assert not {"class_head", "box_head"} & loaded["params"].keys()


def test_an_efficientnet_gives_the_backbone(tree):
    classifier = EfficientNetConfig("b0", 0.25, 0.2, num_classes=7)
    rng = np.random.default_rng(1)
    table = list(efficientnet.table(classifier, "timm", classifier=True))
    tensors = named(tree, "effdet")
    whole = {name: tensors.get(f"backbone.{name}", rng.standard_normal(3)) for name, _, _ in table}
    start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree_of(CONFIG))
    loaded, told = efficientdet.load(CONFIG, start, whole, "tf_efficientnet_b0")
    assert told.endswith("tensors from tf_efficientnet_b0, for its backbone alone")
    for kind in loaded:
        assert_equal(loaded[kind]["backbone"], tree[kind]["backbone"])
        assert_equal({**loaded[kind], "backbone": {}}, {**start[kind], "backbone": {}})
    with pytest.raises(PretrainedError, match="weights of b1, but the backbone of model.encoder.variant=d0 is b0"):
        efficientdet.load(CONFIG, start, whole, "tf_efficientnet_b1")


def test_what_does_not_fit_is_told_in_a_line(tree):
    tensors, start = named(tree, "effdet"), tree_of(CONFIG)

    def told(config=CONFIG, source="some", **change):
        changed = {name: value for name, value in (tensors | change).items() if value is not None}
        with pytest.raises(PretrainedError) as error:
            efficientdet.load(config, tree_of(config), changed, source)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert told(source="tf_efficientdet_d1_40-a30f94af.pth").endswith("weights of d1, but model.encoder.variant is d0")
    assert told(replace(CONFIG, channels=88, cells=4)) == (
        "some: 2 cells of 16 channels, but model.encoder has 4 of 88"
    )
    assert "1 missing: class_net.predict.conv_dw.weight" in told(**{"class_net.predict.conv_dw.weight": None})
    assert "1 left over: fpn.cell.9.some" in told(**{"fpn.cell.9.some": np.zeros(1)})
    assert "edge_weights is [4], not [2]" in told(**{"fpn.cell.0.fnode.0.combine.edge_weights": np.zeros(4)})
    with pytest.raises(PretrainedError, match="no EfficientNet in the names"):
        efficientdet.load(CONFIG, start, {"weight": np.zeros(3)}, "some")


def test_the_variant_of_weights_of_that_shape_is_named():
    tensors = {f"fpn.cell.{cell}.fnode.0.after_combine.conv.bn.weight": np.zeros(88) for cell in range(4)}
    with pytest.raises(PretrainedError, match=r"4 cells of 88 channels \(variant d1 or lite1\), but model.encoder has"):
        efficientdet.load(CONFIG, tree_of(CONFIG), tensors, "some")


@pytest.mark.parametrize(
    ("variant", "file", "normalization"),
    [
        ("d0", "tf_efficientdet_d0_34-f153e0cf.pth", "imagenet"),
        ("d0", "tf_efficientdet_d0_ap-d0cdbd0a.pth", "advprop"),
        ("lite0", "tf_efficientdet_lite0-dfacfc78.pth", "lite"),
    ],
)
def test_images_are_scaled_as_the_weights_ask(variant, file, normalization, tmp_path):
    (tmp_path / file).touch()
    belongs = preprocessing(EfficientDetConfig(variant, pretrained=str(tmp_path / file)))
    assert belongs == (normalization, "bilinear", 1.0)
