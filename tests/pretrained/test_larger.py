"""The larger language models that configs pair: GPT-2's sizes and Cerebras-GPT's, against transformers."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dualcap_jax.config import load_experiment
from dualcap_jax.models import variables
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.variables import bind_language
from dualcap_jax.pretrained import gpt2
from dualcap_jax.pretrained.files import read_tensors
from dualcap_jax.pretrained.load import language_as_published
from dualcap_jax.pretrained.tables import LAYOUTS, flatten

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CEREBRAS = {
    "activation_function": "gelu",
    "n_positions": 2048,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}

PUBLISHED = {  # of the config.json of each model on the Hugging Face hub
    "larger": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "larger_b8_gpt2_large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "larger_l2_gpt2_xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    "larger_b4_cerebras_111m": {"n_embd": 768, "n_layer": 10, "n_head": 12, "n_inner": 3072, **CEREBRAS},
    "larger_b4_cerebras_256m": {"n_embd": 1088, "n_layer": 14, "n_head": 17, "n_inner": 4352, **CEREBRAS},
    "larger_b7_cerebras_590m": {"n_embd": 1536, "n_layer": 18, "n_head": 12, "n_inner": 6144, **CEREBRAS},
    "larger_b7_cerebras_1_3b": {"n_embd": 2048, "n_layer": 24, "n_head": 16, "n_inner": 8192, **CEREBRAS},
}
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_array_has_the_shape_that_it_has_in_transformers(name):
    model = load_experiment(CONFIGS / f"{name}.py").model
    config = model.language
    with torch.device("meta"):
        twin = transformers.GPT2LMHeadModel(transformers.GPT2Config(**PUBLISHED[name]))
    theirs = {name: tuple(value.shape) for name, value in twin.named_parameters()}  # a tied head is not named twice
    ours = dict(flatten({"params": variables.shapes(model)["params"]["language"]}))
    shapes = {}
    for entry in gpt2.table(config, "transformer."):
        array = np.broadcast_to(np.False_, ours.pop(entry.path).shape)
        shapes[entry.name] = LAYOUTS[entry.layout][1](array).shape
    assert shapes == theirs
    assert not ours
    assert (config.heads, config.activation) == (twin.config.n_head, twin.config.activation_function)


@pytest.mark.parametrize("name", ["larger_l2_gpt2_xl", "larger_b4_cerebras_256m"])
def test_two_layers_of_it_compute_what_transformers_computes(name, tmp_path, rng):
    """With the published width and heads, on random weights of which biases and norms are random too."""
    torch.manual_seed(0)
    shape = PUBLISHED[name] | {"n_layer": 2, "vocab_size": 331, "n_positions": 32}
    twin = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    twin.save_pretrained(tmp_path)

    config = language_as_published(GPT2Config(pretrained=str(tmp_path), dropout=0.0))
    wanted = load_experiment(CONFIGS / f"{name}.py").model.language
    assert replace(wanted, vocab_size=331, max_positions=32, layers=2, dropout=0.0, pretrained=None, remat="none") == (
        replace(config, pretrained=None)
    )
    tree = {"params": jax.eval_shape(lambda: variables.init_language(config, 0))}
    params = gpt2.load(config, tree, read_tensors(tmp_path), name)[0]["params"]
    tokens = rng.integers(0, 331, (2, 20))

    @jax.jit
    def run(params, tokens):
        network = bind_language(config, "float32", params)
        hidden = network.hidden(tokens)
        return hidden, network.logits(hidden)

    with torch.inference_mode():
        found = twin(torch.from_numpy(tokens), output_hidden_states=True)
    for ours, theirs in zip(run(params, tokens), (found.hidden_states[-1], found.logits), strict=True):
        assert np.abs(np.asarray(ours) - theirs.numpy()).max() < 1e-5 * np.abs(theirs.numpy()).max()


def test_the_exact_gelu_is_not_the_approximated_one(tmp_path, published_gpt2):
    """A checkpoint says which; the one is not read as the other, and comes back as it was."""
    _, network = published_gpt2
    network.config.activation_function = "gelu"
    network.save_pretrained(tmp_path)
    config = language_as_published(GPT2Config(pretrained=str(tmp_path), dropout=0.0))
    assert config.activation == "gelu"
    tree = {"params": jax.eval_shape(lambda: variables.init_language(config, 0))}
    params = gpt2.load(config, tree, read_tensors(tmp_path), "some")[0]["params"]
    tokens = np.arange(20)[None]
    exact, approximated = (
        np.asarray(bind_language(replace(config, activation=activation), "float32", params).hidden(tokens))
        for activation in ("gelu", "gelu_new")
    )
    twin = transformers.GPT2Model.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(tokens)).last_hidden_state.numpy()
    assert np.abs(exact - theirs).max() < 1e-5 * np.abs(theirs).max() < np.abs(approximated - theirs).max()
