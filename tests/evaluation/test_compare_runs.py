"""scripts/compare_runs.py: evaluations side by side, with significance."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_runs.py"
REFERENCES = [[f"a {n % 7} by {n % 5} disc on a {n % 3} ground", "a disc"][: 1 + n % 2] for n in range(60)]


def captioner(*wrong: int) -> list[str]:
    """Its captions are wrong of those images of four."""
    return ["a star" if n % 4 in wrong else some[0] for n, some in enumerate(REFERENCES)]


GOOD = captioner(0)


def evaluation(folder: Path, captions, references=None, name="validation-beam5") -> Path:
    rows = [
        {"image_id": n, "caption": caption, "references": some}
        for n, (caption, some) in enumerate(zip(captions, references or REFERENCES, strict=False))
    ]
    (folder / "evaluation").mkdir(parents=True, exist_ok=True)
    (folder / "evaluation" / f"{name}.json").write_text(json.dumps({"split": "validation", "captions": rows}))
    (folder / "evaluation" / f"captions_{name}_results.json").write_text("[]")
    return folder


def compare(*arguments, code=0) -> str:
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def test_runs_are_compared_with_the_first(tmp_path):
    systems = {"good": GOOD, "worse": captioner(0, 1, 2), "same": captioner(2)}
    runs = [evaluation(tmp_path / name, some) for name, some in systems.items()]
    again = runs[0] / "evaluation" / "validation-beam5.json"
    lines = compare(*runs, again).splitlines()
    good, worse, same, itself = lines[2:]
    assert good.startswith(f"| {runs[0]} | ")
    assert "p =" not in good
    bleu, cider = (float(p) for p in re.findall(r"p = ([\d.e-]+)", worse))
    assert max(bleu, cider) < 0.01
    assert all(float(p) > 0.2 for p in re.findall(r"p = ([\d.e-]+)", same))
    assert all(float(p) == 1 for p in re.findall(r"p = ([\d.e-]+)", itself))
    low, high = map(float, re.search(r"\| \d+\.\d \((\d+\.\d) to (\d+\.\d)\), -", worse).groups())
    assert low < high < 100
    assert len(np.unique([line.count("|") for line in lines])) == 1


def test_what_cannot_be_compared_is_told(tmp_path):
    good = evaluation(tmp_path / "good", GOOD)
    fewer = evaluation(tmp_path / "fewer", GOOD[:50])
    other = evaluation(tmp_path / "other", GOOD, [[f"{some[0]} here"] for some in REFERENCES])
    assert "run 2 is of other images than run 1: 50 and 60" in compare(good, fewer, code=2)
    assert "run 2 has other references than run 1 for image 0" in compare(good, other, code=2)
    told = compare(good, "--evaluation", "test-beam1", code=2)
    assert f"{good} has no evaluation test-beam1; it has validation-beam5" in told
    assert "no evaluation that dualcap_jax.evaluate wrote" in compare(tmp_path / "nowhere.json", code=2)


@pytest.mark.parametrize("arguments", [[], ["--evaluation"]])
def test_nothing_to_compare_shows_the_usage(arguments):
    assert "usage: compare_runs.py" in compare(*arguments, code=2)
