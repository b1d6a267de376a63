"""Train students of a captioner, each way with several seeds, and tabulate how good and how fast they are beside it.

    python scripts/student.py runs/scenes --config configs/student_scenes.py --seeds 3 --workdir runs/students

A student learns from the captions of the teacher's set; from captions that the teacher wrote for the same images as if
they had none; or from the set's captions and the teacher's next-token distributions on them.

Images, captions, runs and the table (`students.md`, `students.json`) lie under --workdir. Started again, the script
goes on where it was. Speeds are measured at the end, in turns: let nothing else run then.
"""

from dualcap_jax import cli, interrupts  # noqa: F401  # first: it answers Ctrl-C while the rest is imported

# isort: split
import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ablate import estimate, run

from dualcap_jax.bulk.outputs import read
from dualcap_jax.captioner import Captioner
from dualcap_jax.config import load_run
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.sources import open_source
from dualcap_jax.errors import UserError
from dualcap_jax.evaluation.reports.files import read_report
from dualcap_jax.files import write_text
from dualcap_jax.models.variables import parameter_counts
from dualcap_jax.training.config import Which

BATCH = 64
"""Images that are captioned together where speed is measured."""

ROUNDS = 5

SCORES = ("coco_bleu_4", "coco_cider_d")
"""Of each run's report."""


def command(name: str, *arguments: object) -> None:
    """Run one of the package's commands, to its end.

    Raises:
        SystemExit: it failed.
    """
    words = [sys.executable, "-m", f"dualcap_jax.{name}", *map(str, arguments)]
    print(f"+ {shlex.join(words)}", flush=True)
    if code := run(words):
        raise SystemExit(code)


def options(assignments: Sequence[str]) -> list[str]:
    """NAME=VALUE as a command takes them."""
    pairs = [assignment.partition("=") for assignment in assignments]
    return [word for name, _, value in pairs for word in (f"--{name.replace('_', '-')}", *value.split())]


def write_set(teacher: Path, data: DataConfig, splits: Sequence[str], directory: Path, search: Sequence[str]) -> None:
    """Write the images of a set into a directory, with captions.jsonl: of those to train on what the teacher says, of
    the others the set's captions. Nothing is done where it is there.

    Args:
        teacher: its run directory.
        data: of the set.
        splits: those besides that for training.
        directory: where to.
        search: options of the captioning.
    """
    if (directory / "captions.jsonl").exists():
        return
    lines = []
    for split in ("train", *splits):
        source = open_source(data, split)
        for record in map(source.__getitem__, range(len(source))):
            path = directory / split / record.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(record.read_image())
            lines.append({"image": f"{split}/{record.filename}", "captions": record.captions, "split": split})
    written = directory / "taught.jsonl"
    command("caption", teacher, directory / "train", "--out", written, *search)
    taught = [{**row, "image": Path(row["image"]).relative_to(directory).as_posix()} for row in read(written)]
    lines = [*taught, *(line for line in lines if line["split"] != "train")]
    write_text(directory / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class Result:
    """Of the runs of one way, or of the teacher."""

    bleu_4: list[float]
    """Of each seed."""
    cider_d: list[float]
    """Of each seed."""
    parameters: int
    speed: float
    """Images a second."""


def score(workdir: Path, split: str, checkpoint: Which) -> dict[str, Any]:
    """The scores of a run on a split, evaluated unless it was before.

    Raises:
        UserError: it was, without the scores that are needed.
    """
    decoding = load_run(workdir).decoding
    latest = "-latest" if checkpoint == "latest" else ""
    path = workdir / "evaluation" / f"{split}-{decoding.name(decoding)}{latest}.json"
    if not path.exists():
        command("evaluate", workdir, "--split", split, "--checkpoint", checkpoint)
    found = read_report(path).measures
    if missing := [name for name in SCORES if name not in found]:
        raise UserError(f"{path} has no {missing[0]}: evaluate {workdir} again with --metrics coco among them")
    return found


def speeds(workdirs: dict[str, Path], data: DataConfig, split: str, count: int) -> dict[str, float]:
    """Images a second of each run with its own search: the median of some rounds, in each of which all take their
    turn."""
    source, runs = open_source(data, split), {}
    for name, workdir in workdirs.items():
        captioner = Captioner.load(workdir)
        images = [captioner.prepare(source[place % len(source)].read_image()) for place in range(count)]
        runs[name] = captioner, images, replace(captioner.config.decoding, batch_size=BATCH)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):  # the first compiles
        for name, (captioner, images, decoding) in runs.items():
            start = time.perf_counter()
            list(captioner.caption_prepared(images, decoding))
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(each) for name, each in taken.items()}


