import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER

from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.evaluation.metrics.bleu import chrf, corpus_bleu, ter

# The example of sacrebleu's README, and the score it gives there.
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]
ORDERS = (1, 2, 3, 4)


def test_the_example_of_sacrebleu_scores_as_published():
    scores = corpus_bleu(SYSTEM, REFERENCES)
    assert scores["bleu_4"] == pytest.approx(48.53, abs=0.005)
    assert [scores[f"precision_{n}"] for n in ORDERS] == pytest.approx([82.4, 50.0, 45.5, 37.5], abs=0.05)
    assert scores["brevity_penalty"] == pytest.approx(0.943, abs=0.0005)
    assert scores["signature"].startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def streams_of(references: list[list[str]]) -> list[list[str | None]]:
    """As sacrebleu takes them: [reference][image]."""
    return [[some[n] if n < len(some) else None for some in references] for n in range(max(map(len, references)))]


words = st.text(alphabet="ab", min_size=1, max_size=1)
sentences = st.lists(words, max_size=7).map(" ".join)
examples = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=4)), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(examples=examples)
def test_each_order_is_sacrebleus_own_over_ragged_references(examples: list[tuple[str, list[str]]]):
    hypotheses, references = map(list, zip(*examples, strict=True))
    scores, streams = corpus_bleu(hypotheses, references), streams_of(references)
    for order in ORDERS:
        theirs = BLEU(max_ngram_order=order).corpus_score(hypotheses, streams)
        assert scores[f"bleu_{order}"] == pytest.approx(theirs.score)
        assert scores[f"precision_{order}"] == pytest.approx(theirs.precisions[order - 1])
    whole = BLEU()
    whole.corpus_score(hypotheses, streams)
    assert scores["signature"] == str(whole.get_signature())


def test_captioners_get_what_they_deserve():
    references = [
        [f"a {colour} {shape} on a {ground} ground", f"{ground} under one {colour} {shape}"]
        for colour in ("red", "blue")
        for shape in ("disc", "star")
        for ground in ("dark", "pale")
    ]
    perfect = corpus_bleu([some[1] for some in references], references)
    empty = corpus_bleu([""] * len(references), references)
    constant = corpus_bleu([references[0][0]] * len(references), references)
    for order in ORDERS:
        assert perfect[f"bleu_{order}"] == pytest.approx(100)
        assert empty[f"bleu_{order}"] == 0
    assert 0 < constant["bleu_4"] < 60
    assert perfect["brevity_penalty"] == 1
    assert empty["brevity_penalty"] == 0


def test_a_short_caption_is_held_to_the_reference_closest_in_length():
    alone = corpus_bleu(["a red disc"], [["a red disc on a pale ground"]])
    beside = corpus_bleu(["a red disc"], [["a red disc on a pale ground", "one red disc"]])
    assert alone["brevity_penalty"] < beside["brevity_penalty"] == 1


def test_case_counts_unless_told():
    assert corpus_bleu(["A RED DISC HERE"], [["a red disc here"]])["bleu_4"] == 0
    lowered = corpus_bleu(["A RED DISC HERE"], [["a red disc here"]], lowercase=True)
    assert lowered["bleu_4"] == pytest.approx(100)
    assert "case:lc" in lowered["signature"]


def two_captioners(images: int) -> tuple[list[str], list[str], list[list[str]]]:
    """A good one, one that is wrong about every fourth image, and ragged references."""
    references = [[f"a {n % 7} by {n % 5} disc on a {n % 3} ground"] * (1 + n % 2) + ["a disc"] for n in range(images)]
    good = [f"a {n % 7} by {n % 5} disc on a ground" for n in range(images)]
    worse = ["a star somewhere else" if n % 4 == 0 else each for n, each in enumerate(good)]
    return good, worse, references


def test_intervals_are_those_of_sacrebleu():
    _, worse, references = two_captioners(60)
    scores = corpus_bleu(worse, references, resamples=300)
    for order in ORDERS:
        theirs = BLEU(max_ngram_order=order).corpus_score(worse, streams_of(references), n_bootstrap=300)
        low, high = scores[f"bleu_{order}_interval"]
        assert low < scores[f"bleu_{order}"] < high
        assert (high - low) / 2 == pytest.approx(theirs._ci, abs=1e-4)  # sacrebleu resamples in float32
    assert scores == corpus_bleu(worse, references, resamples=300)
    assert scores["bleu_4_interval"] != corpus_bleu(worse, references, resamples=300, seed=1)["bleu_4_interval"]
    without = {key: value for key, value in scores.items() if "interval" not in key}
    assert without == corpus_bleu(worse, references)


@pytest.mark.parametrize("lowercase", [False, True])
def test_chrf_and_ter_are_sacrebleus(lowercase: bool):
    theirs = CHRF(lowercase=lowercase)
    assert chrf(SYSTEM, REFERENCES, lowercase=lowercase) == {
        "chrf": theirs.corpus_score(SYSTEM, streams_of(REFERENCES)).score,
        "chrf_signature": str(theirs.get_signature()),
    }
    rate = TER(case_sensitive=not lowercase)
    assert ter(SYSTEM, REFERENCES, lowercase=lowercase) == {
        "ter": rate.corpus_score(SYSTEM, streams_of(REFERENCES)).score,
        "ter_signature": str(rate.get_signature()),
    }


@pytest.mark.parametrize("score", [corpus_bleu, chrf, ter])
@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 hypotheses but 1 lists of references"),
        ([], [], "no hypotheses"),
        (["a", "b"], [["a"], []], r"references\[1\] is empty.*'b'"),
        (["a"], ["a"], r"references\[0\] is the string 'a'"),
    ],
)
def test_what_cannot_be_scored_is_named(score, hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        score(hypotheses, references)


def test_an_impossible_setting_names_itself():
    with pytest.raises(ValueError, match=r"evaluation\.samples=-1: must be at least 0"):
        EvaluationConfig(samples=-1)
    with pytest.raises(ValueError, match=r"evaluation\.metrics='rouge': must be 'bleu', 'coco', "):
        EvaluationConfig(metrics=("bleu", "rouge"))
