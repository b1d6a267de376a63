import json
import math
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualcap_jax.evaluation.reports.curves import curves
from dualcap_jax.evaluation.reports.figures import curves_figure, samples_figure
from dualcap_jax.evaluation.reports.files import ReportError, read_report, read_reports, write_report
from dualcap_jax.evaluation.reports.text import scores_table
from dualcap_jax.evaluation.reports.values import Evaluation, ScoredCaption, ShownCaption

SIGNATURE = "nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
EVALUATION = Evaluation(
    "validation-beam5",
    "validation",
    "drawn scenes",
    captions=(
        ScoredCaption(7, "a red disc", -0.5, ("a disc", "one red disc")),
        ScoredCaption(9, "a | *b*\n$c$ \ud800", -1.0, ("x",)),
    ),
    step=1200,
    decoding={"num_beams": 5, "bad_words": ("ring",)},
    losses={"loss": 2.0514, "loss_all_positions": 0.758},
    scores={"bleu_1": 71.25, "bleu_2": 60.0, "bleu_3": 50.5, "bleu_4": 40.125, "signature": SIGNATURE},
)
WRITTEN = """{
  "split": "validation",
  "step": 80,
  "decoding": {
    "num_beams": 2,
    "prompt": "",
    "bad_words": [
      "red"
    ]
  },
  "loss": 1.5,
  "loss_all_positions": 0.25,
  "perplexity": null,
  "images": 2,
  "dataset": "drawn scenes",
  "bleu_4": 40.125,
  "signature": "nrefs:5|case:mixed",
  "bleu_4_interval": [
    38.0,
    42.5
  ],
  "diversity_novel": null,
  "diversity_repetitive": false,
  "scenes": {
    "shape": 50.0,
    "all": 0.0
  },
  "captions": [
    {
      "image_id": 0,
      "caption": "a red disc 日本",
      "score": -0.5,
      "references": [
        "a disc",
        "one red disc"
      ],
      "cider_d": 250.0
    },
    {
      "image_id": 7,
      "caption": "",
      "score": null,
      "references": [
        "x"
      ],
      "cider_d": 0.0
    }
  ]
}
"""
THEIRS = """{
  "split": "test",
  "images": 1,
  "dataset": "data/mine",
  "coco_cider_d": 12.5,
  "captions": [
    {
      "image_id": 3,
      "caption": "a cat",
      "references": [
        "A cat."
      ]
    }
  ]
}
"""
AWKWARD = ["", "costs $5 and $6 \\frac{", "emoji 😀 日本語 \ud800 \x00", "W" * 200, "two\nlines\tand a tab"]


def test_the_json_file_holds_scores_and_captions(tmp_path: Path):
    path = write_report(tmp_path / "evaluation", EVALUATION)
    assert path == tmp_path / "evaluation" / "validation-beam5.json"
    assert json.loads(path.read_text()) == {
        "split": "validation",
        "step": 1200,
        "decoding": {"num_beams": 5, "bad_words": ["ring"]},
        **EVALUATION.losses,
        "images": 2,
        "dataset": "drawn scenes",
        **EVALUATION.scores,
        "captions": [
            {"image_id": 7, "caption": "a red disc", "score": -0.5, "references": ["a disc", "one red disc"]},
            {"image_id": 9, "caption": "a | *b*\n$c$ \ud800", "score": -1.0, "references": ["x"]},
        ],
    }


@pytest.mark.parametrize("text", [WRITTEN, THEIRS], ids=["a run's", "a file's"])
def test_a_report_is_read_back_and_written_again_as_it_was(tmp_path: Path, text: str):
    (tmp_path / "any.json").write_text(text, encoding="utf-8")
    assert write_report(tmp_path / "again", read_report(tmp_path / "any.json")).read_text(encoding="utf-8") == text


def test_what_is_read_back_is_the_value(tmp_path: Path):
    (tmp_path / "validation-beam2.json").write_text(WRITTEN, encoding="utf-8")
    found = read_report(tmp_path / "validation-beam2.json")
    assert (found.name, found.split, found.step, found.dataset) == (
        *("validation-beam2", "validation", 80, "drawn scenes"),
    )
    assert found.decoding == {"num_beams": 2, "prompt": "", "bad_words": ["red"]}
    assert list(found.losses) == ["loss", "loss_all_positions", "perplexity"]
    assert math.isnan(found.losses["perplexity"])
    assert found.scores == {
        "bleu_4": 40.125,
        "signature": "nrefs:5|case:mixed",
        "bleu_4_interval": [38.0, 42.5],
        "diversity_novel": None,
        "diversity_repetitive": False,
    }
    assert found.scenes == {"shape": 50.0, "all": 0.0}
    assert found.captions[0] == ScoredCaption(0, "a red disc 日本", -0.5, ("a disc", "one red disc"), 250.0)
    assert math.isnan(found.captions[1].score)
    (tmp_path / "test-theirs.json").write_text(THEIRS)
    theirs = read_report(tmp_path / "test-theirs.json")
    assert theirs.captions == (ScoredCaption(3, "a cat", references=("A cat.",)),)
    assert (theirs.step, theirs.decoding, theirs.losses, theirs.scenes) == (None, None, {}, {})


