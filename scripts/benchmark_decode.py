"""Time decoding with a trained run against transformers' `generate` with the same weights and images, alternated.

    python scripts/benchmark_decode.py RUN [--as-gpt2-small] [--cases 5x8 5x64] [--repeats 3] [--figure rows.png]

A case is beams x batch. Both sides get the same encoded images (encoding is not timed) and must give the same captions.
Prints for each case: captions found to differ; images a second of both; our time over the peer's, median and range of
alternated pairs, the second of two calls in each turn; what the peer's arithmetic alone would allow at the rate of this
machine's matrix product; the share of the language model's rows that shared prefixes and finished images save, which
the figure shows step by step; and the memory that our search needs beside the weights, as XLA
planned it. As in our commands, glibc keeps freed memory, by which the peer gains too. Where JAX and PyTorch both have a
GPU, both sides run on it, with products in TF32.

`--as-gpt2-small` widens the run's network to GPT-2 small's size (768 x 12, 50,257 tokens, the merger's published
widths) without changing what it says: a network of the real size whose language is as sure as a trained one's.
"""

from dualcap_jax import Captioner, cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.stages import Compiled
from jax.stages import Wrapped as JitWrapped
from jaxtyping import Array
from matplotlib.figure import Figure
from torch_peer import Looking, TorchCaptioner
from transformers import GPT2Config as TorchGPT2Config

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.sources import open_source
from dualcap_jax.decoding import Decoded, DecodingConfig, DecodingModel, Rules, beam_search
from dualcap_jax.encoding import features_of
from dualcap_jax.models import variables
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables, bind
from dualcap_jax.pretrained.gpt2 import table as gpt2_table
from dualcap_jax.pretrained.original import original_table
from dualcap_jax.pretrained.tables import export


