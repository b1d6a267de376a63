"""Caption images: python -m dualcap_jax.caption WORKDIR IMAGE_OR_FOLDER... [--out FILE] [--num-beams 5]."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dualcap_jax import cli
from dualcap_jax.config import load_run
from dualcap_jax.data.folders import suffixes
from dualcap_jax.data.reading import ImagesConfig, part
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import ConfigError, require
from dualcap_jax.training.config import Which


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str]
    """Run directory that `python -m dualcap_jax.train` wrote."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files; folders, whose images are taken, those in folders below too; patterns such as "photos/**/*.jpg";
    tars and zips; Parquet files with a column of images; @LIST, a file with such a name on each line; -, such lines on
    standard input. Each image is taken once."""
    out: str = ""
    """File to write instead of the terminal, by its ending .jsonl, .csv, .parquet, or .json for COCO's results. Images
    that it has already are not captioned again. What can't be read is listed in OUT.errors.jsonl. An interrupted
    command goes on when it is given again."""
    sidecar: str = ""
    """Ending of a text file to write beside each image, such as .txt. Images that have one already are passed over."""
    prefix: str = ""
    """Text before each caption in these files."""
    overwrite: bool = False
    """Caption anew what the file of --out, or the files of --sidecar, hold already."""
    ray: str = ""
    """Ray cluster that captions into --out or --sidecar: HOST:PORT of its head, or local. Run directory and images lie
    under the same paths on all its machines, and this package is installed there."""
    shard: str = ""
    """Share of the images to caption, such as 3/16: the third of 16. The name of --out then says which."""
    column: str = ""
    """Column of Parquet files that holds the images, their bytes or paths. Empty: image, jpg, png, bytes, path or
    file_name, the first that there is."""
    format: Literal["text", "jsonl"] = "text"
    """What the terminal is given. text: path, tab, caption. jsonl: one JSON object a line, with scores."""
    explain: bool = False
    """Show how much of each word the image gave, in nats: what it adds to the word's log-probability with an average
    image. On a terminal the words that it gave are green."""
    map: str = ""
    """A word. For each time that an image's caption holds it, write the image under a map of the places that speak for
    the word."""
    map_by: Literal["gradient", "attention"] = "gradient"
    """How those places are found. gradient: Grad-CAM. attention: where the merger looked, of a run with
    model.merger.kind attention."""
    map_dir: Path = Path("maps")
    """Folder that these are written to as IMAGE.WORD.png."""
    checkpoint: Which = "best"
    """best (by validation) or latest."""
    data: ImagesConfig = field(default_factory=ImagesConfig)
    """Which images are read; the run's own settings unless changed."""
    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")] = field(default_factory=DecodingConfig)
    """How captions are searched for; the run's own settings unless changed."""


