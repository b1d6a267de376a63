"""Peak memory and saved residuals of a full-size training step, by what is rematerialised.

    python scripts/memory.py [--encoder b4] [--image-size 380] [--batch-size 8] [--captions 1] [--traced]

Residuals are the arrays that the forward pass keeps for the backward one; peak memory is the process's, each setting in
a process of its own, and XLA's own figure for the temporaries of the compiled step. With --traced the residuals alone,
which takes seconds.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

EncoderRemat = Literal["none", "blocks", "convolutions"]
LanguageRemat = Literal["none", "blocks", "products"]
SETTINGS: list[tuple[EncoderRemat, LanguageRemat]] = [
    ("none", "none"),
    ("none", "products"),
    ("none", "blocks"),
    ("convolutions", "none"),
    ("blocks", "none"),
    ("convolutions", "products"),
    ("convolutions", "blocks"),
    ("blocks", "blocks"),
]


def measure(
    args: argparse.Namespace, encoder_remat: EncoderRemat, language_remat: LanguageRemat
) -> tuple[int, float, float, float]:
    """Residuals, their GiB, XLA's temporaries in GiB and the process's peak in GiB, of one setting."""
    import jax
    import jax.numpy as jnp

    from dualcap_jax.config import load_experiment
    from dualcap_jax.models import variables
    from dualcap_jax.models.encoders import EfficientNetConfig
    from dualcap_jax.training.objectives.cross_entropy import caption_sums, cross_entropy
    from dualcap_jax.training.state import init_state
    from dualcap_jax.training.step import make_train_step

    config = load_experiment(Path(__file__).parents[1] / "configs" / "coco_b4_gpt2.py")
    model = replace(
        config.model,
        encoder=EfficientNetConfig(args.encoder, remat=encoder_remat),
        language=replace(config.model.language, remat=language_remat),
    )
    batch = {
        "image": jnp.zeros((args.batch_size, args.image_size, args.image_size, 3), jnp.uint8),
        "tokens": jnp.zeros((args.batch_size, args.captions, 36), jnp.int32),
        "mask": jnp.ones((args.batch_size, args.captions, 36), bool),
    }

    def backward(tree: dict) -> object:
        def loss(params: dict) -> jax.Array:
            network = variables.bind(model, tree | {"params": params})
            return caption_sums(network, batch, jax.random.key(0))["nll"]

        return jax.vjp(loss, tree["params"])[1]  # a pytree that holds the residuals

    shapes = variables.shapes(model)
    kept = jax.tree.leaves(jax.eval_shape(backward, shapes))
    params = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    residuals = sum(leaf.size * leaf.dtype.itemsize for leaf in kept) - params
    if args.traced:
        return len(kept), residuals / 2**30, float("nan"), float("nan")
    state = init_state(variables.init(model, 0), config.training, model.dtype)
    step = make_train_step(model, config.training, cross_entropy(config.training.loss))
    analysis = step.compiled.lower(state, step.place(batch)).compile().memory_analysis()
    temporaries = analysis.temp_size_in_bytes if analysis else float("nan")  # not all backends tell
    for _ in range(2):
        state, _ = jax.block_until_ready(step(state, batch))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return len(kept), residuals / 2**30, temporaries / 2**30, peak


def main(arguments: Sequence[str]) -> int:
    """Print a table of the settings."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="b4", help="b0 to b7")
    parser.add_argument("--image-size", type=int, default=380)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--captions", type=int, default=1, help="of each image")
    parser.add_argument("--traced", action="store_true", help="print the residuals alone")
    args = parser.parse_args(arguments)
    context = get_context("spawn")
    print("encoder       language  arrays kept  residuals GiB  XLA temporaries GiB  peak of process GiB")
    for encoder, language in SETTINGS:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            count, residuals, temporaries, peak = pool.submit(measure, args, encoder, language).result()
        print(f"{encoder:13} {language:9} {count:11,} {residuals:14.2f} {temporaries:20.2f} {peak:20.2f}", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