def widened(config: ExperimentConfig, model: dict) -> tuple[ExperimentConfig, dict]:
    """The run's network at GPT-2 small's size with the same captions (Chen et al. 2016, Net2Net).

    Each channel of the residual stream is repeated, which no layer norm notices; new heads, units and layers add zero.
    The added tokens are copies of one that captions never hold.
    """
    small = config.model.language
    assert isinstance(small, GPT2Config)
    repeats, rest = divmod(768, small.width)
    if rest:
        raise SystemExit(f"--as-gpt2-small: the run's width {small.width} does not divide 768")
    language = replace(small, vocab_size=50257, width=768, layers=12, heads=12)
    merger = replace(config.model.merger, hidden=())
    large = replace(config, model=replace(config.model, language=language, merger=merger))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables.shapes(large.model)["params"])
    old, new = jax.device_get(model["params"]), params["language"]
    features = model["batch_stats"]["image_mean"].size

    def fill(target: np.ndarray, value: np.ndarray) -> None:
        target[tuple(map(slice, value.shape))] = value

    def heads(x: np.ndarray) -> np.ndarray:
        """[3 * width, ...] or [width, ...], head by head into the first of 12 heads of 64."""
        parts = x.reshape(-1, small.heads, small.width // small.heads, *x.shape[1:])
        wide = np.zeros((len(parts), 12, 64, *x.shape[1:]), np.float32)
        wide[:, : small.heads, : parts.shape[2]] = parts
        return wide.reshape(-1, *x.shape[1:])

    tile = partial(np.tile, reps=repeats)
    for name in ("token_embedding", "position_embedding"):
        fill(new[name], np.tile(old["language"][name], (1, repeats)))
    unused = np.argmin(old["language"]["token_embedding"] @ old["language"]["final_norm"]["bias"])
    new["token_embedding"][small.vocab_size :] = new["token_embedding"][unused]
    for part in ("scale", "bias"):  # the logits sum over the repeated channels
        new["final_norm"][part][:] = tile(old["language"]["final_norm"][part]) / repeats
    for wide in new["blocks"].values():
        wide["attention_norm"]["scale"][:] = wide["mlp_norm"]["scale"][:] = 1
    scale = np.repeat([(64 / (small.width // small.heads)) ** 0.5, 1, 1], small.width)
    for index, block in old["language"]["blocks"].items():
        wide, attention = new["blocks"][index], block["attention"]
        for norm in ("attention_norm", "mlp_norm"):
            for part in ("scale", "bias"):
                wide[norm][part][:] = tile(block[norm][part])
        inputs = np.tile(attention["qkv"]["kernel"], (1, repeats)) / repeats
        wide["attention"]["qkv"]["kernel"][:] = heads(inputs * scale[:, None])
        wide["attention"]["qkv"]["bias"][:] = heads(attention["qkv"]["bias"] * scale)
        outputs = np.tile(attention["project"]["kernel"], (repeats, 1))
        wide["attention"]["project"]["kernel"][:] = heads(outputs.T).T
        wide["attention"]["project"]["bias"][:] = tile(attention["project"]["bias"])
        fill(wide["mlp_expand"]["kernel"], np.tile(block["mlp_expand"]["kernel"], (1, repeats)) / repeats)
        fill(wide["mlp_expand"]["bias"], block["mlp_expand"]["bias"])
        fill(wide["mlp_project"]["kernel"], np.tile(block["mlp_project"]["kernel"], (repeats, 1)))
        wide["mlp_project"]["bias"][:] = tile(block["mlp_project"]["bias"])
    for index, unit in old["merger"].items():
        wide, kernel, seen = params["merger"][index], unit["encoder"]["kernel"], features if index == "first" else 0
        fill(wide["encoder"]["kernel"], np.concatenate([kernel[:seen], np.tile(kernel[seen:], (repeats, 1))]))
        fill(wide["encoder"]["bias"], unit["encoder"]["bias"])
        fill(wide["decoder"]["kernel"], np.tile(unit["decoder"]["kernel"], (1, repeats)) / repeats)
        wide["decoder"]["bias"][:] = tile(unit["decoder"]["bias"]) / repeats
    return large, {**model, "params": {**params, "encoder": old["encoder"]}}


def peer_of(config: ExperimentConfig, model: dict) -> Any:  # generate's annotations fit no class of one's own
    """The PyTorch peer's language model and merger with our weights; its encoder is not used."""
    language = config.model.language
    assert isinstance(language, GPT2Config)
    end = language.vocab_size - 1
    shape = TorchGPT2Config(
        vocab_size=language.vocab_size,
        n_positions=language.max_positions,
        n_embd=language.width,
        n_layer=language.layers,
        n_head=language.heads,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    features, merger = model["batch_stats"]["image_mean"].size, model["params"]["merger"]
    scale = language.embedding_scale
    if config.model.merger.kind == "attention":
        looking = Looking(merger, config.model.merger.heads, stats=model["batch_stats"].get("merger"))
        peer = TorchCaptioner(shape, None, looking=looking, embedding_scale=scale).eval()
        weights = export(gpt2_table(language, "transformer."), {"params": model["params"]["language"]})
    else:
        hidden = len(merger["first"]["encoder"]["bias"]), len(merger["second"]["encoder"]["bias"])
        peer = TorchCaptioner(shape, None, embedding_scale=scale, features=features, hidden=hidden).eval()
        named = export(original_table(config.model), model).items()
        weights = {name if name.startswith("transformer.") else f"merger.{name}": value for name, value in named}
    tensors = {name: torch.tensor(value) for name, value in weights.items() if not name.startswith("merger.efficient.")}
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    missing, unexpected = peer.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.startswith("merger.") for name in missing)  # of Looking, which has its weights
    return peer


def what_both_see(captioner: Captioner, images: np.ndarray) -> tuple[Image, dict[str, np.ndarray]]:
    """Of images, what our search takes, and what the peer's does: vectors, or these and places of feature maps."""
    parts = np.array_split(images, -(-len(images) // 16))
    ours = jax.tree.map(lambda *leaves: np.concatenate(leaves), *map(captioner.encode, parts))
    if captioner.config.model.merger.kind == "skip_mlp":
        return ours, {"image_features": ours}
    found = [features_of(captioner.config.model, captioner.model, part) for part in parts]
    (maps,) = (name for name in found[0] if name != "vector")
    places, vectors = (np.concatenate([part[name] for part in found]) for name in (maps, "vector"))
    return ours, {"image_features": places.reshape(len(places), -1, places.shape[-1]), "image_vectors": vectors}


def unknown_to_peer(config: ModelConfig) -> str:
    """Why the peer lacks a network's merger; empty where it has it."""
    merger = config.merger
    if merger.kind not in ("skip_mlp", "attention"):
        return f"its merger is {merger.kind}, the peer has skip_mlp and attention alone"
    simple = merger.kind == "skip_mlp" or merger.rounds == len(merger.strides) == 1
    return "" if simple else "the peer's attention asks once, at one stride"


def our_search(
    config: ModelConfig, settings: DecodingConfig, end: int, report: Callable[[int, int], None] | None = None
) -> JitWrapped:
    """Our search as a function of model and image vectors; `report` is given the number of rows of each step."""

    @jax.jit
    def search(model: Variables, features: Image) -> Decoded:
        network, batch = bind(config, model), len(jax.tree.leaves(features)[0])

        def next_logits(tokens: Array, position: Array, cache: Any, image: Image) -> tuple[Array, Any]:
            logits, cache = network.next_logits(tokens, position, cache, image)
            if report is not None:
                jax.debug.callback(report, position, cache["language"].rows.max() + 1)
            return logits, cache

        cache = network.init_cache(batch, settings.num_beams, settings.max_length)
        decoding = DecodingModel(next_logits, network.reorder_cache, cache, features)
        return beam_search(decoding, jnp.full((batch, 1), end, jnp.int32), Rules(settings, end, end))

    return search


def matrix_product_rate(place: str) -> float:
    """FLOP a second of the better of the two libraries at a large product, now."""
    x = np.random.default_rng(0).standard_normal((1024, 3072), np.float32)
    y, z, product = torch.from_numpy(x).to(place), jax.device_put(x), jax.jit(lambda x: x @ x.T)

    @torch.inference_mode()
    def theirs() -> None:
        y @ y.T
        if place == "cuda":
            torch.cuda.synchronize()

    best = min(_seconds(job) for _ in range(10) for job in (lambda: jax.block_until_ready(product(z)), theirs))
    return 2 * 1024 * 1024 * 3072 / best


def _seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def _second_call(job: Callable[[], object]) -> float:
    """Seconds that the second of two calls takes: the kernel may have reclaimed pages of a side that waited."""
    job()
    return _seconds(job)


def _case(text: str) -> tuple[int, int]:
    """Beams and batch of such as 5x8."""
    if not re.fullmatch("[1-9][0-9]*x[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text}: must be beams x batch, such as 5x8")
    beams, batch = map(int, text.split("x"))
    return beams, batch


def main(arguments: Sequence[str]) -> int:
    """Time each case."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", help="a run with the merger skip_mlp, such as the embedded default, or attention")
    parser.add_argument("--split", default="test", help="whose images are captioned: train, validation or test")
    parser.add_argument("--as-gpt2-small", action="store_true")
    cases = ["1x1", "1x8", "1x64", "5x1", "5x8", "5x64", "64x1", "64x8", "256x1"]
    parser.add_argument("--cases", nargs="+", type=_case, default=list(map(_case, cases)), metavar="BEAMSxBATCH")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--figure", help="PNG file: share of rows saved, step by step")
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: must be at least 1")

    captioner = Captioner.load(args.workdir)
    if unknown := unknown_to_peer(captioner.config.model):
        parser.error(f"{args.workdir}: {unknown}")
    if args.as_gpt2_small and captioner.config.model.merger.kind != "skip_mlp":
        parser.error(f"{args.workdir}: --as-gpt2-small widens a network with skip_mlp alone")
    end, source = captioner.tokenizer.end_id, open_source(captioner.config.data, args.split)
    needed = max(batch for _, batch in args.cases)
    if needed > len(source):
        parser.error(f"--cases: a batch of {needed}, but the split {args.split} has {len(source)} images")
    images = np.stack([source.transform.decode(source[index].read_image()) for index in range(needed)])
    features, peer_features = what_both_see(captioner, images)
    config, model = captioner.config, captioner.model
    if args.as_gpt2_small:
        config, model = widened(config, model)
    place = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high" if place == "cuda" else "highest")  # as XLA takes them there
    peer, model = peer_of(config, model).to(place), jax.device_put(model)

    language = config.model.language
    assert isinstance(language, GPT2Config)
    row = 24 * language.layers * language.width**2  # FLOP of the language model's products, one row, one step
    merger = sum(leaf.size for leaf in jax.tree.leaves(model["params"]["merger"]))
    own = 2 * (merger + language.vocab_size * language.width)  # of what each hypothesis has to itself
    rate = matrix_product_rate(place)
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s; a row {row / 1e6:.0f} + {own / 1e6:.0f} MFLOP a step")

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for beams, batch in args.cases:
        settings = replace(config.decoding, num_beams=beams, num_return_sequences=1)
        rows: dict[int, int] = {}

        def count(position: int, number: int, rows: dict[int, int] = rows) -> None:
            rows[int(position)] = int(number)

        some = jax.tree.map(lambda leaf, batch=batch: leaf[:batch], features)
        jax.block_until_ready(our_search(config.model, settings, end, count)(model, some))
        jax.effects_barrier()
        began = time.perf_counter()
        search = our_search(config.model, settings, end).lower(model, some).compile()
        compiling, planned = time.perf_counter() - began, search.memory_analysis()
        memory = planned.temp_size_in_bytes if planned else float("nan")  # not all backends tell
        start = torch.full((batch, 1), end, device=place)
        seen = {name: torch.from_numpy(values[:batch]).to(place) for name, values in peer_features.items()}

        @torch.inference_mode()
        def generate(
            start: torch.Tensor = start, seen: dict = seen, settings: DecodingConfig = settings
        ) -> torch.Tensor:
            found = peer.generate(
                start,
                **seen,
                attention_mask=torch.ones_like(start),
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
                **{
                    name: getattr(settings, name)
                    for name in ("num_beams", "max_length", "no_repeat_ngram_size", "length_penalty", "early_stopping")
                },
            )
            return found.cpu()

        def ours(search: Compiled = search, some: Image = some) -> Decoded:
            return jax.block_until_ready(search(model, some))

        found, theirs = np.array(ours().tokens[:, 0]), generate().numpy()
        theirs = np.pad(theirs, ((0, 0), (0, found.shape[1] - theirs.shape[1])), constant_values=end)
        differing = int((found != theirs).any(1).sum())
        pairs = [(_second_call(ours), _second_call(generate)) for _ in range(args.repeats)]
        ratios = [mine / other for mine, other in pairs]
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        peers = [batch * (beams if at else 1) for at in range(len(rows))]  # the first step is of one each
        saved = [100 * (1 - rows[at] / all_rows) for at, all_rows in enumerate(peers)]
        bound = sum(peers) * (row + own) / rate
        print(
            f"beams {beams}, batch {batch}: {differing} captions differ, ours {batch / mine:.2f}, "
            f"peer {batch / other:.2f} images/s, ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
            f"{max(ratios):.2f}); peer's arithmetic alone {batch / bound:.2f} images/s; {len(rows)} steps, "
            f"{1 - sum(rows.values()) / sum(peers):.0%} of the rows saved (by step: "
            f"{' '.join(f'{share:.0f}' for share in saved)}); {memory / 2**20:.0f} MiB beside the weights; compiling "
            f"{compiling:.0f} s",
            flush=True,
        )
        axes.plot(saved, marker="o", label=f"{beams} x {batch}")
    if args.figure:
        axes.set(xlabel="step", ylabel="language model's rows saved, %", ylim=(0, 100))
        axes.legend(title="beams x images", frameon=False)
        axes.grid(alpha=0.25)
        figure.savefig(args.figure, dpi=130)
    return 0


if __name__ == "__main__":
    cli.run(main)