def main(args: Sequence[str]) -> int:
    """Caption images; returns 1 where some could not be read, or a caption lacks the word to map, else 0."""
    description = "Caption images with a trained run."
    _, others = cli.first(Arguments, args)
    default = None
    if others:
        run = load_run(others[0])
        default = Arguments(others[0], decoding=run.decoding, data=part(ImagesConfig, run.data))
    arguments = cli.parse(Arguments, args, "caption", description, default)
    if not arguments.images:
        raise ConfigError("no image given: name image files, or folders of them, after the run directory")
    from dualcap_jax.bulk.captioning import printable, rows_here
    from dualcap_jax.bulk.inputs import find
    from dualcap_jax.bulk.printing import Maps, print_captions
    from dualcap_jax.captioner import Captioner

    writes, failed = bool(arguments.out or arguments.sidecar), dict[str, str]()
    refuse_together(arguments)
    start, step = share_of(arguments.shard) if arguments.shard else (0, 1)

    def fail(name: str, reason: str) -> None:
        failed[name] = reason
        if not writes:
            print(f"{printable(name)}: {reason}", file=sys.stderr)

    def note(name: str, told: str) -> None:
        print(f"{name}: {told}", file=sys.stderr)

    found = islice(find(arguments.images, arguments.column, fail, note), start, None, step)
    items = list(found) if writes else []
    captioner = Captioner.load(arguments.workdir, arguments.checkpoint)
    data = replace(captioner.config.data, **asdict(arguments.data))
    captioner.config = replace(captioner.config, data=data)
    decoding, explain = arguments.decoding, arguments.explain
    with cli.naming_memory(decoding.less_memory), ExitStack() as stack:
        if writes:
            rows: Any = rows_here(captioner, decoding, explain)
            if arguments.ray:
                from dualcap_jax.bulk.cluster import connected, rows_there

                ray = stack.enter_context(connected(arguments.ray))
                rows = rows_there(
                    ray, decoding.batch_size, arguments.workdir, arguments.checkpoint, data, decoding, explain
                )
            write_files(arguments, captioner.step, rows, items, failed)
        else:
            captions = partial(captioner.caption_prepared, decoding=decoding, explain=explain)
            maps = None
            if arguments.map:
                maps = Maps(captioner, arguments.map, arguments.map_dir, arguments.map_by)
            print_captions(captioner, captions, found, fail, arguments.format, maps)
    return 1 if failed else 0


def write_files(arguments: Arguments, step: int, rows: Any, items: Sequence[Any], failed: dict[str, str]) -> None:
    """Write captions into the file, or the files, that were asked for.

    Args:
        arguments: the command line.
        step: of the checkpoint.
        rows: captions images; a `Rows`.
        items: the images.
        failed: what could not be found; to it comes what can't be read.
    """
    from dualcap_jax.bulk.captioning import caption_beside, caption_into

    if arguments.sidecar:
        caption_beside(arguments.sidecar, rows, items, failed, arguments.prefix, arguments.overwrite)
        return
    out = Path(arguments.out)
    if arguments.shard:
        start, count = share_of(arguments.shard)
        out = out.with_name(f"{out.stem}-{start + 1:05}-of-{count:05}{out.suffix}")
    decoding = {name: value for name, value in asdict(arguments.decoding).items() if name != "batch_size"}
    run = {"run": str(Path(arguments.workdir).resolve()), "step": step, "explain": arguments.explain}
    caption_into(out, rows, items, failed, run | asdict(arguments.data) | decoding, arguments.overwrite)


def share_of(shard: str) -> tuple[int, int]:
    """The first and every how manyth image of a share such as "3/16" are taken.

    Raises:
        ConfigError: it is none.
    """
    number, _, count = shard.partition("/")
    is_one = number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)
    require(is_one, "--shard", shard, "must be I/N, with I from 1 to N, such as 3/16")
    return int(number) - 1, int(count)


def refuse_together(arguments: Arguments) -> None:
    """See whether options contradict each other.

    Raises:
        ConfigError: they do.
    """
    out, sidecar = arguments.out, arguments.sidecar
    if out and sidecar:
        raise ConfigError("--out and --sidecar: give one of them")
    if sidecar and not (sidecar.startswith(".") and len(sidecar) > 1 and not set("/\\") & set(sidecar)):
        raise ConfigError(f"--sidecar {sidecar}: must be an ending, such as .txt")
    if sidecar.lower() in suffixes():
        raise ConfigError(f"--sidecar {sidecar}: is an ending of images, which would be overwritten; give .txt")
    if arguments.prefix and not sidecar:
        raise ConfigError("--prefix: is written into the files of --sidecar, which is not given")
    if arguments.ray and not (out or sidecar):
        raise ConfigError("--ray: captions into files; give --out FILE or --sidecar .txt")
    if arguments.map and (out or sidecar):
        raise ConfigError("--map: is drawn where captions are printed; leave out --out and --sidecar")
    if out:
        from dualcap_jax.bulk.outputs import format_of

        format_of(Path(out))


if __name__ == "__main__":
    cli.run(main)
