"""scripts/describe_data.py on a set with known faults."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "describe_data.py"


def describe(*args, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_everything_is_counted(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (30, 20), "b.png": (50, 40), "c.png": (30, 20), "cut.jpg": (60, 60)}.items():
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "twin.png").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:200])
    rows = {
        "a.png": ["One dog.", "One dog.", "word " * 60],
        "b.png": ["One dog.", "Two."],
        "twin.png": ["A twin.", ""],
        "c.png": [" "],
        "gone.png": ["Nothing."],
        "cut.jpg": ["Half a picture."],
    }
    lines = [json.dumps({"image": name, "captions": captions, "split": "train"}) for name, captions in rows.items()]
    (tmp_path / "captions.jsonl").write_text("\n".join([*lines, "no json"]))

    done = describe(tmp_path, "--out", "told", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = dict(line.rsplit("  ", 1) for line in done.stdout.splitlines() if "  " in line.strip())
    told = {name.strip(): value for name, value in told.items()}
    assert told["images"] == "4"
    assert told["captions"] == "7"
    assert told["captions of an image"] == "1 to 3, mean 1.8, median 2"
    assert told["width, pixels"] == "30 to 50, mean 43.3, median 50"
    assert told["captions cut at 36 tokens"] == "1 (14.29%)"
    assert told["images that are there twice or more, byte for byte"] == "2"
    assert told["captions that several images share"] == "2"
    assert told["captions that one image has twice"] == "1"
    for fault, count in {
        "unreadable image": 1,
        "missing image": 1,
        "image without captions": 1,
        "empty caption": 2,
        "malformed line": 1,
    }.items():
        assert told[f"fault: {fault}"] == str(count)
    assert "cut.jpg" in (tmp_path / "told.md").read_text()
    with Image.open(tmp_path / "told.png") as image:
        assert len(image.convert("L").getcolors(256)) > 10


def test_nothing_to_describe_is_told_in_a_line(tmp_path):
    done = describe("nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: data.root='nowhere' is not a directory\n"
