"""The README's blocks are run as they stand, the commands in docs/ read by their own parsers, the links followed."""

import argparse
import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from dualcap_jax import ExperimentConfig, caption, cli, evaluate, export, load_experiment, resolving, train

from .commands import ROOT, TINY, environment, run
from .serving.conftest import serving

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

INSTALLATION = [
    ["python3", "-m", "venv", ".venv"],
    [".", ".venv/bin/activate"],
    ["pip", "install", "-e", "."],
    ["pip", "install", "-e", ".[serve]"],
]
"""Commands that are not run here: what they install is what runs the tests."""

SMALLER = {
    "dualcap_jax.train": TINY
    + "--model.encoder.variant b0 --model.encoder.remat none --model.language.remat none".split()
    + "--model.encoder.pretrained None --model.language.pretrained None".split()
}
"""Options that make what a command does a matter of seconds, without a network."""

SERVER = "http://127.0.0.1:8000"
"""Where the pages' examples look for one; here it has a port of its own."""


class Block(NamedTuple):
    """A fenced block of a page."""

    place: str
    is_test_command: bool
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = re.finditer(r"^(<!-- test -->\n)?```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    place = f"{page.name}:{{}}".format
    return [Block(place(text.count("\n", 0, each.start(2)) + 1), bool(each[1]), each[2], each[3]) for each in found]


BLOCKS = blocks_of(README)
IN_PYTHON = [block for page in PAGES[1:] for block in blocks_of(page) if block.language == "python"]


def write_images(folder: Path, numbers: range) -> list[str]:
    folder.mkdir(parents=True)
    names, rng = [f"{number:012d}.jpg" for number in numbers], np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    return names


@pytest.fixture(scope="module")
def desk(finished, tmp_path_factory) -> Path:
    """A directory where everything lies that the README's blocks name."""
    desk = tmp_path_factory.mktemp("desk")
    for name in ("configs", "scripts"):
        (desk / name).symlink_to(ROOT / name)
    shutil.copytree(finished[0], desk / "runs" / "NAME")
    run("export", finished[0], desk / "exported")
    (desk / "runs" / "OTHER").symlink_to("NAME")
    first, second = write_images(desk / "holiday", range(2))
    shutil.copy(desk / "holiday" / first, desk / "dog.jpg")
    Image.open(desk / "holiday" / second).save(desk / "cat.png")

    mine = [{"image": name, "captions": ["A dog."]} for name in write_images(desk / "my_images", range(20))]
    (desk / "my_images" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in mine))
    coco = desk / "data" / "coco2017"
    (coco / "annotations").mkdir(parents=True)
    for split, numbers in (("train2017", range(12)), ("val2017", range(12, 15))):
        names = write_images(coco / split, numbers)
        images = [{"id": number, "file_name": name} for number, name in zip(numbers, names, strict=True)]
        captions = [{"id": number, "image_id": number, "caption": "A cat."} for number in numbers]
        file = coco / "annotations" / f"captions_{split}.json"
        file.write_text(json.dumps({"images": images, "annotations": captions}))
    return desk


def commands_of(text: str) -> list[list[str]]:
    """The commands of a bash block that can be run here, without those that install.

    Raises:
        ValueError: for one that cannot be.
    """
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        for is_and, words in groupby(shlex.split(line, comments=True), "&&".__eq__):
            command = list(words)
            if is_and or command in INSTALLATION:
                continue
            if not re.match(r"python (-m dualcap_jax\.\w+|scripts/\w+\.py)( |$)", " ".join(command)):
                raise ValueError(f"this test does not know how to run {shlex.join(command)!r}")
            commands.append(command)
    return commands


def run_block(block: Block, desk: Path) -> None:
    if block.language == "python":
        exec(compile(block.text, block.place, "exec"), {"__name__": "readme"})
    elif block.language == "bash":
        commands = commands_of(block.text)
        assert commands
        for _, *words in commands:
            if words[:2] == ["-m", "dualcap_jax.serve"]:
                with serving(desk / words[2], *words[3:]):
                    continue
            smaller = SMALLER.get(words[1], []) if words[0] == "-m" else []
            done = subprocess.run(
                [sys.executable, *words, *smaller], cwd=desk, env=environment(), capture_output=True, text=True
            )
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, done.stderr
        for name in re.findall(r"#.*?([\w./]+\.png)", block.text):  # what a comment says is written
            assert (desk / name).is_file(), name
    else:
        assert block.language == "text", f"no known language: {block.language!r}"
        assert not re.search(r"^\s*(\$|python|pip) ", block.text, re.MULTILINE), "holds a command: call it bash"


