"""Time encoding, a training step and decoding against the PyTorch peer, alternated in one run.

    python scripts/benchmark.py [--encoder b4] [--image-size 380] [--batch-size 8] [--repeats 5] [--jobs encode train]

Each side lives in a process of its own and waits while the other works. The system may take a waiting process's pages,
so that each turn is two calls, of which the second is timed. Prints the seconds (medians) and peak memory of both, and
ends with a line a job: our time over the peer's. The network is the original's at full size with random
weights: EfficientNet-B4, GPT-2 small, the skip-MLP merger; 36 tokens, decoding with 5 beams to 20 tokens.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path


def our_jobs(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """The three jobs on our side, each a function that waits for its result."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    import numpy as np

    from dualcap_jax import inference
    from dualcap_jax.config import load_experiment
    from dualcap_jax.decoding import Rules
    from dualcap_jax.models import variables
    from dualcap_jax.models.encoders import EfficientNetConfig
    from dualcap_jax.training.objectives.cross_entropy import cross_entropy
    from dualcap_jax.training.state import init_state
    from dualcap_jax.training.step import make_train_step

    config = load_experiment(Path(__file__).parents[1] / "configs" / "coco_b4_gpt2.py")
    encoder = EfficientNetConfig(args.encoder, remat=args.remat)
    language = replace(config.model.language, remat="none" if args.remat == "none" else "blocks")
    model = replace(config.model, encoder=encoder, language=language, dtype=args.dtype)
    state = init_state(variables.init(model, 0), config.training, model.dtype)
    train_step = make_train_step(model, config.training, cross_entropy(config.training.loss))
    rng = np.random.default_rng(0)
    shape = (args.batch_size, args.image_size, args.image_size, 3)
    batch = jax.device_put(
        {
            "image": rng.integers(0, 256, shape, np.uint8),
            "tokens": rng.integers(0, language.vocab_size, (args.batch_size, 1, 36)).astype(np.int32),
            "mask": np.ones((args.batch_size, 1, 36), bool),
        }
    )
    features = jnp.asarray(rng.standard_normal((args.batch_size, 1000)), jnp.float32)
    end = language.vocab_size - 1

    rules, keys = Rules(config.decoding, end, end), jax.random.split(jax.random.key(0), args.batch_size)

    def train() -> None:
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))

    return {
        "encode": lambda: jax.block_until_ready(inference.encode(model, state["model"], batch["image"])),
        "train": train,
        "decode": lambda: jax.block_until_ready(
            inference.search(model, state["model"], features, jnp.array([end]), keys, rules)
        ),
    }


def peer_jobs(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """The same jobs in PyTorch."""
    import torch
    from torch_peer import Jobs, build

    if args.threads:
        torch.set_num_threads(args.threads)
    jobs = Jobs(build(args.encoder, args.image_size, args.peer_remat), args.batch_size, args.image_size)
    return {name: getattr(jobs, name) for name in ("encode", "train", "decode")}


def serve(connection: Connection, side: str, args: argparse.Namespace) -> None:
    """Do each job that is asked for twice; answer with both times in seconds and the peak memory so far in GiB."""
    jobs = our_jobs(args) if side == "ours" else peer_jobs(args)
    while (name := connection.recv()) is not None:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            jobs[name]()
            seconds.append(time.perf_counter() - began)
        connection.send((*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def main(arguments: Sequence[str]) -> int:
    """Alternate the two sides, job by job."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="b4", help="b0 to b7")
    parser.add_argument("--image-size", type=int, default=380)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side at each job")
    parser.add_argument("--jobs", nargs="+", default=["encode", "train", "decode"])
    kinds = ["none", "convolutions", "blocks"]
    parser.add_argument("--remat", default="none", choices=kinds, help="what we recompute of the encoder in training")
    parser.add_argument("--peer-remat", action="store_true", help="let the peer recompute its blocks")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="our computation's")
    parser.add_argument("--threads", type=int, default=0, help="the peer's; 0: its own choice")
    args = parser.parse_args(arguments)

    context, sides = get_context("spawn"), {}
    for side in ("ours", "peer"):
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, side, args), daemon=True).start()
        sides[side] = here

    ratios = {}
    for job in args.jobs:
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        first: dict[str, float] = {}
        memory: dict[str, float] = {}
        for _ in range(args.repeats):
            for side, connection in sides.items():
                connection.send(job)
                warm_up, took, memory[side] = connection.recv()
                first.setdefault(side, warm_up)
                seconds[side].append(took)
        medians = {side: statistics.median(values) for side, values in seconds.items()}
        pairs = [ours / peer for ours, peer in zip(seconds["ours"], seconds["peer"], strict=True)]
        ratios[job] = statistics.median(pairs)
        print(
            f"{job}: ours {medians['ours']:.3f} s (first call {first['ours']:.1f} s), peer {medians['peer']:.3f} s, "
            f"ratio {min(pairs):.2f} to {max(pairs):.2f} over {len(pairs)} pairs; "
            f"peak memory so far {memory['ours']:.1f} and {memory['peer']:.1f} GiB",
            flush=True,
        )
    for connection in sides.values():
        connection.send(None)
    for job, ratio in ratios.items():
        print(f"{job} {ratio:.2f}")
    return 0


if __name__ == "__main__":
    cli.run(main)
