"""Write a trained run in a form that other programs read: python -m dualcap_jax.export WORKDIR OUT --format NAME."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dualcap_jax import cli
from dualcap_jax.config import load_run
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import UserError, require
from dualcap_jax.exporting import Precision
from dualcap_jax.files import is_empty
from dualcap_jax.training.config import Which


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str]
    """Run directory, or one that a captioner was saved to."""
    out: tyro.conf.Positional[str]
    """Folder to write into, which must be empty or not there yet."""
    format: Literal["stablehlo", "onnx", "web", "huggingface"] = "stablehlo"
    """stablehlo: encoder and search compiled into one function, for CPUs, NVIDIA GPUs and TPUs, with a script that
    captions by jax, numpy, Pillow and tokenizers alone. onnx: encoder, language model and merger, a step of each, with
    such a script for onnxruntime. web: a page whose browser captions by itself, for any static server. huggingface: the
    whole for Captioner.from_pretrained, with a model card; the language model for transformers; the encoder in timm's
    names."""
    overwrite: bool = False
    """Write into a folder that is not empty; files of the same names are replaced."""
    checkpoint: Which = "best"
    """best (by validation) or latest."""
    batch_sizes: tuple[int, ...] = (1, 16)
    """Batches that stablehlo is written for. One of another size is filled up to the next of these."""
    precision: Precision = "float32"
    """Of the weights of onnx and web. int8: the products' weights quantised, with float32 between them."""
    runtime: str = ""
    """What web runs on: the npm package onnxruntime-web, as `npm pack onnxruntime-web` writes it, or its folder."""
    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")] = field(default_factory=DecodingConfig)
    """How captions are searched for by what is exported; the run's own settings unless changed."""


def main(args: Sequence[str]) -> int:
    """Export; returns the exit code."""
    _, others = cli.first(Arguments, args)
    default = Arguments(others[0], "", decoding=load_run(others[0]).decoding) if others else None
    arguments = cli.parse(Arguments, args, "export", "Write a run in a form that other programs read.", default)
    out, sizes = Path(arguments.out), tuple(sorted(set(arguments.batch_sizes)))
    require(
        bool(sizes) and sizes[0] >= 1, "--batch-sizes", arguments.batch_sizes, "must be one or more, each at least 1"
    )
    if out.exists() and not (is_empty(out) or (out.is_dir() and arguments.overwrite)):
        mend = "give another name, or --overwrite True" if out.is_dir() else "give the name of a folder"
        raise UserError(f"{out}: {'is not empty' if out.is_dir() else 'is a file'}; {mend}")
    from dualcap_jax.captioner import Captioner

    is_web = arguments.format == "web"
    if is_web != bool(arguments.runtime):
        raise UserError("--runtime: goes with --format web, which needs it; `npm pack onnxruntime-web` writes it")
    captioner = Captioner.load(arguments.workdir, arguments.checkpoint)
    if is_web:
        from dualcap_jax.exporting.web import export_web
        from dualcap_jax.info import about

        run = about(Path(arguments.workdir))
        export_web(captioner, out, arguments.decoding, arguments.precision, Path(arguments.runtime), run)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(f"{out}: {size / 1e6:,.1f} MB; see it: python -m http.server --directory {out}")
        return 0
    if arguments.format == "huggingface":
        from dualcap_jax.exporting.huggingface import export_huggingface
        from dualcap_jax.info import about

        for line in export_huggingface(captioner, out, about(Path(arguments.workdir))["scores"]):
            print(line)
        return 0
    if arguments.format == "onnx":
        from dualcap_jax.exporting.onnx import export_onnx

        export_onnx(captioner, out, arguments.decoding, arguments.precision)
    else:
        from dualcap_jax.exporting.stablehlo import export_stablehlo

        export_stablehlo(captioner, out, arguments.decoding, sizes)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:,.1f} MB; caption images: python {out / 'caption.py'} IMAGE")
    return 0


if __name__ == "__main__":
    cli.run(main)
