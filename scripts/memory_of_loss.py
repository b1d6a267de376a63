"""XLA's temporaries of a training step and of its output layer, with all logits at once and with them in chunks.

    python scripts/memory_of_loss.py [--device h100] [--batch-size 64] [--captions 5] [--dtype bfloat16] [--remat both]

The step is that of configs/coco_b4_gpt2.py, compiled and not run; neither data, nor weights, nor a card need be there.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.fitting.compiling import absent_devices, compile_step
from dualcap_jax.fitting.config import Dtype, Remat, with_remat
from dualcap_jax.fitting.devices import DEVICES
from dualcap_jax.fitting.steps import Step, training_step
from dualcap_jax.ops.cross_entropy import fused_cross_entropy
from dualcap_jax.training.objectives import cross_entropy
from dualcap_jax.training.sharding import make_mesh

Loss = Callable[..., tuple[jax.Array, jax.Array]]


def all_at_once(
    hidden: jax.Array, embedding: jax.Array, labels: jax.Array, weights: jax.Array, *_: float
) -> tuple[jax.Array, jax.Array]:
    """`fused_cross_entropy` as it would be written without chunks, by optax, for labels that are not smoothed."""
    logits = jnp.einsum("...w,vw->...v", hidden, embedding.astype(hidden.dtype), preferred_element_type=jnp.float32)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(weights * nll), nll


def step_temporaries(loss: Loss, config: ExperimentConfig, mesh: Mesh, batch_size: int) -> int:
    """Bytes, of the whole step."""
    with patch.object(cross_entropy, "fused_cross_entropy", loss):
        return compile_step(training_step(config, mesh, batch_size)).temporaries


def layer_temporaries(loss: Loss, config: ExperimentConfig, mesh: Mesh, shape: tuple[int, ...]) -> int:
    """Bytes, of the loss of places of that shape with its gradients by hidden states and embedding."""
    language, there = config.model.language, NamedSharding(mesh, PartitionSpec())

    def array(dtype: DTypeLike, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=there)

    hidden = array(config.model.dtype, *shape, language.width)
    embedding = array(jnp.float32, language.vocab_size, language.width)
    gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    given = embedding, array(jnp.int32, *shape), array(jnp.float32, *shape)
    return compile_step(Step("output layer", gradients, hidden, given)).temporaries


def main(arguments: Sequence[str]) -> int:
    """Compile and print; returns the exit code."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", *DEVICES], help="the card to compile for")
    parser.add_argument("--batch-size", type=int, default=8, help="images")
    parser.add_argument("--captions", type=int, default=5, help="captions of each image")
    parser.add_argument("--dtype", default="float32", choices=get_args(Dtype), help="computed in")
    parser.add_argument("--remat", default="none", choices=get_args(Remat), help="what is computed again")
    args = parser.parse_args(arguments)
    for name in ("batch_size", "captions"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    config = load_experiment(Path(__file__).parents[1] / "configs" / "coco_b4_gpt2.py")
    model = replace(with_remat(config.model, args.remat), dtype=args.dtype)
    config = replace(config, model=model, data=replace(config.data, captions_per_image=args.captions))
    mesh = make_mesh(config.sharding, 1, 1, absent_devices(args.device, 1))
    shape = args.batch_size, args.captions, config.data.max_length - 1
    print(f"{args.device}, {args.dtype}, {args.batch_size} images, {args.captions} captions, {prod(shape):,} places")
    losses: dict[str, Loss] = {"all logits at once": all_at_once, "in chunks": fused_cross_entropy}
    for name, loss in losses.items():
        layer = layer_temporaries(loss, config, mesh, shape) / 2**20
        step = step_temporaries(loss, config, mesh, args.batch_size) / 2**30
        print(f"{name:18}  output layer {layer:7,.0f} MiB   step {step:6.2f} GiB", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
