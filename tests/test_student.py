"""scripts/student.py: students of a captioner, taught in several ways and tabulated beside it."""

import json
import shutil
import subprocess
import sys

import pytest

from .commands import ROOT, environment, run

EXPERIMENT = """
from dataclasses import replace
from dualcap_jax.config import load_json

def get_config():
    config = load_json({path!r})
    training = replace(config.training, steps=2, validate_every=2, checkpoint_every=2)
    data = replace(config.data, image_size=16)
    return replace(config, training=training, data=data, decoding=replace(config.decoding, num_beams=1))
"""


def student(*arguments, code=0) -> subprocess.CompletedProcess:
    words = [sys.executable, ROOT / "scripts" / "student.py", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_students_of_each_way_are_trained_once_and_tabulated(finished, tmp_path):
    teacher = shutil.copytree(finished[0], tmp_path / "teacher")
    (tmp_path / "small.py").write_text(EXPERIMENT.format(path=str(teacher / "config.json")))
    arguments = [teacher, "--config", tmp_path / "small.py", "--seeds", 1, "--workdir", tmp_path / "out"]
    printed = student(*arguments, "--images", 8).stdout

    ways = ["teacher", "true captions", "teacher's captions", "true captions, distributions"]
    results = json.loads((tmp_path / "out" / "students.json").read_text())
    assert list(results) == ways
    table = (tmp_path / "out" / "students.md").read_text()
    assert table in printed
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [f"| {name}" for name in ways]
    report = json.loads((teacher / "evaluation" / "test-beam2.json").read_text())
    assert results["teacher"]["cider_d"] == [report["coco_cider_d"]]
    assert all(found["speed"] > 0 for found in results.values())

    lines = (tmp_path / "out" / "images" / "captions.jsonl").read_text().splitlines()
    taught = [line for line in map(json.loads, lines) if line.get("split", "train") == "train"]
    scenes = json.loads((teacher / "config.json").read_text())["data"]["scenes"]["train"]
    assert len({line["image"] for line in taught}) == scenes  # each has what the teacher said
    objectives = {
        path.name: json.loads((path / "config.json").read_text())["training"]["objective"]
        for path in (tmp_path / "out").glob("*-seed0")
    }
    assert objectives == {
        "true-captions-seed0": "cross_entropy",
        "teachers-captions-seed0": "cross_entropy",
        "true-captions-distributions-seed0": "distillation",
    }

    again = student(*arguments, "--images", 8).stdout
    assert "+ " not in again  # nothing is trained or evaluated again
    assert "| teacher |" in again


@pytest.mark.slow
def test_a_teacher_evaluated_without_the_scores_is_refused_before_anything_is_trained(finished, tmp_path):
    teacher = shutil.copytree(finished[0], tmp_path / "teacher")
    run("evaluate", teacher, "--split", "test", "--metrics", "diversity")
    done = student(teacher, "--config", tmp_path / "nowhere.py", "--workdir", tmp_path / "out", code=2)
    assert f"test-beam2.json has no coco_bleu_4: evaluate {teacher} again with --metrics coco among them" in done.stderr
    assert not (tmp_path / "out").exists()


def test_seeds_must_be_some(tmp_path):
    done = student(tmp_path, "--config", "any.py", "--seeds", 0, code=2)
    assert "--seeds 0: must be at least 1" in done.stderr
