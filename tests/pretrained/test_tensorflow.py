"""The authors' own format: a TensorFlow checkpoint written here with its published variable names."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from dualcap_jax.pretrained import efficientnet
from dualcap_jax.pretrained.files import read_tensors
from dualcap_jax.pretrained.tables import PretrainedError, export

from .test_backbones import ENCODER, assert_equal, encoder_tree


@pytest.mark.parametrize("has_checkpoint_file", [True, False])
def test_a_tensorflow_checkpoint_equals_the_same_weights_in_timms_names(has_checkpoint_file, tmp_path):
    tf = pytest.importorskip("tensorflow")
    tree, raw = encoder_tree(ENCODER, seed=1), encoder_tree(ENCODER, seed=2)
    table = list(efficientnet.table(ENCODER, "tensorflow", classifier=True))
    scope = "efficientnet-b0/"
    values = {f"{scope}{name}": array for name, array in export(table, raw).items()}
    values |= {f"{scope}{name}/ExponentialMovingAverage": array for name, array in export(table, tree).items()}
    values["global_step"] = np.int64(218_949)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.Variable(array) for name, array in values.items()}
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(tmp_path / "model.ckpt"))
    if not has_checkpoint_file:
        (tmp_path / "checkpoint").unlink()
    save_file(export(efficientnet.table(ENCODER, "timm", classifier=True), tree), tmp_path / "timm.safetensors")
    expected, _ = efficientnet.load(ENCODER, encoder_tree(ENCODER), read_tensors(tmp_path / "timm.safetensors"), "timm")
    for path in (tmp_path, tmp_path / "model.ckpt"):
        loaded, _ = efficientnet.load(ENCODER, encoder_tree(ENCODER), read_tensors(path), "efficientnet-b0")
        assert_equal(loaded, expected)
    data = next(tmp_path.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(PretrainedError, match="broken TensorFlow checkpoint"):
        read_tensors(tmp_path)
