import json
import shutil
import string
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate import bleu_score

from dualcap_jax.evaluation.config import EvaluationConfig, Metric
from dualcap_jax.evaluation.metrics import java_metrics
from dualcap_jax.evaluation.metrics.bleu import corpus_bleu
from dualcap_jax.evaluation.metrics.character_bleu import character_bleu_nltk
from dualcap_jax.evaluation.metrics.coco_caption import coco_caption_scores, document_frequencies
from dualcap_jax.evaluation.metrics.diversity import diversity
from dualcap_jax.evaluation.metrics.score import score_captions

ORDERS = (1, 2, 3, 4)
WITHOUT_JAVA = EvaluationConfig(tuple(name for name in get_args(Metric) if name not in ("meteor", "spice")))
REFERENCES = [
    [f"A {colour} {shape} on a {ground} ground.", f"{ground} lies under one {colour} {shape}"][: 1 + (shape == "star")]
    for colour in ("red", "blue", "green")
    for shape in ("disc", "star", "ring")
    for ground in ("dark", "pale")
]
PERFECT = [some[0] for some in REFERENCES]
ALONE = [[caption] for caption in PERFECT]


text = st.text(alphabet=["a", "b", "B", "c", " ", ",", "."], max_size=14)
examples = st.lists(st.tuples(text, st.lists(text, min_size=1, max_size=4)), min_size=1, max_size=5)


@pytest.mark.filterwarnings("ignore:\\nThe hypothesis contains 0 counts")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(examples=examples)
def test_character_bleu_is_what_nltk_makes_of_strings(examples: list[tuple[str, list[str]]]):
    def clean(caption: str) -> str:
        return "".join(letter for letter in caption.lower() if letter not in string.punctuation)

    hypotheses, references = map(list, zip(*examples, strict=True))
    scores = character_bleu_nltk(hypotheses, references)
    for order in ORDERS:
        weights = tuple(float(each == order) for each in ORDERS)
        theirs = [
            bleu_score.sentence_bleu([clean(each) for each in some], clean(hypothesis), weights)
            for hypothesis, some in examples
        ]
        assert scores[f"character_bleu_nltk_{order}"] == pytest.approx(np.mean(theirs), rel=1e-12)


def test_captioners_get_what_they_deserve():
    perfect = score_captions(PERFECT, ALONE, WITHOUT_JAVA)[0]
    for order in ORDERS:
        assert perfect[f"bleu_{order}"] == pytest.approx(100)
        assert perfect[f"bleu_{order}_interval"] == pytest.approx([100, 100])
        assert perfect[f"coco_bleu_{order}"] == pytest.approx(100)
        assert perfect[f"character_bleu_nltk_{order}"] == pytest.approx(1)
    assert perfect["coco_cider_d"] == pytest.approx(1000)
    assert perfect["coco_rouge_l"] == perfect["chrf"] == pytest.approx(100)
    assert perfect["ter"] == 0
    assert perfect["diversity_repetitive"] is False

    empty = score_captions([""] * len(REFERENCES), REFERENCES, WITHOUT_JAVA)[0]
    for key in ("bleu_1", "bleu_4", "coco_bleu_1", "coco_bleu_4", "coco_rouge_l", "coco_cider_d", "chrf"):
        assert empty[key] == pytest.approx(0, abs=1e-9)
    assert empty["character_bleu_nltk_1"] == 0
    assert empty["ter"] > 95
    assert empty["diversity_mean_words"] == empty["diversity_vocabulary"] == empty["diversity_distinct_1"] == 0

    shuffled = score_captions([PERFECT[n - 7] for n in range(len(PERFECT))], REFERENCES, WITHOUT_JAVA)[0]
    constant = score_captions([PERFECT[0]] * len(PERFECT), REFERENCES, WITHOUT_JAVA)[0]
    for poor in (shuffled, constant):
        assert poor["bleu_4"] < 70
        assert poor["coco_cider_d"] < 300
        assert poor["ter"] > 20
    assert constant["diversity_repetitive"] is True
    assert constant["diversity_commonest_caption"] == "a red disc on a dark ground"
    assert constant["diversity_commonest_caption_images"] == len(PERFECT)
    assert constant["diversity_shared_caption"] == 1
    assert shuffled["diversity_repetitive"] is False


