"""Score captions: python -m dualcap_jax.evaluate RUN [--split SPLIT] [--decoding.num-beams 5] [--metrics bleu coco]."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dualcap_jax import cli
from dualcap_jax.config import ExperimentConfig, load_run
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.reading import ReadingConfig, part
from dualcap_jax.data.records import DataError, Source
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.evaluation.reports.values import Evaluation
from dualcap_jax.processes import DistributedConfig, distributed, together
from dualcap_jax.training.config import Which

EMPTY = re.compile(r"^\s*$")
TOKEN = re.compile(r"<\|\w+\|>|</?s>|<(?:pad|bos|eos|unk)>|\[(?:PAD|CLS|SEP|EOS|UNK)\]")
"""What a decoder leaves that was not told to skip special tokens."""


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str] = ""
    """Run directory that `python -m dualcap_jax.train` wrote. May be left out with --captions and --root."""
    split: Literal["train", "validation", "test"] = "validation"
    """Split of the data to score."""
    checkpoint: Which = "best"
    """best (by validation) or latest."""
    root: Annotated[str, tyro.conf.arg(name="data.root")] = ""
    """Where the data lies, if not where the run was trained on."""
    captions: str = ""
    """Score the captions of this file instead of the run's: of any system, a JSON list in COCO's results format,
    [{"image_id": 1, "caption": "A dog."}, ...]. The reports are written into evaluation/ beside it."""
    beams: tuple[int, ...] = ()
    """Evaluate once with each of these numbers of beams; the reports compare them."""
    evaluation: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)
    """What is scored and shown; the run's own settings unless changed."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched for; the run's own settings unless changed."""
    data: ReadingConfig = field(default_factory=ReadingConfig)
    """Which images are read, and what is done about what is broken; the run's own settings unless changed."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Which processes evaluate together."""


def refuse_trained_on(trained_on: DataConfig, data: DataConfig, split: str) -> None:
    """COCO's images have one name each in all of its divisions: those trained on in one must not be scored in another.

    Raises:
        DataError: one of the split was trained on.
    """
    from dualcap_jax.data.sources import open_source, refuse_shared_images

    if split == "train" or not Path(trained_on.root).is_dir():
        return
    try:
        train = open_source(trained_on, "train")
    except DataError:  # what was trained on is no longer there
        return
    other = open_source(data, split)
    if is_of_coco(train) and is_of_coco(other):
        refuse_shared_images(train, other, split, compare=False)


def is_of_coco(source: Source) -> bool:
    """Whether the images have COCO's names and ids, which are those of its files."""
    from dualcap_jax.data.sources.entries import coco_number

    records = map(source.__getitem__, range(len(source)))
    return all(coco_number(each.filename) == each.image_id for each in records)


def data_of(config: ExperimentConfig, arguments: Arguments) -> DataConfig:
    """The configuration of the data that a run is scored on.

    Raises:
        DataError: the run's own are no longer where they were.
    """
    root = arguments.root or config.data.root
    if root and not arguments.root and not Path(root).is_dir():
        under = "" if Path(root).is_absolute() else f" (looked under {Path.cwd()})"
        raise DataError(f"data.root='{root}' is not a directory{under}: say where the data lies now with --root DIR")
    return replace(config.data, root=root, **asdict(arguments.data))


def score_file(arguments: Arguments) -> None:
    """Score the captions of a file.

    Raises:
        ConfigError: nothing tells which images they are of.
        DataError: a fault in the file or in the data.
    """
    from dualcap_jax.data.sources import fitting, open_source
    from dualcap_jax.evaluation.metrics.score import check_metrics
    from dualcap_jax.scoring import describe, read_captions, report, root_name, score

    if arguments.workdir:
        run = load_run(arguments.workdir)
        usual, data = run.data.root, data_of(run, arguments)
    elif arguments.root:
        usual, data = arguments.root, fitting(arguments.root, arguments.data)
    else:
        raise ConfigError("--captions needs a run directory or --root DIR: which images are they captions of?")
    file, split = Path(arguments.captions), arguments.split
    source = open_source(data, split)
    check_metrics(arguments.evaluation)
    captions = read_captions(file, source)
    for what, looks_so in (("are empty", EMPTY), ("hold a model's token, such as <|endoftext|>", TOKEN)):
        if number := sum(bool(looks_so.search(each.caption)) for each in captions):
            print(f"warning: {file}: {number} of {len(captions)} captions {what}", file=sys.stderr)
    name = file_report_name(file, split) + root_name(data.root, usual) + arguments.evaluation.name(EvaluationConfig())
    theirs = Evaluation(name, split, describe(source, data, split), captions)
    scored = score(theirs, source, data, arguments.evaluation)
    directory = file.parent if file.resolve().parent.name == "evaluation" else file.parent / "evaluation"
    show(scored, report(directory, scored, source))


def file_report_name(file: Path, split: str) -> str:
    """Of the report on a file's captions: no other file's beside it, and none of a run's own evaluations."""
    name = file.stem if file.suffix == ".json" else file.name
    return f"{split}-captions-{name}" if re.match(r"(beam|sample)\d", name) else f"{split}-{name}"


def show(evaluation: Evaluation, path: Path) -> None:
    """Print the scores, and where they were written."""
    from dualcap_jax.evaluation.reports.text import scores_table

    print(scores_table(evaluation))
    print(f"written: {path}, {path.with_suffix('.md')}, {path.with_suffix('.html')}")


def main(args: Sequence[str]) -> int:
    """Score captions and print the table; returns the exit code."""
    with together(distributed(cli.first(Arguments, args)[0])):
        return _main(args)


def _main(args: Sequence[str]) -> int:
    description = "Score a run's captions, or a file's, on a split of the data, and write reports."
    _, others = cli.first(Arguments, args)
    config = load_run(others[0]) if others else ExperimentConfig()
    default = Arguments(evaluation=config.evaluation, decoding=config.decoding, data=part(ReadingConfig, config.data))
    arguments = cli.parse(Arguments, args, "evaluate", description, default)
    if arguments.captions:
        score_file(arguments)
        return 0
    if not arguments.workdir:
        raise ConfigError("give a run directory to score, or --captions FILE with --root DIR")
    try:
        searches = [replace(arguments.decoding, num_beams=beams) for beams in arguments.beams] or [arguments.decoding]
    except ValueError as error:
        raise ConfigError(f"--beams: {error}") from None
    data = data_of(config, arguments)
    if arguments.root:
        refuse_trained_on(config.data, data, arguments.split)
    from dualcap_jax.captioner import Captioner
    from dualcap_jax.scoring import evaluate

    captioner = Captioner.load(arguments.workdir, arguments.checkpoint)
    captioner.config = replace(config, data=data)
    for decoding in searches:
        with cli.naming_memory(decoding.less_memory):
            scored = evaluate(
                captioner,
                Path(arguments.workdir),
                arguments.split,
                decoding,
                arguments.evaluation,
                checkpoint=arguments.checkpoint,
            )
        show(*scored)
    return 0


if __name__ == "__main__":
    cli.run(main)
