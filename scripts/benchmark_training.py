"""Time training steps on the device that is there, by batch size, precision and what is recomputed.

    python scripts/benchmark_training.py [--config configs/coco_b4_gpt2.py] [--batch-sizes 64 128 256]
        [--captions 1 5] [--dtypes bfloat16] [--remats none both] [--steps 20] [--coco 118287]

For each setting: images and captions a second, the share of the device's peak that its products and convolutions reach,
the peak of its memory, and how long two epochs of COCO would take if the images came in time. A setting that does not
fit is told and passed over. Ends with where the time of the fastest one goes, by kernel. Images are random, captions
random and as long as COCO's.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import numpy as np
from jax.stages import Compiled

from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.fitting.compiling import peak_of
from dualcap_jax.fitting.config import Dtype, Remat, with_remat
from dualcap_jax.fitting.flops import flops
from dualcap_jax.fitting.steps import resolved
from dualcap_jax.models import variables
from dualcap_jax.resolving import packs
from dualcap_jax.training.objectives import Batch
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.packing import pack
from dualcap_jax.training.sharding import make_mesh, place
from dualcap_jax.training.state import State, init_state
from dualcap_jax.training.step import make_train_step

CONFIG = Path(__file__).parents[1] / "configs" / "coco_b4_gpt2.py"

PEAKS = {
    "A100": {"float32": 156, "bfloat16": 312, "float16": 312},
    "H100": {"float32": 495, "bfloat16": 989, "float16": 989},
    "H200": {"float32": 495, "bfloat16": 989, "float16": 989},
    "B200": {"float32": 1125, "bfloat16": 2250, "float16": 2250},
}
"""TFLOP/s of dense products by NVIDIA's data sheets, with float32 as TF32, which XLA takes for it."""


class Setting(NamedTuple):
    """What one row of the table is of."""

    batch_size: int
    captions: int
    dtype: Dtype
    remat: Remat


def random_batch(config: ExperimentConfig, seed: int = 0) -> Batch:
    """Images of noise, with captions of noise whose lengths are those of COCO's: 13 tokens, 3 more or less."""
    data, size, rng = config.data, config.training.batch_size, np.random.default_rng(seed)
    shape = (size, data.captions_per_image, data.max_length)
    lengths = np.clip(rng.normal(13, 3, shape[:2]).round(), 5, data.max_length)[..., None]
    return {
        "image": rng.integers(0, 256, (size, data.image_size, data.image_size, 3), np.uint8),
        "tokens": rng.integers(0, config.model.language.vocab_size, shape, np.int32),
        "mask": np.arange(data.max_length) < lengths,
    }


def prepared(config: ExperimentConfig, setting: Setting) -> tuple[Compiled, State, Batch, int]:
    """The compiled step of a setting, a state to begin with, a batch on the device, and the operations of a step."""
    model = replace(with_remat(config.model, setting.remat), dtype=setting.dtype)
    config = replace(
        config,
        model=model,
        data=replace(config.data, captions_per_image=setting.captions),
        training=replace(config.training, batch_size=setting.batch_size),
    )
    training = config.training
    mesh = make_mesh(config.sharding, training.batch_size, training.accumulate)
    objective = cross_entropy(training.loss, training.freeze, training.label_smoothing)
    step = make_train_step(model, training, objective, mesh)
    batch = random_batch(config)
    if packs(config) and training.loss != "all_positions":
        batch = pack(batch, training.accumulate * mesh.size, not model.merger.is_pointwise)
    state = init_state(place(mesh, variables.init(model, 0)), training, model.dtype, mesh)
    batch = step.place(batch)
    traced = step.compiled.trace(state, batch)
    return traced.lower().compile(), state, batch, flops(traced.jaxpr)


def seconds_of(step: Compiled, state: State, batch: Batch, steps: int) -> tuple[float, State]:
    """Of one step: many are begun without waiting, as training does."""
    for _ in range(2):
        state, metrics = step(state, batch)
    assert bool(metrics["finite"])
    began = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - began) / steps, state


def kernels(step: Compiled, state: State, batch: Batch, steps: int = 3) -> Iterator[tuple[str, float]]:
    """The device's kernels and their shares of its time, the longest first."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                state, _ = step(state, batch)
            jax.block_until_ready(state)
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    took: Counter[str] = Counter()
    for plane in devices or planes:
        for line in plane.lines:
            if line.name.startswith("Stream" if devices else "tf_XLA"):
                for event in line.events:
                    if not event.name.startswith("ThunkExecutor"):  # all of it
                        took[event.name] += event.duration_ns
    for name, duration in took.most_common():
        yield name, duration / took.total()


def main(arguments: Sequence[str]) -> int:
    """Print a row for each setting, then the fastest one's profile."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=str(CONFIG), help="experiment file")
    parser.add_argument("--image-size", type=int, help="side of the images in pixels, instead of the experiment's")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 256], help="images of a batch")
    parser.add_argument("--captions", type=int, nargs="+", default=[1, 5], help="captions of an image")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=get_args(Dtype))
    parser.add_argument("--remats", nargs="+", default=["none", "both"], choices=get_args(Remat))
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, where it is not known here")
    parser.add_argument("--coco", type=int, default=118_287, help="images of an epoch")
    parser.add_argument("--kernels", type=int, default=12, help="lines of the profile; 0: none")
    args = parser.parse_args(arguments)

    config, _ = resolved(load_experiment(args.config))
    if args.image_size:
        config = replace(config, data=replace(config.data, image_size=args.image_size))
    device, count = jax.devices()[0], len(jax.devices())
    print(f"{count} x {device.device_kind}, images of {config.data.image_size} pixels, {args.steps} steps each")
    print("images  captions  computes in  recomputes  images/s  captions/s  of peak   GiB  2 epochs, min", flush=True)
    fastest: tuple[float, Setting] | None = None
    for setting in map(Setting._make, product(args.batch_sizes, args.captions, args.dtypes, args.remats)):
        row = f"{setting.batch_size:6}  {setting.captions:8}  {setting.dtype:11}  {setting.remat:10}  "
        try:
            step, state, batch, operations = prepared(config, setting)
            took, state = seconds_of(step, state, batch, args.steps)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"{row}does not fit", flush=True)
            continue
        rate = setting.batch_size / took
        peak = args.peak or next((each[setting.dtype] for name, each in PEAKS.items() if name in device.device_kind), 0)
        share = f"{100 * operations / took / peak / count / 1e12:5.1f} %" if peak else "      -"
        print(
            f"{row}{rate:8.1f}  {rate * setting.captions:10.1f}  {share}  {peak_of(step) / 2**30:4.1f}  "
            f"{2 * args.coco / rate / 60:13.1f}",
            flush=True,
        )
        if fastest is None or rate * setting.captions > fastest[0]:
            fastest = rate * setting.captions, setting
        del step, state, batch
    if stats := device.memory_stats():  # None on CPU
        print(f"the most that was in use at once: {stats['peak_bytes_in_use'] / 2**30:.1f} GiB")
    if fastest and args.kernels:
        print(f"where the time goes ({fastest[1]}):")
        step, state, batch, _ = prepared(config, fastest[1])
        _, state = seconds_of(step, state, batch, 1)
        for name, part in islice(kernels(step, state, batch), args.kernels):
            print(f"{100 * part:5.1f} %  {name[:110]}")
    return 0


if __name__ == "__main__":
    cli.run(main)
