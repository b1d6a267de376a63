import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualcap_jax.evaluation import report
from dualcap_jax.evaluation.report import curves_figure, samples_figure, scores_table, write_report

SCORES = {
    "split": "validation",
    "step": 1200,
    "images": 2,
    "bleu_1": 71.25,
    "bleu_2": 60.0,
    "bleu_3": 50.5,
    "bleu_4": 40.125,
    "signature": "nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "loss": 2.0514,
    "loss_all_positions": 0.758,
}
CAPTIONS = [
    {"image_id": 7, "caption": "a red disc", "score": -0.5, "references": ["a disc", "one red disc"]},
    {"image_id": 9, "caption": "a | *b*\n$c$ \ud800", "score": -1.0, "references": ["x"]},
]
AWKWARD = ["", "costs $5 and $6 \\frac{", "emoji 😀 日本語 \ud800 \x00", "W" * 200, "two\nlines\tand a tab"]


def test_the_json_file_holds_scores_and_captions(tmp_path: Path):
    path = write_report(tmp_path / "evaluation", "validation-beam5", SCORES, CAPTIONS)
    assert path == tmp_path / "evaluation" / "validation-beam5.json"
    assert json.loads(path.read_text()) == {**SCORES, "captions": CAPTIONS}


def test_the_markdown_report_has_one_row_for_each_caption(tmp_path: Path):
    path = write_report(tmp_path, "validation-beam5", SCORES | {"scenes": {"count": 81.25}}, CAPTIONS)
    lines = path.with_suffix(".md").read_text().splitlines()
    assert "| BLEU-4 | 40.1 |" in lines
    assert "| count right, % | 81.2 |" in lines
    assert "| 7 | a red disc | -0.500 | a disc<br>one red disc |" in lines
    assert any(line.startswith(r"| 9 | a \| \*b\* \$c\$ ") for line in lines)


def test_a_value_that_is_not_finite_is_null(tmp_path: Path):
    path = write_report(tmp_path, "test-beam1", SCORES | {"loss": math.nan}, [])
    assert json.loads(path.read_text())["loss"] is None


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_report(tmp_path, "test-beam1", SCORES, CAPTIONS)
    before = path.read_text()
    monkeypatch.setattr(report.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, "test-beam1", SCORES | {"step": 1300}, CAPTIONS)
    assert path.read_text() == before


def test_the_table_is_aligned_and_shows_what_there_is():
    lines = scores_table(SCORES | {"scenes": {"shape": 100.0, "relation": 9.0}}).splitlines()
    assert lines[0] == "validation, step 1200, 2 images"
    rows = {line.rsplit(None, 1)[0].strip(): line for line in lines[1:-1]}
    assert rows["BLEU-1"].endswith(" 71.2")
    assert rows["relation right, %"].endswith(" 9.0")
    assert len({len(line) for line in rows.values()}) == 1
    assert SCORES["signature"] in lines[-1]
    assert "loss" not in scores_table({k: v for k, v in SCORES.items() if "loss" not in k})


@pytest.mark.parametrize("count", [1, 5])
def test_the_samples_are_drawn_whatever_their_captions_hold(tmp_path: Path, count: int):
    images = np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    captions = AWKWARD[:count]
    references = [AWKWARD[: n % 4] for n in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples_figure(images, captions, references, tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as drawn:
        drawn.load()
        assert drawn.format == "PNG"
        assert drawn.width > 300 * min(count, 4)
        # The pictures stand at the top, their own colours seen.
        top = np.asarray(drawn.convert("RGB"))[40:200, 40:200]
        assert top.std() > 20
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_long_text_makes_the_figure_higher_and_never_wider(tmp_path: Path):
    images = np.zeros((1, 8, 8, 3), np.uint8)
    sizes = []
    for caption in ("short", "a caption of many words " * 10, "W" * 200):
        samples_figure(images, [caption], [[caption] * 5], tmp_path / "samples.png")
        with Image.open(tmp_path / "samples.png") as drawn:
            sizes.append(drawn.size)
            right_margin = np.asarray(drawn.convert("L"))[:, -25:]
            assert (right_margin > 250).all()
    widths, heights = zip(*sizes, strict=True)
    assert len(set(widths)) == 1
    assert min(heights[1:]) > heights[0]


def test_no_pictures_draw_nothing_and_unequal_numbers_are_refused(tmp_path: Path):
    samples_figure([], [], [], tmp_path / "samples.png")
    assert not (tmp_path / "samples.png").exists()
    with pytest.raises(ValueError, match="1 images, 0 captions, 0 lists of references"):
        samples_figure(np.zeros((1, 8, 8, 3), np.uint8), [], [], tmp_path / "samples.png")


ROWS = [{"step": n, "split": "train", "loss": 1 / n, "learning_rate": 1e-3} for n in range(1, 60)]
ROWS += [{"step": n, "split": "validation", "loss": 2 / n, "loss_all_positions": 1 / n} for n in (20, 40)]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        ROWS,
        [*ROWS, {"step": 40, "split": "validation", "bleu_1": 50.0, "bleu_4": None}],
        [{"step": 1, "split": "train", "loss": None}],
    ],
    ids=["none", "losses", "bleu", "null"],
)
def test_the_curves_are_drawn_from_whatever_was_logged(tmp_path: Path, rows: list[dict]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves_figure(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as drawn:
        drawn.load()
        assert drawn.format == "PNG"
