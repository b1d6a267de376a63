import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualcap_jax.evaluation.reports.html import MEASURES, select, write_html
from dualcap_jax.evaluation.reports.svg import ticks
from dualcap_jax.evaluation.reports.text import LABELS
from dualcap_jax.evaluation.reports.values import Evaluation, ExplainedWord, ScoredCaption, ShownCaption

VOID = {"meta", "img", "br", "hr", "input", "link"}
IMAGE = np.zeros((8, 12, 3), np.uint8)
WORDS = (ExplainedWord("red", -0.1, 2.3), ExplainedWord("ring", -0.5, -1.2))
CAPTIONS = tuple(
    ScoredCaption(n, f"caption {n}", -0.1 * n, ("a ring", "one ring")) for n in (4, 0, 8, 2, 6, 1, 7, 3, 5)
)
SOME = Evaluation(
    "validation-beam5",
    "validation",
    "COCO val2017",
    CAPTIONS,
    step=1200,
    losses={"loss": 2.0514},
    scores={
        "bleu_1": 71.25,
        "bleu_2": 60.0,
        "bleu_3": 50.5,
        "bleu_4": 40.125,
        "signature": "nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    },
)
EVERYTHING = replace(
    SOME,
    captions=tuple(replace(each, cider_d=each.score + 1) for each in CAPTIONS),
    scores={
        **SOME.scores,
        **dict.fromkeys(MEASURES, 0.625),
        **{f"bleu_{n}_interval": [38.0, 42.0] for n in (1, 2, 3, 4)},
        **{f"coco_bleu_{n}": 40.0 for n in (1, 2, 3, 4)},
        "coco_cider_d": 106.25,
        "coco_rouge_l": 50.0,
        "coco_meteor": 25.0,
        "coco_spice": 20.0,
        **{f"character_bleu_nltk_{n}": 0.9 for n in (1, 2, 3, 4)},
        "diversity_repetitive": True,
        "diversity_commonest_caption": "a <ring>",
        "diversity_commonest_caption_images": 7,
    },
    scenes={"shape": 74.6, "count": 50.0},
)
CURVES = [{"step": n, "split": "train", "loss": 1 / n, "learning_rate": 1e-3} for n in range(1, 30)]
CURVES += [{"step": 20, "split": "validation", "loss": 2.0}]


class Page(HTMLParser):
    """Elements, text and tables of a page; a tag that is closed out of order, or not at all, is an error."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open, f"<{tag}/> outside SVG"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def row(self, label: str) -> list[str]:
        return next(row[1:] for row in self.rows if row[0] == label)


def write(path: Path, evaluation: Evaluation = SOME, shown=None, **more) -> str:
    write_html(path / "report.html", evaluation, shown or {}, **more)
    return (path / "report.html").read_bytes().decode()


def show(evaluation: Evaluation, count: int, words=()) -> dict[str, list[ShownCaption]]:
    groups = select(evaluation.captions, count).items()
    return {title: [ShownCaption(each, IMAGE, words) for each in group] for title, group in groups}


def full(path: Path) -> str:
    others = [
        replace(EVERYTHING, name="validation-beam64", scores={**EVERYTHING.scores, "bleu_4": 39.0}),
        replace(SOME, name="validation-beam10"),
    ]
    return write(path, EVERYTHING, show(EVERYTHING, 3, WORDS), logged=CURVES, others=others)


def test_the_page_is_well_formed_and_says_what_it_is(tmp_path: Path):
    html = full(tmp_path)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>\n")
    assert ("html", {"lang": "en"}) in page.elements
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("title", "h1", "main")] == [1, 1, 1]
    assert tags.count("caption") == tags.count("table") == 5
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [image["alt"] for image in images] == ["a ring"] * 9
    assert {path.name for path in tmp_path.iterdir()} == {"report.html"}


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path):
    html = full(tmp_path)
    page = Page(html)
    loading = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}
    loaded = [value for _, attributes in page.elements for key, value in attributes.items() if key in loading]
    assert len(loaded) == 9
    assert all(value is not None and value.startswith("data:image/jpeg;base64,") for value in loaded)
    assert not {"script", "link", "iframe", "base", "object"} & {tag for tag, _ in page.elements}
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert not re.search(r"url\(|@import|https?:", html)


AWKWARD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1)


@settings(max_examples=50)
@given(text=AWKWARD | st.sampled_from(["</p><script>alert(1)</script>", '"><img src=x onerror="y', "&lt;b&gt; &amp"]))
def test_whatever_a_caption_holds_is_shown_as_text(tmp_path_factory: pytest.TempPathFactory, text: str):
    def made(string: str) -> Page:
        path = tmp_path_factory.getbasetemp()
        evaluation = replace(
            SOME,
            name=f"a{string}",
            dataset=string,
            captions=(ScoredCaption(1, string, 0.0, (string, string)), ScoredCaption(2, "", -1.0)),
            scores={**SOME.scores, "signature": string},
            scenes={string: 1.0},
        )
        best, worst = evaluation.captions
        shown = {
            "best": [ShownCaption(best, IMAGE)],
            "worst": [ShownCaption(worst, IMAGE, (ExplainedWord(string, -0.1, 2.3),))],
        }
        others = [replace(SOME, name=f"b{string}")]
        logged = [{"step": 1, "split": string, "loss": 1.0}]
        return Page(write(path, evaluation, shown, logged=logged, others=others))

    page, plain = made(text), made("plain")
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(attributes) for _, attributes in page.elements] == [sorted(a) for _, a in plain.elements]
    for tag, count in {"title": 1, "h1": 1, "bdi": 2}.items():
        assert sum(element == tag for element, _ in page.elements) == count
    # Title, heading, data set twice, signature, part, this and the other search, curve, caption, two references, word.
    assert plain.text.count("plain") == 13
    assert page.text.count(text) >= 13
    assert any(attributes.get("alt") == text for _, attributes in page.elements)


def test_scores_stand_beside_published_ones_as_papers_print_them(tmp_path: Path):
    page = Page(full(tmp_path))
    heads = page.rows[0][1:]
    own = [dict(zip(heads, row[1:], strict=True)) for row in page.rows if row[0] == "This run" and len(row) == 9]
    coco, sacrebleu = own
    assert (coco["BLEU-4"], coco["CIDEr-D"], coco["METEOR"]) == ("40.0", "106.2", "25.0")
    assert (sacrebleu["BLEU-4"], sacrebleu["CIDEr-D"]) == ("40.138.0 to 42.0", "–")  # noqa: RUF001
    clip_cap = dict(zip(heads, page.row("ClipCap, MLP + GPT-2 (Mokady et al. 2021)"), strict=True))
    assert (clip_cap["BLEU-4"], clip_cap["CIDEr-D"], clip_cap["SPICE"]) == ("32.2", "108.4", "20.1")
    assert page.row("The report on the original, COCO val2017") == ["0.924", "0.798", "0.665", "0.577"]
    assert page.row("shape") == ["74.6 "]


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ("drawn scenes", "The published figures are of other images, COCO's (this run's: drawn scenes)"),
        ("COCO val2017", "The published figures are of COCO's Karpathy test split, this run's of COCO val2017."),
        ("COCO, Karpathy test split", None),
    ],
)
def test_a_run_of_other_images_is_told_from_the_published(tmp_path: Path, dataset: str, sentence: str | None):
    text = Page(write(tmp_path, replace(SOME, dataset=dataset))).text
    assert sentence in text if sentence else "The published figures" not in text


def test_what_was_not_measured_leaves_no_trace(tmp_path: Path):
    page = Page(write(tmp_path))
    assert {row[0] for row in page.rows} & {LABELS[key][0] for key in MEASURES} == {"loss per token, nats"}
    assert not any(row[0] == "This run" and set(row[1:]) <= {"–"} for row in page.rows)  # noqa: RUF001
    assert page.rows[0][1:] == ["BLEU-4", "CIDEr-D", "METEOR", "SPICE", "BLEU-1", "BLEU-2", "BLEU-3"]
    for absent in ("Character BLEU", "What was told", "Searches", "Training", "Images", "Warning", "interval"):
        assert absent not in page.text
    assert all(all(cell for cell in row) for row in page.rows)


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_not_finite_is_a_dash(tmp_path: Path, value: float | None):
    number = math.nan if value is None else value
    caption = ScoredCaption(1, "a", number, cider_d=number)
    scores = {key: value if isinstance(each, float) else each for key, each in EVERYTHING.scores.items()}
    scores["bleu_4_interval"] = [value, value]
    evaluation = replace(
        EVERYTHING, captions=(caption,), losses={"loss": number}, scores=scores, scenes={"shape": number}
    )
    shown = {"best": [ShownCaption(caption, IMAGE, (ExplainedWord("a", number, number),))]}
    logged = [{"step": 1, "split": "train", "loss": value}]
    others = [replace(evaluation, name="beam1")]
    page = Page(write(tmp_path, evaluation, shown, logged=logged, others=others))
    assert page.row("loss per token, nats") == ["–"]  # noqa: RUF001
    assert page.row("shape") == ["–"]  # noqa: RUF001
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    assert "Training" not in page.text


def test_captions_that_repeat_themselves_are_warned_of(tmp_path: Path):
    assert 'The captions repeat themselves: 7 of 9 images were given "a <ring>".' in Page(full(tmp_path)).text
    assert "Warning" in Page(write(tmp_path, replace(SOME, split="train"))).text


def test_the_search_with_fewer_beams_stands_first(tmp_path: Path):
    page = Page(full(tmp_path))
    names = [row[0] for row in page.rows if row[0].startswith("validation-beam")]
    assert names == ["validation-beam5", "validation-beam10", "validation-beam64"]
    assert page.row("validation-beam10") == ["40.1", "–", "1200"]  # noqa: RUF001
    assert page.row("validation-beam5") == ["40.1", "106.2", "1200"]


def test_words_are_told_apart_by_more_than_colour(tmp_path: Path):
    page = Page(full(tmp_path))
    assert "red+2.3" in page.text
    assert "ring-1.2" in page.text
    hints = {attributes.get("title") for _, attributes in page.elements}
    assert "log-probability -0.10 nats, of which the image added +2.3" in hints
    looks = [attributes["class"] for _, attributes in page.elements if attributes.get("class") in ("given", "against")]
    assert looks == ["given", "against"] * 10  # the legend and nine captions


def test_best_median_and_worst_stand_in_this_order(tmp_path: Path):
    groups = select(CAPTIONS, 2)
    ids = {group: [row.image_id for row in rows] for group, rows in groups.items()}
    assert ids == {"best": [0, 1], "median": [3, 4], "worst": [7, 8]}
    page = Page(write(tmp_path, SOME, show(SOME, 2)))
    shown = re.findall(r"Best|Median|Worst|caption \d", page.text)
    assert shown == [
        *("Best", "caption 0", "caption 1", "Median", "caption 3", "caption 4", "Worst", "caption 7", "caption 8")
    ]
    rated = [replace(row, cider_d=float(row.image_id)) for row in CAPTIONS]
    assert [row.image_id for row in select(rated, 1)["best"]] == [8]


@given(
    scores=st.lists(st.floats() | st.none(), max_size=20),
    count=st.integers(0, 8),
)
def test_a_selection_holds_no_caption_twice_and_is_in_order(scores: list[float | None], count: int):
    captions = [ScoredCaption(n, "", score) for n, score in enumerate(scores)]
    groups = select(captions, count)
    assert list(groups) == ["best", "median", "worst"]
    chosen = [row for rows in groups.values() for row in rows]
    assert len({row.image_id for row in chosen}) == len(chosen) == min(3 * count, len(chosen))
    assert len(chosen) >= min(3 * count, len(scores) // 3 * 3)
    numbers = [row.score for row in chosen]
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    assert finite == sorted(finite, reverse=True)
    assert numbers[: len(finite)] == finite


@given(low=st.floats(-1e6, 1e6), width=st.floats(0, 1e6))
def test_ticks_hold_the_range_between_them(low: float, width: float):
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 8
    margin = 1e-9 * max(abs(low), width, 1)
    assert found[0] <= low + margin
    assert low + width <= found[-1] + margin


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = write(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, replace(SOME, step=1300))
    assert (tmp_path / "report.html").read_bytes().decode() == before


def test_an_image_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"image 4: float64 \(8, 12, 3\), not uint8"):
        ShownCaption(CAPTIONS[0], IMAGE / 255)