def test_the_metrics_asked_for_and_no_others_as_json_can_hold_them():
    scores = score_captions(PERFECT, REFERENCES, training_captions=[["a red disc on a dark ground"]])[0]
    assert json.loads(json.dumps(scores)) == scores
    assert scores == score_captions(PERFECT, REFERENCES, EvaluationConfig(), training_captions=[[PERFECT[0]]])[0]
    assert scores["diversity_novel"] == pytest.approx(1 - 1 / len(PERFECT))
    coco = coco_caption_scores(PERFECT, REFERENCES)
    assert scores["coco_cider_d"] == pytest.approx(100 * coco.cider_d)
    assert [scores[f"coco_bleu_{order}"] for order in ORDERS] == pytest.approx([100 * each for each in coco.bleu])
    bleu, cider_d = score_captions(PERFECT, REFERENCES, EvaluationConfig(("bleu",)))
    assert cider_d is None
    assert bleu == corpus_bleu(PERFECT, REFERENCES, resamples=1000)
    assert list(score_captions(PERFECT, REFERENCES, EvaluationConfig(("ter",)))[0]) == ["ter", "ter_signature"]
    assert score_captions(PERFECT, REFERENCES, EvaluationConfig(())) == ({}, None)
    shouted = [caption.upper() for caption in PERFECT]
    assert score_captions(shouted, ALONE, EvaluationConfig(("bleu",), lowercase=True))[0]["bleu_4"] == pytest.approx(
        100
    )
    with pytest.raises(ValueError, match="'rouge': must be 'bleu', 'coco', 'diversity'"):
        EvaluationConfig(("bleu", "rouge"))


def test_cider_d_weighs_by_the_training_captions_where_told():
    trained_on, config = [["a red disc"], ["a blue star"], ["a green ring"]], EvaluationConfig(("coco",), "train")
    theirs = coco_caption_scores(PERFECT, REFERENCES, document_frequencies=document_frequencies(trained_on))
    scores, cider_d = score_captions(PERFECT, REFERENCES, config, training_captions=trained_on)
    assert scores["coco_cider_d"] == pytest.approx(100 * theirs.cider_d)
    assert scores["coco_cider_d"] != pytest.approx(100 * coco_caption_scores(PERFECT, REFERENCES).cider_d)
    np.testing.assert_allclose(cider_d, 100 * theirs.image_cider_d)
    with pytest.raises(ValueError, match="evaluation.cider_corpus=train: the training captions are not there"):
        score_captions(PERFECT, REFERENCES, config)


def test_the_worst_caption_ranks_last():
    captions = [*PERFECT[:3], "something else entirely", *PERFECT[4:]]
    cider_d = score_captions(captions, ALONE, EvaluationConfig(("coco",)))[1]
    assert cider_d.shape == (len(captions),)
    assert cider_d.argmin() == 3


def test_diversity_counts_by_hand():
    captions = ["A red disc.", "a red disc", "a blue disc on a disc", "A star!"]
    assert diversity(captions, training_captions=["A blue disc, on a disc", "a ring"]) == {
        "distinct_1": 6 / 14,
        "distinct_2": 8 / 10,
        "novel": 3 / 4,
        "vocabulary": 6,
        "mean_words": 14 / 4,
        "commonest_caption": "a red disc",
        "commonest_caption_images": 2,
        "shared_caption": 0.5,
        "repetitive": False,
    }
    assert diversity(captions[:3])["repetitive"] is True
    assert diversity(captions[:1])["repetitive"] is False
    assert diversity(captions)["novel"] is None
    with pytest.raises(ValueError, match="no hypotheses"):
        diversity([])


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR runs on Java")
def test_meteor_is_pycocoevalcaps(monkeypatch: pytest.MonkeyPatch):
    from pycocoevalcap.meteor import meteor

    scorer = meteor.Meteor()  # one for all: its Java program takes seconds to start
    monkeypatch.setattr(meteor, "Meteor", lambda: scorer)
    captions = ["a dog runs", "two cats sleeping on a bed", ""]
    references = [["a dog is running", "the dog ran"], ["two cats sleep on the bed"], ["a bird"]]
    theirs, _ = scorer.compute_score(dict(enumerate(references)), {n: [each] for n, each in enumerate(captions)})
    loud = [caption.capitalize() + "." for caption in captions]
    assert 0 < theirs < 1
    assert java_metrics.meteor(loud, references) == pytest.approx(theirs)
    assert score_captions(captions, references, EvaluationConfig(("meteor",)))[0] == {
        "coco_meteor": pytest.approx(100 * theirs)
    }


def test_what_the_java_metrics_lack_is_said_with_the_mend(monkeypatch: pytest.MonkeyPatch):
    for metric in (java_metrics.meteor, java_metrics.spice):
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "")
            with pytest.raises(java_metrics.MetricError, match="runs on Java.*: install a Java runtime"):
                metric(["a"], [["a"]])
        with monkeypatch.context() as patch:
            patch.setattr(java_metrics.shutil, "which", lambda _: "java")
            for name in ("pycocoevalcap.meteor.meteor", "pycocoevalcap.spice.spice"):
                patch.setitem(sys.modules, name, None)
            with pytest.raises(java_metrics.MetricError, match=r"pip install 'dualcap-jax\[coco-metrics\]'"):
                metric(["a"], [["a"]])


def test_spice_without_its_download_says_how_to_fetch_it(monkeypatch: pytest.MonkeyPatch, tmp_path):
    from pycocoevalcap.spice import spice

    monkeypatch.setattr(java_metrics.shutil, "which", lambda _: "java")
    monkeypatch.setattr(spice, "__file__", str(tmp_path / "spice.py"))
    with pytest.raises(java_metrics.MetricError, match="SPICE needs Stanford CoreNLP 3.6.0.*get_stanford_models"):
        java_metrics.spice(["a"], [["a"]])
