"""Words as they are asked for, and warnings where scores mean nothing."""

import pytest
import sacrebleu

from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.evaluation.metrics.java_metrics import MetricError
from dualcap_jax.evaluation.metrics.score import check_metrics, score_captions
from dualcap_jax.evaluation.reports.text import scores_table
from dualcap_jax.evaluation.reports.values import Evaluation, ScoredCaption

CHINESE = ["一只狗在公园里跑。", "一个红色的圆圈在左边。", "桌子上有三个绿色的方块。"]
JAPANESE = ["公園で犬が走っています。", "左に赤い丸があります。", "机の上に緑の箱が三つあります。"]
THAI = ["สุนัขวิ่งอยู่ในสวนสาธารณะ", "วงกลมสีแดงอยู่ทางซ้าย", "มีกล่องสีเขียวสามกล่องบนโต๊ะ"]
ENGLISH = ["A dog runs in the park.", "A red disc on the left.", "Three green boxes on a table."]
SPLIT = ["一只 狗 在 公园 里 跑 。", "一个 红色 的 圆圈 在 左边 。", "桌子 上 有 三 个 绿色 的 方块 。"]


def score(texts, tokenize="13a", references=None, **settings):
    metrics = ("bleu", "coco", "diversity", "ter", "chrf")
    config = EvaluationConfig(metrics, tokenize=tokenize, **settings)
    return score_captions(texts, references or [[text] for text in texts], config)[0]


def warned(scores) -> str:
    return " ".join(scores.get("warnings", []))


@pytest.mark.parametrize(
    ("texts", "mend", "helps"),
    [(CHINESE, "zh", "zh"), (THAI, "char", "char"), (JAPANESE, "ja-mecab or --evaluation.tokenize char", "char")],
)
def test_words_without_spaces_between_them_are_told_and_the_mend_gives_scores(texts, mend, helps):
    off = [text[:3] + text[4:] for text in texts]
    references = [[text] for text in texts]
    scores = score(off, references=references)
    assert scores["bleu_1"] == scores["coco_cider_d"] == 0
    assert f"--evaluation.tokenize {mend} splits them" in warned(scores)
    assert "--evaluation.tokenize" in warned(score(off, "none", references))
    mended = score(off, helps, references)
    assert warned(mended) == ""
    assert mended["tokenize"] == helps
    assert f"tok:{helps}" in mended["signature"]
    assert mended["bleu_4"] > 40
    assert mended["coco_cider_d"] > 100
    assert 0 < mended["ter"] < 60
    assert mended["diversity_mean_words"] > 5


@pytest.mark.parametrize("texts", [ENGLISH, SPLIT, ["달리는 개 한 마리", "빨간 원이 왼쪽에 있다", "초록색 상자 세 개"]])
def test_languages_with_spaces_and_words_that_are_split_already_are_not_warned_of(texts):
    assert warned(score(texts)) == ""


def test_bleu_of_each_way_is_sacrebleus():
    references = [[text] for text in ENGLISH]
    texts = ["A dog, runs the-park.", *ENGLISH[1:]]
    for tokenize in ("13a", "zh", "char", "intl", "none"):
        expected = sacrebleu.corpus_bleu(texts, [ENGLISH], tokenize=tokenize).score
        assert score(texts, tokenize, references)["bleu_4"] == pytest.approx(expected)


def test_cider_d_that_is_0_whatever_the_captions_says_why():
    one = score(ENGLISH[:1])
    assert one["coco_cider_d"] == 0
    assert "CIDEr-D is 0 whatever the captions" in warned(one)
    assert "One image" in warned(one)
    alike = score(ENGLISH[:2], references=[["A dog."], ["A dog."]])
    assert "CIDEr-D is 0 whatever the captions" in warned(alike)
    assert "One image" not in warned(alike)
    config = EvaluationConfig(("coco",), cider_corpus="train")
    weighed, _ = score_captions(ENGLISH[:1], [ENGLISH[:1]], config, training_captions=[[text] for text in ENGLISH])
    assert weighed["coco_cider_d"] > 0
    assert "CIDEr-D" not in warned(weighed)


def test_captions_too_short_for_an_order_of_bleu_are_told():
    assert "The longest caption has 2 words" in warned(score(["a dog", "a cat"], references=[["a dog"], ["a cat"]]))


def test_warnings_stand_below_the_scores():
    scores = score(CHINESE)
    table = scores_table(Evaluation("a", "test", "", tuple(ScoredCaption(0, each) for each in CHINESE), scores=scores))
    assert "  warning: The captions are of a language that puts no spaces" in table


def test_a_tokenizer_that_is_not_installed_is_told_before_the_work(monkeypatch):
    from dualcap_jax.evaluation.metrics import words

    def lacks(tokenize):
        raise RuntimeError("install it")

    monkeypatch.setattr(words, "BLEU", lacks)
    with pytest.raises(MetricError, match=r"tokenize='ja-mecab': needs mecab: pip install 'sacrebleu\[ja\]'; or take"):
        check_metrics(EvaluationConfig(tokenize="ja-mecab"))
