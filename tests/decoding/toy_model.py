"""A small language model that sees a picture, written twice: for transformers and for our search."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dualcap_jax.decoding import DecodingConfig


@dataclass(frozen=True)
class Weights:
    """One head of causal attention over the tokens, a picture added to its output.

    Tokens and positions are multiplied and attention is kept soft, so that what a sequence scores depends on the
    order of all its tokens: two sequences that score nearly the same would leave the search's answer to rounding.
    """

    embedding: np.ndarray  # f32[vocabulary, width]
    position: np.ndarray  # f32[length, width]
    query: np.ndarray  # f32[width, width]
    head: np.ndarray  # f32[width, vocabulary]
    bias: np.ndarray  # f32[vocabulary]

    @classmethod
    def draw(
        cls,
        seed: int,
        vocabulary: int,
        *,
        length: int = 16,
        width: int = 8,
        end_id: int = 0,
        end_bias: float = 0.0,
    ) -> "Weights":
        rng = np.random.default_rng(seed)
        shapes = [(vocabulary, width), (length, width), (width, width), (width, vocabulary), (vocabulary,)]
        weights = cls(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))
        weights.query[:] *= 0.3
        weights.bias[end_id] += end_bias
        return weights


jax.tree_util.register_dataclass(Weights)


def empty_cache(weights: Weights, batch: int) -> jax.Array:
    """What the model remembers: the embedded tokens so far, f32[batch, beams, length, width]."""
    return jnp.zeros((batch, 1, *weights.position.shape))


def reorder(cache: jax.Array, ancestors: jax.Array) -> jax.Array:
    """The model's `Reorder`."""
    return jnp.take_along_axis(cache, ancestors[:, :, None, None], axis=1)


def make_next_logits(weights: Weights):
    """The model as `NextLogits`; its context is the picture, f32[batch, width]."""

    def next_logits(tokens, position, cache, image):
        embedded = jnp.asarray(weights.embedding)[tokens] * jnp.asarray(weights.position)[position]
        cache = cache.at[:, :, position].set(embedded)
        attention = jnp.einsum("brd,de,brle->brl", embedded, weights.query, cache)
        attention = jnp.where(jnp.arange(cache.shape[2]) <= position, attention, -jnp.inf)
        hidden = jnp.einsum("brl,brld->brd", jax.nn.softmax(attention), cache) + image[:, None]
        return jnp.tanh(hidden) @ weights.head + weights.bias, cache

    return next_logits


def generate_arguments(config: DecodingConfig, end_id: int, pad_id: int) -> dict:
    """The settings as transformers' `generate` takes them."""
    names = "num_beams max_length no_repeat_ngram_size length_penalty early_stopping num_return_sequences min_length"
    return {
        **{name: getattr(config, name) for name in (*names.split(), "repetition_penalty", "do_sample")},
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "output_scores": True,
        "return_dict_in_generate": True,
    }


def make_torch_model(weights: Weights):
    """The model as transformers knows it: full pass over all tokens, no cache."""
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class ToyModel(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self):
            super().__init__(PretrainedConfig(vocab_size=len(weights.bias), is_encoder_decoder=False))
            self.weight = torch.nn.Parameter(torch.zeros(1))  # transformers asks a parameter for the device

        def prepare_inputs_for_generation(self, input_ids, image=None, **kwargs):
            return {"input_ids": input_ids, "image": image}

        def forward(self, input_ids, image, return_dict=True):
            embedding, position, query, head, bias = (
                torch.from_numpy(w)
                for w in (weights.embedding, weights.position, weights.query, weights.head, weights.bias)
            )
            keys = embedding[input_ids] * position[: input_ids.shape[1]]
            attention = torch.softmax(torch.einsum("rd,de,rle->rl", keys[:, -1], query, keys), dim=-1)
            hidden = torch.einsum("rl,rld->rd", attention, keys) + image
            return CausalLMOutput(logits=(torch.tanh(hidden) @ head + bias)[:, None])

    return ToyModel().eval()
