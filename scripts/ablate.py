"""Train and evaluate an experiment and variations of it, each with several seeds, and tabulate what they come to.

    python scripts/ablate.py --config configs/scenes_ablation.py --seeds 3 --workdir runs/ablation \\
        --vary merger=two_stream,gru,gru_two_stream norm=layer,batch dtype=float16 \\
               "accumulate=2 training.batch_size=128 steps=300"

A variation is NAME=VALUE: a field of the experiment, by as much of its dotted name's end as is its own ("norm" for
model.merger.norm; "merger" for model.merger.kind), and another value. NAME=A,B are two variations; "NAME=A OTHER=B",
in quotes, is one that changes both. The experiment itself, "base", is always trained.

Each run is a run directory of its own under --workdir. Started again, the script goes on where it was, and trains only
what is missing. `ablation.md` and `ablation.json` there hold, over the seeds, each score's mean and 95 % interval
(Student's t) and its difference to the base of the same seeds: with few seeds the intervals are wide, as they should
be.
"""

from dualcap_jax import cli, interrupts  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dualcap_jax.config import ExperimentConfig, differences, load_experiment, load_json
from dualcap_jax.errors import ConfigError
from dualcap_jax.evaluation.reports.files import read_reports
from dualcap_jax.evaluation.reports.text import LABELS
from dualcap_jax.fields import suggestion
from dualcap_jax.files import write_text
from dualcap_jax.train import parse

BASE = "base"
COLUMNS = ("loss", "bleu_4", "coco_cider_d")
"""Scores in the table; of scenes also the share of captions that are right in everything."""

SCORED = ("training.", "decoding.", "evaluation.")
"""Fields, of those that a run may be resumed with, that its scores hang on."""

Setting = dict[str, str]
"""Values, as on the command line, of fields by their whole names."""


def field_names(config: object, prefix: str = "") -> list[str]:
    """The dotted names of all fields."""
    names = []
    for each in fields(config):  # type: ignore[arg-type]
        value, name = getattr(config, each.name), f"{prefix}{each.name}"
        names += field_names(value, f"{name}.") if is_dataclass(value) else [name]
    return names


def whole_name(short: str, names: Sequence[str]) -> str:
    """The one field whose dotted name ends so, or else that whose name but for a last "kind" does.

    Raises:
        ConfigError: there is none, or there are several.
    """
    for ending in (f".{short}", f".{short}.kind"):
        found = [name for name in names if f".{name}".endswith(ending)]
        if len(found) > 1:
            raise ConfigError(f"--vary {short}: may be {', '.join(found)}; give more of the name")
        if found:
            return found[0]
    ends = [name.split(".", place)[-1] for name in names for place in range(name.count(".") + 1)]
    raise ConfigError(f"--vary {short}: the experiment has no such field{suggestion(short, ends)}")


def variations(arguments: Sequence[str], config: ExperimentConfig) -> dict[str, Setting]:
    """What `--vary` asks for, by the names that the runs bear.

    Raises:
        ConfigError: an argument is no assignment, or names no field.
    """
    names, found = field_names(config), {BASE: Setting()}
    for argument in arguments:
        pairs = [assignment.partition("=")[::2] for assignment in shlex.split(argument)]
        if not pairs or not all(name and value for name, value in pairs):
            raise ConfigError(f"--vary {argument!r}: give NAME=VALUE, NAME=A,B, or several NAME=VALUE in quotes")
        choices = pairs[0][1].split(",") if len(pairs) == 1 else [pairs[0][1]]
        for first in choices:
            setting = {whole_name(name, names): value for name, value in [(pairs[0][0], first), *pairs[1:]]}
            label = " ".join(f"{name}={value}" for name, value in [(pairs[0][0], first), *pairs[1:]])
            found[label] = setting
    return found


def train(workdir: Path, base: str, setting: Mapping[str, str], seed: int) -> dict[str, Any]:
    """The scores of one run, trained and evaluated unless it was before.

    Raises:
        ConfigError: it was trained with other settings than are asked for.
        SystemExit: the run failed.
    """
    options = ["--config", base] if base else []
    for name, value in {**setting, "training.seed": str(seed)}.items():
        options += [f"--{name.replace('_', '-')}", *value.split()]
    options = ["--workdir", str(workdir), *options]
    if not (reports := read_reports(workdir / "evaluation")):
        command = [sys.executable, "-m", "dualcap_jax.train", *options]
        print(f"+ {shlex.join(command)}", flush=True)
        if code := run(command):
            raise SystemExit(code)
        reports = read_reports(workdir / "evaluation")
    else:
        changed = differences(load_json(workdir / "config.json"), parse(options)[0])
        for name, (old, new) in changed.items():
            if name.startswith(SCORED):
                raise ConfigError(f"{workdir}: was done with {name} {old}, asked for {new}; give another --workdir")
    measures = reports[0].measures
    return {**{key: measures[key] for key in COLUMNS}, "right": reports[0].scenes.get("all")}


def run(command: Sequence[str]) -> int:
    """Run a command, and let it save its work when this one is asked to end; returns its exit code."""
    with subprocess.Popen(command) as process:
        interrupts.hold("the run in progress saves its work")
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if interrupts.asked() == signal.SIGTERM:  # which a terminal does not send to all
                    process.terminate()
                    code = process.wait()
                    break
        interrupts.release()
    return code


def estimate(values: Sequence[float], decimals: int, sign: str = "") -> str:
    """Mean, and of more than one value half the width of its 95 % interval (Student's t)."""
    text = f"{np.mean(values):{sign}.{decimals}f}"
    if len(values) > 1:
        text += f" ± {stats.t.ppf(0.975, len(values) - 1) * stats.sem(values):.{decimals}f}"
    return text


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The scores of each variation as Markdown, the base's first."""
    columns = {key: LABELS[key] for key in COLUMNS} | {"right": ("wholly right, %", 1)}
    columns = {key: column for key, column in columns.items() if results[BASE][0][key] is not None}
    titles = " | ".join(label for label, _ in columns.values())
    lines = [f"| variation | {titles} |", "| --- |" + " ---: |" * len(columns)]
    for name, runs in results.items():
        cells = []
        for key, (_, decimals) in columns.items():
            cell = estimate([run[key] for run in runs], decimals)
            if name != BASE:
                changes = [run[key] - base[key] for run, base in zip(runs, results[BASE], strict=True)]
                cell += f" ({estimate(changes, decimals, '+')})"
            cells.append(cell)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Train what is missing, write the table; returns the exit code."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="", help="experiment file; the embedded one unless given")
    parser.add_argument("--vary", nargs="+", required=True, metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each variation, from 0")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: must be at least 1")
    config = load_experiment(args.config) if args.config else ExperimentConfig()
    settings = variations(args.vary, config)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    for seed in range(args.seeds):  # seed by seed, so that a first answer is there early
        for name, setting in settings.items():
            folder = f"{name.replace(' ', '-').replace('/', '_')}-seed{seed}"
            results[name].append(train(args.workdir / folder, args.config, setting, seed))
        text = table(results)
        print(text, flush=True)
        write_text(args.workdir / "ablation.md", text + "\n")
        write_text(args.workdir / "ablation.json", json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
