"""Prepare what training reads again and again: python -m dualcap_jax.prepare features --config FILE.py OUT."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dualcap_jax import cli
from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.errors import require


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    what: tyro.conf.Positional[Literal["features"]]
    """features: what the experiment's encoder makes of each image, for training with a frozen encoder."""
    out: tyro.conf.Positional[str]
    """Directory to write to; training reads it with --data.features."""
    config: str = ""
    """Experiment file: Python with a get_config(). Empty: the embedded experiment."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation")
    """Splits whose images are encoded."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=ExperimentConfig)
    """Fields of the experiment, over its file's."""


def main(args: Sequence[str]) -> int:
    """Encode the images of each split; returns the exit code."""
    named, others = cli.first(Arguments, args)
    base = load_experiment(named["config"]) if named["config"] else ExperimentConfig()
    description = "Compute once what training with a frozen encoder would compute anew at each epoch."
    default = Arguments("features", others[1], named["config"], experiment=base) if len(others) == 2 else None
    arguments = cli.parse(Arguments, args, "prepare", description, default)
    from dualcap_jax.data.sources import open_source
    from dualcap_jax.encoding import encode_once
    from dualcap_jax.files import LOCK
    from dualcap_jax.owners import owned
    from dualcap_jax.pretrained.load import load_pretrained
    from dualcap_jax.resolving import as_published, as_resolved, load_captioner

    config, out = arguments.experiment, Path(arguments.out)
    is_read = "train" not in arguments.splits or not config.data.augments or config.data.views > 0
    message = "must be at least 1 to keep features of training images that are cropped or mirrored at random"
    require(is_read, "data.views", config.data.views, message)
    sources = [(split, open_source(config.data, split)) for split in arguments.splits]
    if config.init_from:
        captioner = load_captioner(config.init_from)
        config, model = as_resolved(config, captioner.config), captioner.model
    else:
        config = as_published(config)
        model, notes = load_pretrained(config.model, config.training.seed)
        print("".join(f"{note}\n" for note in notes), end="", flush=True)
    with owned(out / LOCK, str(out)):
        for split, source in sources:
            encode_once(config.model, config.data, model, source, out, split)
            print(f"{out / split}: {len(source):,} images")
            if source.faults.skipped:
                print(source.faults.summary())
    print(f"train from them: --training.freeze encoder --data.features {out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
