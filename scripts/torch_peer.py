"""The original system in PyTorch, as one would build it today: the peer that this project is measured against.

efficientnet_pytorch, transformers' GPT-2 and `generate`, and the skip-MLP merger, with random weights. Needs the
`test` extra. Run alone it times one job and prints a line of JSON:

    python scripts/torch_peer.py {encode,train,decode} [--encoder b4] [--image-size 380] [--batch-size 8] [--remat]
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from efficientnet_pytorch import EfficientNet
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

END = 50256
LENGTH = 36


class Encoder(EfficientNet):
    """EfficientNet whose blocks can be rematerialised in training."""

    remat = False

    def extract_features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Images -> the last feature map."""
        x = self._swish(self._bn0(self._conv_stem(inputs)))
        for index, block in enumerate(self._blocks):
            rate = self._global_params.drop_connect_rate * index / len(self._blocks)
            if self.remat and self.training:
                x = checkpoint(block, x, rate, use_reentrant=False)
            else:
                x = block(x, drop_connect_rate=rate)
        return self._swish(self._bn1(self._conv_head(x)))


class Merger(nn.Module):
    """The original's merger: two skip connections around bottlenecks of 384 and 256."""

    def __init__(self, features: int = 1000, width: int = 768, hidden: tuple[int, int] = (384, 256)):
        super().__init__()
        self.encoder1, self.decoder1 = nn.Linear(features + width, hidden[0]), nn.Linear(hidden[0], width)
        self.encoder2, self.decoder2 = nn.Linear(width, hidden[1]), nn.Linear(hidden[1], width)
        for linear in (self.encoder1, self.decoder1, self.encoder2, self.decoder2):
            nn.init.xavier_normal_(linear.weight, gain=0.1)

    def forward(self, image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """[batch, features] and [batch, length, width] -> [batch, length, width]."""
        image = image[:, None].expand(-1, hidden.shape[1], -1)
        hidden = hidden + self.decoder1(torch.relu(self.encoder1(torch.cat([image, hidden], 2))))
        return hidden + self.decoder2(torch.relu(self.encoder2(hidden)))


class Standardize(nn.Module):
    """Each channel less its running mean, over its running deviation; `ours`: our statistics, none: not at all."""

    mean: torch.Tensor
    square: torch.Tensor
    batches: torch.Tensor

    def __init__(self, ours: dict[str, Any] | None, floor: float):
        super().__init__()
        self.floor, self.applies = floor, ours is not None
        for name, value in (ours or {}).items():
            self.register_buffer(name, torch.tensor(np.array(value)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., channels]; in training, the statistics are learnt first."""
        if not self.applies:
            return x
        if self.training:
            rate = torch.clamp(1 / (1 + self.batches), min=0.01)
            for stat, values in ((self.mean, x), (self.square, x**2)):
                stat += rate * (values.flatten(0, -2).mean(0) - stat)
            self.batches += 1
        deviation = torch.sqrt(torch.clamp(self.square - self.mean**2, min=0)) + self.floor
        return (x - self.mean) / deviation


class Looking(nn.Module):
    """The merger `attention` with one round and one stride: hidden states ask feature maps.

    Args:
        ours: parameters of our merger, nested dicts of arrays.
        heads: of the attention.
        dropout: of places, of what is read and of the hidden layers.
        stats: batch statistics of our merger, where it has some.
    """

    def __init__(self, ours: dict[str, Any], heads: int, dropout: float = 0.0, stats: dict[str, Any] | None = None):
        super().__init__()
        places, ask, mlp = ours["places"][0], ours["rounds"][0], ours["mlp"]
        channels, width = places["project"]["kernel"].shape
        features = len(mlp["first"]["encoder"]["kernel"]) - 2 * width
        self.vector_stats = Standardize(stats["standardize"] if stats else None, 0.02)
        self.map_stats = Standardize(stats["places"][0]["standardize"] if stats else None, 0.05)
        self.project, self.places_norm = nn.Linear(channels, width), nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.tensor(np.asarray(places["positions"])).flatten(0, 1))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        first, second = (len(mlp[name]["encoder"]["bias"]) for name in ("first", "second"))
        self.mlp = Merger(features + width, width, (first, second))
        _set(self.project, places["project"])
        _set(self.places_norm, places["norm"])
        _set(self.norm, ask["norm"])
        _set(self.attention.out_proj, ask["project"])
        layers = [ask[name] for name in ("query", "key", "value")]
        self.attention.in_proj_weight.data[:] = torch.tensor(np.concatenate([each["kernel"].T for each in layers]))
        self.attention.in_proj_bias.data[:] = torch.tensor(np.concatenate([each["bias"] for each in layers]))
        for number, name in (("1", "first"), ("2", "second")):
            for layer in ("encoder", "decoder"):
                _set(getattr(self.mlp, f"{layer}{number}"), mlp[name][layer])

    def forward(self, maps: torch.Tensor, hidden: torch.Tensor, vector: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, places, channels] and [batch, length, width] -> [batch, length, width]; no vector: the maps' mean."""
        vector = self.vector_stats(maps.mean(1) if vector is None else vector)
        places = self.dropout(self.places_norm(self.project(self.map_stats(maps))) + self.positions)
        read = self.dropout(self.attention(self.norm(hidden), places, places, need_weights=False)[0])
        seen = torch.cat([vector[:, None].expand(-1, hidden.shape[1], -1), hidden, read], 2)
        mlp = self.mlp
        hidden = hidden + read + self.dropout(mlp.decoder1(self.dropout(torch.relu(mlp.encoder1(seen)))))
        return hidden + self.dropout(mlp.decoder2(self.dropout(torch.relu(mlp.encoder2(hidden)))))


def _set(module: nn.Linear | nn.LayerNorm, ours: dict[str, Any]) -> None:
    """Give a layer our weights."""
    weight = np.asarray(ours["kernel"]).T if "kernel" in ours else np.asarray(ours["scale"])
    module.weight.data[:], module.bias.data[:] = torch.tensor(weight), torch.tensor(np.asarray(ours["bias"]))


def scale_embeddings(model: GPT2LMHeadModel, factor: float) -> None:
    """Scale the token embeddings where they enter the blocks."""
    if factor != 1:
        model.transformer.wte.register_forward_hook(lambda module, inputs, output: factor * output)


class TorchCaptioner(GPT2LMHeadModel):
    """GPT-2 whose last hidden state passes through the merger before the tied head."""

    def __init__(
        self,
        config: GPT2Config,
        encoder: str | None = "efficientnet-b4",
        image_size: int | None = None,
        looking: Looking | None = None,
        embedding_scale: float = 1.0,
        **merger: Any,
    ):
        super().__init__(config)
        scale_embeddings(self, embedding_scale)
        if encoder is not None:
            self.encoder = Encoder.from_name(encoder, image_size=image_size)
        self.merger: Merger | Looking = Merger(width=config.n_embd, **merger)
        self.post_init()
        if looking is not None:
            self.merger = looking

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_vectors: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Logits and the cache, as `generate` wants them; the vectors beside feature maps are for `Looking`."""
        # The cache's name among arguments and outputs is another from transformers 5.24 on.
        out = dict(self.transformer(input_ids=input_ids, **kwargs))
        vectors = () if image_vectors is None else (image_vectors,)
        logits = self.lm_head(self.merger(image_features, out.pop("last_hidden_state"), *vectors))
        return CausalLMOutputWithCrossAttentions(logits=logits, **out)


def build(encoder: str = "b4", image_size: int = 380, remat: bool = False) -> TorchCaptioner:
    """The original's network with random weights from seed 0."""
    torch.manual_seed(0)
    config = GPT2Config(bos_token_id=END, eos_token_id=END, pad_token_id=END)
    model = TorchCaptioner(config, f"efficientnet-{encoder}", image_size)
    model.encoder.remat = remat
    if remat:
        model.gradient_checkpointing_enable()
    return model


class Jobs:
    """One call of each job on the same random images and tokens; each waits for its result."""

    def __init__(self, model: TorchCaptioner, batch_size: int, image_size: int, beams: int = 5, length: int = 20):
        self.model: Any = model  # generate's annotations fit no class of one's own
        self.beams, self.length = beams, length
        self.images = torch.rand(batch_size, 3, image_size, image_size) * 2 - 1
        self.tokens = torch.randint(0, END + 1, (batch_size, LENGTH))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=3e-5)
        self.features = torch.randn(batch_size, 1000)

    def encode(self) -> None:
        """Image vectors."""
        self.model.eval()
        with torch.inference_mode():
            self.model.encoder(self.images)

    def train(self) -> float:
        """One step of Adam on the original's loss; returns the loss."""
        self.model.train()
        logits = self.model(self.tokens, image_features=self.model.encoder(self.images), use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), self.tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def decode(self) -> torch.Tensor:
        """Captions of image vectors by beam search as the original's: no bigram twice, early stopping."""
        self.model.eval()
        with torch.inference_mode():
            return self.model.generate(
                torch.full((len(self.features), 1), END),
                image_features=self.features,
                attention_mask=torch.ones(len(self.features), 1, dtype=torch.long),
                num_beams=self.beams,
                do_sample=False,
                no_repeat_ngram_size=2,
                early_stopping=True,
                max_length=self.length,
            )


def main() -> None:
    """Time one job."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("job", choices=["encode", "train", "decode"])
    parser.add_argument("--encoder", default="b4", help="b0 to b7")
    parser.add_argument("--image-size", type=int, default=380)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--remat", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    jobs = Jobs(build(args.encoder, args.image_size, args.remat), args.batch_size, args.image_size)
    seconds = []
    for _ in range(args.repeats + 1):
        began = time.perf_counter()
        getattr(jobs, args.job)()
        seconds.append(time.perf_counter() - began)
    median = sorted(seconds[1:])[len(seconds[1:]) // 2]
    print(json.dumps({"job": args.job, "median_s": round(median, 4), "first_s": round(seconds[0], 4)}))


if __name__ == "__main__":
    main()