def test_reports_are_told_from_other_files(tmp_path: Path):
    write_report(tmp_path, replace(EVALUATION, name="b"))
    write_report(tmp_path, replace(EVALUATION, name="a"))
    for number, text in enumerate(["[]", "3", "{", '{"captions": 3, "split": "test"}', '{"split": "test"}', ""]):
        (tmp_path / f"{number}.json").write_text(text)
        with pytest.raises(ReportError, match=rf"{number}\.json: no evaluation that dualcap_jax.evaluate wrote"):
            read_report(tmp_path / f"{number}.json")
    assert [each.name for each in read_reports(tmp_path)] == ["a", "b"]


def test_the_markdown_report_has_one_row_for_each_caption(tmp_path: Path):
    path = write_report(tmp_path, replace(EVALUATION, scenes={"count": 81.25}))
    lines = path.with_suffix(".md").read_text().splitlines()
    assert "| BLEU-4 | 40.1 |" in lines
    assert "| count right, % | 81.2 |" in lines
    assert "| 7 | a red disc | -0.500 | a disc<br>one red disc |" in lines
    assert any(line.startswith(r"| 9 | a \| \*b\* \$c\$ ") for line in lines)


def test_a_value_that_is_not_finite_is_null(tmp_path: Path):
    path = write_report(tmp_path, replace(EVALUATION, losses={"loss": math.nan}, captions=()))
    assert json.loads(path.read_text())["loss"] is None


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_report(tmp_path, EVALUATION)
    before = path.read_text()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, replace(EVALUATION, step=1300))
    assert path.read_text() == before


def test_the_table_is_aligned_and_shows_what_there_is():
    lines = scores_table(replace(EVALUATION, scenes={"shape": 100.0, "relation": 9.0})).splitlines()
    assert lines[0] == "validation, step 1200, 2 images"
    rows = {line.rsplit(None, 1)[0].strip(): line for line in lines[1:-1]}
    assert rows["BLEU-1"].endswith(" 71.2")
    assert rows["relation right, %"].endswith(" 9.0")
    assert len({len(line) for line in rows.values()}) == 1
    assert SIGNATURE in lines[-1]
    assert "loss" not in scores_table(replace(EVALUATION, losses={}))


def shown(captions, references, images) -> list[ShownCaption]:
    return [
        ShownCaption(ScoredCaption(number, caption, references=tuple(some)), image)
        for number, (caption, some, image) in enumerate(zip(captions, references, images, strict=True))
    ]


@pytest.mark.parametrize("count", [1, 5])
def test_the_samples_are_drawn_whatever_their_captions_hold(tmp_path: Path, count: int):
    images = np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    captions = AWKWARD[:count]
    references = [AWKWARD[: n % 4] for n in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples_figure(shown(captions, references, images), tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as drawn:
        drawn.load()
        assert drawn.format == "PNG"
        assert drawn.width > 300 * min(count, 4)
        # The images stand at the top, their own colours seen.
        top = np.asarray(drawn.convert("RGB"))[40:200, 40:200]
        assert top.std() > 20
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_long_text_makes_the_figure_higher_and_never_wider(tmp_path: Path):
    images = np.zeros((1, 8, 8, 3), np.uint8)
    sizes = []
    for caption in ("short", "a caption of many words " * 10, "W" * 200):
        samples_figure(shown([caption], [[caption] * 5], images), tmp_path / "samples.png")
        with Image.open(tmp_path / "samples.png") as drawn:
            sizes.append(drawn.size)
            right_margin = np.asarray(drawn.convert("L"))[:, -25:]
            assert (right_margin > 250).all()
    widths, heights = zip(*sizes, strict=True)
    assert len(set(widths)) == 1
    assert min(heights[1:]) > heights[0]


def test_no_images_draw_nothing(tmp_path: Path):
    samples_figure([], tmp_path / "samples.png")
    assert not (tmp_path / "samples.png").exists()


ROWS = [{"step": n, "split": "train", "loss": 1 / n, "learning_rate": 1e-3} for n in range(1, 60)]
ROWS += [{"step": n, "split": "validation", "loss": 2 / n, "loss_all_positions": 1 / n} for n in (20, 40)]


@pytest.mark.parametrize(
    "rows",
    [[], ROWS, [{"step": 1, "split": "train", "loss": None}]],
    ids=["none", "losses", "null"],
)
def test_the_curves_are_drawn_from_whatever_was_logged(tmp_path: Path, rows: list[dict]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves_figure(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as drawn:
        drawn.load()
        assert drawn.format == "PNG"


def test_the_curves_hold_what_is_finite():
    rows = [
        {"step": 1, "split": "train", "loss": 2.0, "learning_rate": 0.5},
        {"step": 2, "split": "train", "loss": None, "learning_rate": 0.25},
        {"step": 2, "split": "validation", "loss": math.nan, "loss_all_positions": 1.0, "bleu_1": 3.0},
        {"step": 3, "split": "validation", "loss": 1.0},
    ]
    assert curves(rows) == {
        "loss per token, nats": {"train": [(1, 2.0)], "validation": [(3, 1.0)]},
        "loss per position, padding included, nats": {"validation": [(2, 1.0)]},
        "learning rate": {"train": [(1, 0.5), (2, 0.25)]},
    }
    assert list(curves(rows, ["learning_rate"])) == ["learning rate"]
