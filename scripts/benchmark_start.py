"""Time how fast commands start: their help, one image captioned, training up to its first step.

    python scripts/benchmark_start.py runs/NAME IMAGE [--repeats 5] [--full-size]

Each command runs once with an empty cache of compilations, then as often as asked with what that left. With --full-size
also EfficientNet-B4 with GPT-2 small, with random weights: one image, and training up to its first step. Prints the
first time and the median of the later ones, in seconds.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "coco_b4_gpt2.py"


def seconds(command: Sequence[str], folder: Path, cache: str, until: str = "") -> float:
    """That a command takes, or takes until it prints this, in a folder of its own.

    Raises:
        ChildProcessError: it failed, or never printed that.
    """
    settings = {**os.environ, "XDG_CACHE_HOME": cache, "PYTHONUNBUFFERED": "1"}
    settings["PYTHONPATH"] = str(CONFIG.parents[1])
    settings.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.perf_counter()
    line, pipe = [sys.executable, "-m", *command], subprocess.PIPE
    process = subprocess.Popen(line, env=settings, cwd=folder, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    printed = ""
    while piece := process.stdout.read(1):
        printed += piece
        if until and until in printed:
            took = time.perf_counter() - began
            process.kill()
            process.wait()
            return took
    if process.wait() or until:
        raise ChildProcessError(f"{' '.join(command)}: {printed[-500:]}")
    return time.perf_counter() - began


def commands(run: str, image: str, full_size: bool, folder: Path) -> Iterator[tuple[str, list[str], str]]:
    """What is timed: its name, the command, and what ends it."""
    for name in ("train", "evaluate", "caption"):
        yield f"{name} --help", [f"dualcap_jax.{name}", "--help"], ""
    yield "one image, this run", ["dualcap_jax.caption", run, image], ""
    if full_size:
        yield "one image, B4 and GPT-2 small", ["dualcap_jax.caption", str(saved(folder / "saved")), image], ""
        train = f"dualcap_jax.train --config {CONFIG} --training.log-every 1 --training.batch-size 8".split()
        train += [
            "--model.encoder.pretrained",
            "None",
            "--model.language.pretrained",
            "None",
            "--data.scenes.train",
            "64",
        ]
        yield "training, B4 and GPT-2 small, to its first step", [*train, "--data.root", ""], "step 1/"


def saved(directory: Path) -> Path:
    """A captioner of the original's size with random weights."""
    from dataclasses import replace

    from dualcap_jax import Captioner, load_experiment
    from dualcap_jax.data.text import train_tokenizer
    from dualcap_jax.models import variables

    config = load_experiment(CONFIG)
    tokenizer = train_tokenizer(["a dog", "a cat"], 300)
    language = replace(config.model.language, pretrained=None, vocab_size=50257)
    config = replace(
        config, model=replace(config.model, language=language, encoder=replace(config.model.encoder, pretrained=None))
    )
    Captioner(config, variables.init(config.model, 0), tokenizer, 0).save_pretrained(directory)
    return directory


def main(arguments: Sequence[str]) -> int:
    """Print a line for each command."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run directory")
    parser.add_argument("image", help="image file")
    parser.add_argument("--repeats", type=int, default=5, help="starts that the median is of")
    parser.add_argument("--full-size", action="store_true", help="time networks of the original's size too")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run, image = (str(Path(each).resolve()) for each in (args.run, args.image))
        for number, (name, command, until) in enumerate(commands(run, image, args.full_size, Path(folder))):
            cache = f"{folder}/{number}"
            first = seconds(command, Path(folder), cache, until)
            later = statistics.median(seconds(command, Path(folder), cache, until) for _ in range(args.repeats))
            print(f"{name}: {first:.1f} s, then {later:.1f} s (median of {args.repeats})", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
