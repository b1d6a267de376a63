"""The original's checkpoint, taken from the PyTorch peer, computes what the peer computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax.models import variables
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.mergers import MergerConfig
from dualcap_jax.pretrained.files import read_tensors
from dualcap_jax.pretrained.original import load_original
from dualcap_jax.pretrained.tables import PretrainedError
from dualcap_jax.training.objectives.cross_entropy import mean_losses, token_sums
from tests.models.torch_encoder import pictures, randomize

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def peer_network(variant: str, size: int, **language):
    """scripts/torch_peer.py's captioner with random weights everywhere, in evaluation mode."""
    from scripts.torch_peer import TorchCaptioner

    torch.manual_seed(0)
    peer = TorchCaptioner(transformers.GPT2Config(**language), f"efficientnet-{variant}", size).eval()
    randomize(peer.encoder)
    with torch.no_grad():
        peer.encoder._fc.weight *= 0.1
        for parameter in peer.merger.parameters():
            parameter.mul_(10)  # the initial ones hardly show
    return peer


def original_names(peer) -> dict:
    """The peer's state dict as the original's file has it: `efficient.*`, `encoder1` and so on at the top."""
    renamed = {}
    for name, value in peer.state_dict().items():
        part, _, rest = name.partition(".")
        renamed[{"encoder": f"efficient.{rest}", "merger": rest}.get(part, name)] = value
    return renamed


@pytest.mark.parametrize(
    ("variant", "size", "language"),
    [
        ("b0", 75, {"vocab_size": 97, "n_positions": 40, "n_embd": 64, "n_layer": 3, "n_head": 4}),
        pytest.param("b4", 127, {}, marks=pytest.mark.slow),
    ],
)
def test_the_merged_network_has_the_logits_and_the_loss_of_the_peer(variant, size, language, tmp_path, rng):
    peer = peer_network(variant, size, **language)
    torch.save(original_names(peer), tmp_path / "best.torch")
    shape = peer.config
    config = ModelConfig(
        EfficientNetConfig(variant),
        GPT2Config(shape.vocab_size, shape.n_positions, shape.n_embd, shape.n_layer, shape.n_head),
        MergerConfig(hidden=(384, 256), positions=36),
    )
    model = load_original(config, variables.init(config, 0), read_tensors(tmp_path / "best.torch"), "best.torch")

    images = pictures(2, size, rng)
    mask = np.arange(36) < np.array([[36], [14]])
    tokens = np.where(mask, rng.integers(0, shape.vocab_size, mask.shape), 0)
    logits = jax.jit(lambda model: variables.bind(config, model)(*ours))
    ours = jnp.asarray(images), jnp.asarray(tokens[:, None]), jnp.asarray(mask[:, None])
    logits = logits(model)
    ids, settings = torch.from_numpy(tokens), {"attention_mask": torch.from_numpy(mask), "use_cache": False}
    with torch.inference_mode():
        features = peer.encoder(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        theirs = peer(ids, features, **settings).logits
        swapped = peer(ids, features.flip(0), **settings).logits
        loss = torch.nn.functional.cross_entropy(theirs[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    scale = theirs.abs().max().item()
    assert (theirs - swapped).abs().max().item() > 0.05 * scale  # the pictures matter
    assert np.abs(logits[:, 0] - theirs.numpy()).max() < 1e-4 * scale
    network = variables.bind(config, model)
    sums = token_sums(network.merged(*ours)[:, :, :-1], network.language.output_embedding, *ours[1:])
    assert mean_losses([sums])["loss_all_positions"] == pytest.approx(loss, rel=1e-5)


def test_another_merger_than_the_originals_is_refused():
    config = ModelConfig(merger=MergerConfig(kind="gru"))
    with pytest.raises(PretrainedError, match="the original's merger is skip_mlp"):
        load_original(config, {}, {}, "best.torch")
