import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from dualcap_jax.evaluation.metrics.coco_caption import coco_caption_scores, document_frequencies
from dualcap_jax.evaluation.metrics.ptb import tokenize
from tests.evaluation.test_ptb import captions


def assert_equal_to_pycocoevalcap(hypotheses, references, results, targets):
    """Corpus and image scores against pycocoevalcap's of the same tokenized captions."""
    ours = coco_caption_scores(hypotheses, references)
    bleu, image_bleu = Bleu(4).compute_score(targets, results, verbose=0)
    rouge_l, image_rouge_l = Rouge().compute_score(targets, results)
    cider_d, image_cider_d = Cider().compute_score(targets, results)
    close = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(ours.bleu, bleu, **close)
    np.testing.assert_allclose(ours.image_bleu, np.transpose(image_bleu), **close)
    np.testing.assert_allclose(ours.rouge_l, rouge_l, **close)
    np.testing.assert_allclose(ours.image_rouge_l, image_rouge_l, **close)
    np.testing.assert_allclose(ours.cider_d, cider_d, **close)
    np.testing.assert_allclose(ours.image_cider_d, image_cider_d, **close)


sentences = st.lists(st.sampled_from(["a", "b", "c", "5 1/2", ",", "it's"]), max_size=9).map(" ".join)
examples = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=4)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(examples=examples.filter(lambda some: any(tokenize(each) for _, references in some for each in references)))
def test_ragged_references_score_as_in_pycocoevalcap(examples: list[tuple[str, list[str]]]):
    hypotheses, references = map(list, zip(*examples, strict=True))
    results = {n: [" ".join(tokenize(each))] for n, each in enumerate(hypotheses)}
    targets = {n: [" ".join(tokenize(each)) for each in some] for n, some in enumerate(references)}
    assert_equal_to_pycocoevalcap(hypotheses, references, results, targets)


@pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer runs on Java")
def test_captions_score_as_in_pycocoevalcap_from_text_to_figure():
    some, images = captions(20_000, seed=2), 4000
    references = [some[n : n + 1 + n % 4] for n in range(images)]
    hypotheses = [some[n + 1] if n % 3 else some[n].upper() for n in range(images)]
    results = PTBTokenizer().tokenize({n: [{"caption": each}] for n, each in enumerate(hypotheses)})
    targets = PTBTokenizer().tokenize({n: [{"caption": e} for e in some] for n, some in enumerate(references)})
    assert_equal_to_pycocoevalcap(hypotheses, references, results, targets)


REFERENCES = [
    [f"a {colour} {shape} on a {ground} ground", f"{ground} lies under one {colour} {shape}"]
    for colour in ("red", "blue", "green")
    for shape in ("disc", "star", "ring")
    for ground in ("dark", "pale")
]


def test_captioners_get_what_they_deserve():
    perfect = coco_caption_scores([some[0] for some in REFERENCES], [[some[0]] for some in REFERENCES])
    assert perfect.bleu == pytest.approx((1, 1, 1, 1))
    assert perfect.rouge_l == pytest.approx(1)
    np.testing.assert_allclose(perfect.image_cider_d, 10)

    empty = coco_caption_scores([""] * len(REFERENCES), REFERENCES)
    assert (*empty.bleu, empty.rouge_l, empty.cider_d) == pytest.approx((0,) * 6, abs=1e-12)

    shuffled = coco_caption_scores([REFERENCES[n - 7][0] for n in range(len(REFERENCES))], REFERENCES)
    constant = coco_caption_scores([REFERENCES[0][0]] * len(REFERENCES), REFERENCES)
    for poor in (shuffled, constant):
        assert poor.cider_d < 3
        assert poor.bleu[3] < 0.7


def test_words_that_are_rare_in_another_corpus_count_more_by_its_frequencies():
    hypotheses, references = ["a red disc", "a red star"], [["a blue disc"], ["a blue star"]]
    common = document_frequencies([["a disc", "a star"]] * 5 + [["red"]] * 5)
    rare = document_frequencies([["a disc"]] + [["red"]] * 9)
    assert rare.images == 10
    assert rare.counts[("a", "disc")] == 1
    by_common = coco_caption_scores(hypotheses, references, document_frequencies=common)
    by_rare = coco_caption_scores(hypotheses, references, document_frequencies=rare)
    assert by_rare.image_cider_d[0] > by_common.image_cider_d[0]
    assert by_rare.bleu == by_common.bleu
    own = coco_caption_scores(hypotheses, references, document_frequencies=document_frequencies(references))
    assert own.cider_d == coco_caption_scores(hypotheses, references).cider_d


def test_what_cannot_be_scored_is_named():
    with pytest.raises(ValueError, match="1 hypotheses but 2 lists of references"):
        coco_caption_scores(["a"], [["a"], ["b"]])