def table(results: dict[str, Result]) -> str:
    """The results as Markdown, the teacher's first."""
    lines = ["| | BLEU-4 | CIDEr-D | % of the teacher's | parameters | images a second | x the teacher's |"]
    lines.append("| --- |" + " ---: |" * 6)
    teacher, *_ = results.values()
    for name, found in results.items():
        cells = [estimate(each, 1) for each in (found.bleu_4, found.cider_d)]
        (whole,) = teacher.cider_d  # may be 0
        cells.append(estimate([100 * each / whole for each in found.cider_d], 1) if whole else "")
        cells += [f"{found.parameters:,}", f"{found.speed:.0f}", f"{found.speed / teacher.speed:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Train and score what is missing, write the table; returns the exit code."""
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="its run directory")
    parser.add_argument("--config", required=True, help="experiment file of the students")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each way, from 0")
    parser.add_argument("--workdir", type=Path, default=Path("runs/students"))
    parser.add_argument("--split", default="test", help="what is scored: test or validation")
    for name, what in {"train": "further fields of each training", "caption": "options of the captioning"}.items():
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME=VALUE", help=what)
    parser.add_argument("--images", type=int, default=512, help="images that speed is measured on")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: must be at least 1")
    data, directory = load_run(args.teacher).data, args.workdir / "images"
    splits = dict.fromkeys(("validation", args.split))
    scores = {"teacher": [score(args.teacher, args.split, "best")]}  # first: without them all the rest is in vain
    write_set(args.teacher, data, list(splits), directory, options(args.caption))

    # features, the teacher's too, are computed once for all seeds
    its_set = ["--data.root", data.root, "--data.features", args.workdir / "features" / "set"]
    its_captions = ["--data.root", directory, "--data.features", args.workdir / "features" / "captions"]
    its_captions += ["--data.tokenizer", args.teacher / "tokenizer"]
    learning = ["--training.objective", "distillation", "--training.teacher", args.teacher]
    ways = {
        "true captions": its_set,
        "teacher's captions": its_captions,
        "true captions, distributions": [*its_set, *learning],
    }
    workdirs = {"teacher": [args.teacher]}
    for seed in range(args.seeds):  # seed by seed, so that a first answer is there early
        for name, asked in ways.items():
            workdir = args.workdir / f"{name.replace(', ', '-').replace(' ', '-').replace(chr(39), '')}-seed{seed}"
            workdirs.setdefault(name, []).append(workdir)
            if not (workdir / "evaluation").is_dir():
                settings = [*asked, *options(args.train), "--training.seed", seed]
                command("train", "--workdir", workdir, "--config", args.config, *settings)
    results = {}
    # A student of its teacher's captions grows surer than the set's are: their loss would choose an early checkpoint.
    scores |= {name: [score(each, args.split, "latest") for each in workdirs[name]] for name in ways}
    speed = speeds({name: runs[0] for name, runs in workdirs.items()}, data, args.split, args.images)
    for name, runs in workdirs.items():
        bleu_4, cider_d = ([float(each[key]) for each in scores[name]] for key in SCORES)
        parameters = sum(parameter_counts(load_run(runs[0]).model).values())
        results[name] = Result(bleu_4, cider_d, parameters, speed[name])
    text = table(results)
    print(text)
    write_text(args.workdir / "students.md", text + "\n")
    write_text(
        args.workdir / "students.json",
        json.dumps({name: asdict(found) for name, found in results.items()}, indent=2) + "\n",
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
