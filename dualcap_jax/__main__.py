"""All commands under one name: dualcap COMMAND ..., or python -m dualcap_jax COMMAND ..."""

import sys

COMMANDS = {
    "train": "train a captioner",
    "evaluate": "score a run's captions, or a file's, and write reports",
    "caption": "caption images: a few, or folders of any size",
    "serve": "serve captions over HTTP, with a page",
    "export": "write a run in a form that other programs read",
    "info": "tell what a run is",
    "prepare": "encode images once for training with a frozen encoder",
    "train-detector": "train a detector on images with boxes",
    "train-language": "train a language model on text alone",
    "fit": "tell whether an experiment fits a device that need not be there",
}
"""What each does; a module of this package's has its name."""

USAGE = "\n".join(
    [
        "usage: dualcap COMMAND ...",
        "",
        *(f"  {name:<15} {does}" for name, does in COMMANDS.items()),
        "",
        "dualcap COMMAND --help lists its options. dualcap --version tells the version.",
        "dualcap --completion bash (or zsh, tcsh) prints what makes a shell complete commands and options.",
    ]
)


def main() -> None:
    """Run the command that the process's arguments name, and exit."""
    name, args = "".join(sys.argv[1:2]), sys.argv[2:]
    if name in COMMANDS:
        run(name, args)
    elif name in ("", "-h", "--help", "help"):
        print(USAGE)
        sys.exit(0 if name else 2)
    elif name == "--version":
        from importlib.metadata import version

        print(version("dualcap-jax"))
    elif name == "--completion" and args in (["bash"], ["zsh"], ["tcsh"]):
        from dualcap_jax import cli

        cli.run(lambda args: complete(args[1]))
    else:
        from difflib import get_close_matches

        meant = get_close_matches(name, COMMANDS, 1)
        told = f"; did you mean {meant[0]}?" if meant else f": {', '.join(COMMANDS)}"
        what = "--completion needs one of bash, zsh, tcsh" if name == "--completion" else f"{name}: no command{told}"
        print(f"error: {what}", file=sys.stderr)
        sys.exit(2)


def run(name: str, args: list[str]) -> None:
    """Run a command and exit."""
    from importlib import import_module

    from dualcap_jax import starting

    starting.end_at_once()
    module = import_module(f"dualcap_jax.{name.replace('-', '_')}")
    from dualcap_jax import cli

    sys.argv = [f"dualcap {name}", *args]
    cli.run(module.main)


def complete(shell: str) -> int:
    """Print the completion of all commands for a shell; returns the exit code."""
    from contextlib import suppress
    from importlib import import_module

    import tyro

    kinds = {name: import_module(f"dualcap_jax.{name.replace('-', '_')}").Arguments for name in COMMANDS}
    args, flags = ["--tyro-print-completion", shell], (tyro.conf.FlagConversionOff,)
    with suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(kinds, prog="dualcap", args=args, config=flags)
    return 0


if __name__ == "__main__":
    main()