def marked(block: Block):
    """Training takes its time, most of it to compile each experiment's network."""
    return pytest.param(block, id=block.place, marks=[pytest.mark.slow] if "dualcap_jax.train" in block.text else [])


@pytest.mark.parametrize("block", [marked(block) for block in BLOCKS if not block.is_test_command])
def test_the_readmes_blocks_run(block, desk, monkeypatch):
    monkeypatch.chdir(desk)
    run_block(block, desk)


@pytest.mark.parametrize("block", IN_PYTHON, ids=lambda block: block.place)
def test_python_in_docs_runs(block, desk, monkeypatch, request):
    monkeypatch.chdir(desk)
    if SERVER in block.text:
        block = block._replace(text=block.text.replace(SERVER, request.getfixturevalue("address")))
    run_block(block, desk)


@pytest.fixture(scope="module")
def address(desk):
    with serving(desk / "runs" / "NAME") as (address, _):
        yield address


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_in_docs_gets_captions(desk, address):
    lines = [line for page in PAGES for line in page.read_text().splitlines() if line.startswith("curl ")]
    assert lines
    for line in lines:
        words = shlex.split(line.replace(SERVER, address))
        told = json.loads(subprocess.run(words, cwd=desk, capture_output=True, text=True, check=True).stdout)
        assert told.get("captions") or told.get("words"), told


@pytest.mark.parametrize("text", ["make", "pip install torch", "python setup.py", "python -m dualcap_jax.train && ls"])
def test_a_block_that_cannot_be_run_is_told(text):
    with pytest.raises(ValueError, match="does not know how to run"):
        commands_of(text)


def test_ci_reads_the_test_command_out_of_the_readme():
    program = re.search(r"awk '(.+?)' README.md", (ROOT / ".ci" / "run").read_text())[1]
    read = subprocess.run(["awk", program, README], capture_output=True, text=True, check=True).stdout
    assert [read] == [block.text for block in BLOCKS if block.is_test_command]
    assert {"ruff", "mypy", "pytest"} <= set(read.split())


# -- docs/


class Accepted(Exception):
    """A command's own parser has taken its arguments."""


def commands_in(page: Path) -> list[str]:
    """Every command of ours that a page holds, in blocks and in sentences."""
    text = page.read_text().replace("\\\n", " ")
    return re.findall(r"python (?:-m dualcap_jax\.\w+|scripts/\w+\.py)[^`\n]*", text)


@pytest.mark.parametrize(
    ("page", "command"),
    [pytest.param(page.name, each, id=f"{page.name}-{each}") for page in PAGES for each in commands_in(page)],
)
def test_a_command_is_accepted_by_its_own_parser(page, command, monkeypatch):
    def stop_after(parse):
        def parsed(*args, **kwargs):
            raise Accepted(parse(*args, **kwargs))

        return parsed

    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(cli, "parse", stop_after(cli.parse))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_after(argparse.ArgumentParser.parse_args))
    monkeypatch.setattr(resolving, "load_captioner", lambda source: SimpleNamespace(config=ExperimentConfig()))
    for module in (train, evaluate):
        monkeypatch.setattr(module, "together", nullcontext)
    for module in (caption, evaluate, export):
        monkeypatch.setattr(module, "load_run", lambda workdir: ExperimentConfig())

    _, *words = shlex.split(command, comments=True)
    name, arguments = (words[1], words[2:]) if words[0] == "-m" else (Path(words[0]).stem, words[1:])
    monkeypatch.setattr("sys.argv", [name, *arguments])
    main = importlib.import_module(name).main
    with pytest.raises((Accepted, SystemExit)) as stopped:
        main(arguments) if inspect.signature(main).parameters else main()
    if isinstance(stopped.value, SystemExit):
        assert stopped.value.code == 0
        assert "--help" in arguments
    elif name == "ablate":  # its parser takes any text for --vary
        (args,) = stopped.value.args
        assert importlib.import_module(name).variations(args.vary, load_experiment(args.config))


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_what_there_is(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.is_file(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_linked_to():
    linked = {target for page in PAGES for target in re.findall(r"\((?:docs/)?([\w-]+\.md)", page.read_text())}
    assert {page.name for page in PAGES[1:]} <= linked
