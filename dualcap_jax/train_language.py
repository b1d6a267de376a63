"""Train a language model on text: python -m dualcap_jax.train_language --text FILE [FILE ...] --out DIR."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from dualcap_jax import cli
from dualcap_jax.errors import ConfigError, require
from dualcap_jax.training.language.config import NOTE, Arguments


def parse(args: Sequence[str]) -> Arguments:
    """The command line.

    Raises:
        ConfigError: something is left out or impossible, or the output directory holds something.
    """
    description = "Train a language model on text alone, for --model.language.pretrained of the train command."
    arguments = cli.parse(Arguments, args, "train_language", description)
    if not arguments.text:
        raise ConfigError("--text: give a file of text or of captions, or a directory of captioned images")
    if not arguments.out:
        raise ConfigError("--out: give a directory to write the language model to")
    message = "must be at least 257 (every byte and the framing token)"
    require(arguments.vocab_size >= 257, "vocab_size", arguments.vocab_size, message)
    refuse_full(Path(arguments.out))
    return arguments


def refuse_full(out: Path) -> None:
    """Overwrite nothing.

    Raises:
        ConfigError: there is something at the output directory's place.
    """
    if (out / NOTE).is_file():
        raise ConfigError(
            f"--out {out}: holds a language model that this command wrote; give a new directory, or delete that one. "
            f"To train it further: --init-from {shlex.quote(str(out))}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: exists and is not empty; give a new directory or an empty one")


def main(args: Sequence[str]) -> int:
    """Train, saving the best weights as they come; returns the exit code."""
    arguments = parse(args)
    from dualcap_jax.training.language.run import run

    return run(arguments)


if __name__ == "__main__":
    cli.run(main)
