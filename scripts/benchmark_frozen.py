"""Time training with a frozen encoder against PyTorch, in captions a second, alternated in one run.

    python scripts/benchmark_frozen.py DIR [--config configs/flickr8k.py] [--repeats 5] [--steps 8]

DIR is the data root. Three sides train the experiment's network, each in a process of its own that waits while the
others work:

    ours    features kept, captions packed, all captions of an image in one example
    cached  PyTorch: features kept, captions padded to data.max_length
    peer    PyTorch, as the original: each pair of image and caption encodes its image, captions padded

All begin with the same weights. Their losses on the same images and captions, without dropout, are compared before
anything is timed. Reading and decoding images is left out: the batches lie in memory.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dualcap_jax import cli

Step = Callable[[dict[str, np.ndarray]], Any]
"""Trains on a batch; the last of several is waited for by `float`."""

CONFIG = Path(__file__).parents[1] / "configs" / "flickr8k.py"


def build(side: str, args: argparse.Namespace) -> tuple[list[dict[str, np.ndarray]], float, Step]:
    """A side's batches, its loss on the first without dropout, and its training step."""
    import jax
    import jax.numpy as jnp

    from dualcap_jax.config import load_experiment
    from dualcap_jax.data.pipeline import train_iterator
    from dualcap_jax.data.sources import open_source
    from dualcap_jax.encoding import features_of
    from dualcap_jax.pretrained.load import load_pretrained
    from dualcap_jax.resolving import as_published, make_tokenizer, with_vocabulary
    from dualcap_jax.training.objectives.cross_entropy import cross_entropy
    from dualcap_jax.training.packing import plan_training
    from dualcap_jax.training.state import init_state
    from dualcap_jax.training.step import make_eval_step, make_train_step

    config = as_published(load_experiment(args.config))
    config = replace(config, data=replace(config.data, root=args.root))
    source, training = open_source(config.data, "train"), config.training
    tokenizer = make_tokenizer(config, source)
    config = with_vocabulary(config, tokenizer.vocab_size)
    model, _ = load_pretrained(config.model, 0)
    stream = train_iterator(source, tokenizer, config.data, training.batch_size, 0)
    batches = [next(stream) for _ in range(args.batches)]
    if side != "peer":
        for batch in batches:
            batch |= jax.device_get(features_of(config.model, model, batch.pop("image")))
            for name in ("vector", "maps_32"):
                batch[name] = batch[name].astype(np.float16)
    if side != "ours":
        import torch
        from torch_frozen_peer import Peer

        peer = Peer(config, model, tokenizer, side == "cached")
        peer.trained.eval()
        with torch.no_grad():
            first = peer.loss(batches[0]).item()
        peer.trained.train()
        return batches, first, peer.step

    packer, _ = plan_training(source, tokenizer, config.data, training, config.model.merger)
    batches = [packer(batch) for batch in batches]
    objective = cross_entropy(training.loss, training.freeze, training.label_smoothing)
    sums = make_eval_step(config.model, objective)(model, batches[0])
    first = float(sums[objective.minimised] / sums["tokens"])
    state, train = init_state(model, training, config.model.dtype), make_train_step(config.model, training, objective)

    def step(batch: dict[str, np.ndarray]) -> jnp.ndarray:
        nonlocal state
        state, metrics = train(state, batch)
        return metrics["loss"]

    return batches, first, step


def serve(connection: Connection, side: str, args: argparse.Namespace) -> None:
    """Train for `args.steps` steps whenever asked; answer with the seconds."""
    batches, first, step = build(side, args)
    float(step(batches[0]))
    connection.send(first)
    while connection.recv():
        began = time.perf_counter()
        for number in range(args.steps):
            last = step(batches[number % len(batches)])
        float(last)
        connection.send((time.perf_counter() - began, batches[0]["image_id"].size))


def main(arguments: Sequence[str]) -> int:
    """Alternate the three sides."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", help="directory of images and captions")
    parser.add_argument(
        "--config", default=str(CONFIG), help="experiment file, of an encoder Lite0 to Lite2 and the merger attention"
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=8, help="training steps of a turn")
    parser.add_argument("--batches", type=int, default=4, help="batches that are gone through in turn")
    parser.add_argument("--sides", nargs="+", default=["ours", "cached", "peer"])
    args = parser.parse_args(arguments)

    context, sides, losses = get_context("spawn"), {}, {}
    for side in args.sides:
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, side, args), daemon=True).start()
        there.close()  # so that the end of a side is noticed
        sides[side], losses[side] = here, here.recv()
    print("losses of the same weights:", ", ".join(f"{side} {loss:.5f}" for side, loss in losses.items()))
    if max(losses.values()) - min(losses.values()) > 1e-3 * max(losses.values()):
        print("they differ: this is not one network, and nothing is timed")
        return 1

    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(args.repeats + 1):  # the first, in which pages come back, is not counted
        for side, connection in sides.items():
            connection.send(True)
            took, images = connection.recv()
            if turn:
                seconds[side].append(took / args.steps)
    for side, connection in sides.items():
        connection.send(False)
        print(f"{side}: {images / statistics.median(seconds[side]):.1f} images a second")
    for side in list(sides)[1:]:
        ratios = [theirs / ours for theirs, ours in zip(seconds[side], seconds[args.sides[0]], strict=True)]
        print(
            f"{args.sides[0]} is {statistics.median(ratios):.2f} times as fast as {side} ({min(ratios):.2f} to "
            f"{max(ratios):.2f}, {len(ratios)} pairs)"
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
