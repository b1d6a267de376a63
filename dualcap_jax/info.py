"""Tell what a run is: python -m dualcap_jax.info WORKDIR."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dualcap_jax import cli
from dualcap_jax.config import ExperimentConfig, load_run

TOLD = ("BLEU-4", "COCO BLEU-4", "COCO METEOR", "COCO CIDEr-D", "loss per token, nats")
"""Scores that the table tells; JSON has all."""


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str]
    """Run directory, or one that a captioner was saved to."""
    json: bool = False
    """Print JSON instead of a table."""


def about(workdir: Path) -> dict[str, Any]:
    """What a run is: `parts`, `data`, `training`, `checkpoints`, `scores`, `bytes`, `commands`.

    Raises:
        ConfigError: it is no run.
    """
    from dualcap_jax.evaluation.reports.files import read_reports
    from dualcap_jax.evaluation.reports.text import labelled
    from dualcap_jax.models.variables import parameter_counts
    from dualcap_jax.training.restoring import steps_in

    config = load_run(workdir)
    counts = parameter_counts(config.model)
    saved = (workdir / "model.safetensors").is_file()
    steps = {which: steps_in(workdir / "checkpoints" / which) for which in ("best", "latest")}
    return {
        "directory": str(workdir),
        "parts": {part: {"kind": kind, "parameters": counts[part]} for part, kind in parts(config)},
        "vocabulary": config.model.language.vocab_size,
        "computes_in": config.model.dtype,
        "data": config.data.root or "drawn scenes",
        "image_size": config.data.image_size,
        "started_from": config.init_from or None,
        "training": {
            "objective": config.training.objective,
            "steps": config.training.steps,
            "batch_size": config.training.batch_size,
            "captions_per_image": config.data.captions_per_image,
            "frozen": list(config.training.freeze),
            "unfrozen": list(config.training.unfreeze),
        },
        "checkpoints": {which: found[-1] for which, found in steps.items() if found},
        "scores": {each.name: dict(labelled(each)) for each in read_reports(workdir / "evaluation")},
        "bytes": sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file()),
        "commands": commands(workdir, config, steps["latest"], saved),
    }


def parts(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """Each part of the network, and what it is and began as, in words."""
    model = config.model
    for part, each in (("encoder", model.encoder), ("language", model.language)):
        shape = f" {each.variant}" if hasattr(each, "variant") else ""
        began = f"from {each.pretrained}" if each.pretrained else "from random weights"
        yield part, f"{each.kind}{shape}, {began}"
    yield "merger", f"{model.merger.kind}, {' and '.join(map(str, model.merger.hidden))} hidden"


def commands(workdir: Path, config: ExperimentConfig, steps: Sequence[int], saved: bool) -> list[str]:
    """What can be done with a run next."""
    run = shlex.quote(str(workdir))
    found = []
    if not saved and (not steps or steps[-1] < config.training.steps):
        found.append(f"dualcap train --workdir {run}")
    if saved or steps:
        found += [f"dualcap caption {run} IMAGE_OR_FOLDER", f"dualcap evaluate {run}"]
        found.append(f"dualcap train --init-from {run} --workdir NEW")
    return found


def report(found: dict[str, Any]) -> Iterator[str]:
    """The same as lines."""
    yield f"{found['directory']}: {found['bytes'] / 1e6:,.1f} MB"
    for part, each in found["parts"].items():
        yield f"  {part:<10} {each['parameters']:>13,}  {each['kind']}"
    total = sum(each["parameters"] for each in found["parts"].values())
    yield f"  {'all':<10} {total:>13,}  parameters; vocabulary {found['vocabulary']:,}; {found['computes_in']}"
    size, training = found["image_size"], found["training"]
    yield f"data: {found['data']}, images of {size} x {size}, {training['captions_per_image']} captions each"
    frozen = f", {' and '.join(training['frozen'])} frozen" if training["frozen"] else ""
    frozen += f" but for {' and '.join(training['unfrozen'])}" if training["unfrozen"] else ""
    start = f", started from {found['started_from']}" if found["started_from"] else ""
    yield f"training: {training['objective']}, {training['steps']:,} steps of {training['batch_size']}{frozen}{start}"
    listed = ", ".join(f"{which} of step {step:,}" for which, step in found["checkpoints"].items())
    yield f"checkpoints: {listed or 'none yet'}"
    for name, scores in found["scores"].items():
        told = [f"{label} {scores[label]}" for label in TOLD if label in scores]
        yield f"scores, {name}: {', '.join(told) or 'in JSON alone'}"
    if not found["scores"]:
        yield "scores: none yet"
    yield from ("go on:", *(f"  {command}" for command in found["commands"]))


def main(args: Sequence[str]) -> int:
    """Print it; returns the exit code."""
    arguments = cli.parse(Arguments, args, "info", "Tell what a run is, how it scored, and what can be done with it.")
    found = about(Path(arguments.workdir))
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(report(found)))
    return 0


if __name__ == "__main__":
    cli.run(main)
