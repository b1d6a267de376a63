"""Texts without images: every kind of source, and what is wrong with one, in a line."""

import json

import numpy as np
import pytest
from PIL import Image

from dualcap_jax.data.documents import hold_out, read_texts
from dualcap_jax.data.pieces import evaluation_batches, make_pieces, training_batches, unigram_perplexity
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.text import train_tokenizer

COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A dog."},
        {"id": 2, "image_id": 8, "caption": "A cat."},
        {"id": 3, "image_id": 7, "caption": "One  dog.\n"},
    ],
}
LINES = [
    {"image": "a.jpg", "captions": ["A dog.", "One dog."]},
    {"image": "b.jpg", "caption": "A cat.", "split": "train"},
    {"image": "c.jpg", "captions": ["A bird.", "A crow."], "split": "val"},
]


def read(path, content, on_error="raise"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_texts(str(path), Faults(on_error))


@pytest.mark.parametrize(
    ("name", "content", "groups"),
    [
        ("a.txt", "A dog.\n\n  \r\nA  cat.", [("A dog.",), ("A cat.",)]),
        ("a.TXT", "\ufeffZwei Hunde\u2028ruhen.\n", [("Zwei Hunde ruhen.",)]),
        ("a.json", json.dumps(COCO), [("A dog.", "One dog."), ("A cat.",)]),
        ("a.json", json.dumps(["A dog.", "A dog."]), [("A dog.",), ("A dog.",)]),
        (
            "a.json",
            json.dumps([{"caption": "A dog."}, {"image_id": 3, "caption": "A cat."}]),
            [("A dog.",), ("A cat.",)],
        ),
        ("a.jsonl", "\n".join(map(json.dumps, LINES)), [("A dog.", "One dog."), ("A cat.",)]),
        ("a.jsonl", '"A dog."\n\n"A cat."\n', [("A dog.",), ("A cat.",)]),
        (
            "a.csv",
            "image,caption,split\na.jpg,A dog.,\nb.jpg,A cat.,test\na.jpg,One dog.,train\n",
            [("A dog.", "One dog.")],
        ),
    ],
)
def test_each_kind_of_file_gives_its_documents(name, content, groups, tmp_path):
    assert read(tmp_path / name, content).groups == groups


def test_captions_of_other_splits_are_counted(tmp_path):
    assert read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, LINES))).of_other_splits == 2
    with pytest.raises(DataError, match=r"b\.jsonl: holds no text to train on; 2 captions are of other splits"):
        read(tmp_path / "b.jsonl", json.dumps(LINES[2]))


def test_of_a_data_root_the_training_split_is_read(tmp_path):
    for line in LINES:
        Image.new("RGB", (8, 8)).save(tmp_path / line["image"])
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    assert read_texts(str(tmp_path), Faults()).groups == [("A dog.", "One dog."), ("A cat.",)]
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"image 'b\.jpg' does not exist"):
        read_texts(str(tmp_path), Faults())
    faults = Faults("skip")
    assert read_texts(str(tmp_path), faults).groups == [("A dog.", "One dog.")]
    assert faults.counts == {"missing image": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n\n", r"a\.txt: holds no text"),
        ("a.txt", b"Ein M\xe4dchen", "not UTF-8 .*; save it as UTF-8"),
        ("a.json", b'["M\xe4dchen"]', "not UTF-8"),
        ("a.docx", "A dog.", r"no kind known here; name it \.txt"),
        ("a.json", "[1, 2", "not JSON"),
        ("a.json", '{"captions": ["A dog."]}', "neither a list of captions"),
        ("a.json", '["A dog.", 7]', "entry 1: holds no text"),
        ("a.json", '[{"captions": ["A dog.", null]}]', "entry 0: holds no text"),
        ("a.jsonl", '"A dog."\n{"caption"\n', r"a\.jsonl:2: not a line of JSON"),
        ("a.jsonl", '"A dog."\n""\n', r"a\.jsonl:2: a caption is empty"),
        ("a.csv", "file,text\na.jpg,A dog.\n", "needs columns 'image' and 'caption'"),
    ],
)
def test_what_is_wrong_is_told(name, content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, content)


def test_what_is_wrong_with_single_captions_can_be_skipped(tmp_path):
    path, faults = tmp_path / "a.jsonl", Faults("skip")
    path.write_text('"A dog."\n{\n""\n7\n"A cat."\n')
    assert read_texts(str(path), faults).groups == [("A dog.",), ("A cat.",)]
    assert faults.counts == {"malformed line": 1, "empty caption": 1, "malformed caption": 1}


def test_what_is_not_there_is_told():
    with pytest.raises(DataError, match="nowhere.txt: no such file or directory"):
        read_texts("nowhere.txt", Faults())


@pytest.mark.parametrize(("share", "held_out"), [(0.001, 1), (0.3, 3), (0.99, 9)])
def test_groups_are_held_out_whole(share, held_out):
    groups = [(f"{number} a", f"{number} b") for number in range(10)]
    parts = hold_out(groups, share, seed=1)
    assert (len(parts[0]), len(parts[1])) == (10 - held_out, held_out)
    assert sorted(parts[0] + parts[1]) == sorted(groups)
    assert parts == hold_out(groups, share, seed=1)


def test_one_document_cannot_be_parted():
    with pytest.raises(DataError, match="give two or more"):
        hold_out([("A dog.",)], 0.1, seed=0)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(["a", "bird", "sings"], rng.integers(1, 40))) for _ in range(90)]
    return documents, train_tokenizer(documents, 270)


@pytest.mark.parametrize("longest", [1, 7, 16, 1000])
def test_each_token_of_each_document_is_predicted_once_from_those_before(longest, corpus):
    documents, tokenizer = corpus
    pieces = make_pieces(documents, tokenizer, longest)
    expected = [tokenizer.encode(document, 10_000) for document in documents]
    assert pieces.cut == sum(len(ids) > longest + 1 for ids in expected)
    found = []
    for start, length in zip(pieces.starts, pieces.lengths, strict=True):
        piece = pieces.tokens[start : start + length].tolist()
        assert 2 <= len(piece) <= longest + 1
        if piece[0] == tokenizer.start_id:
            found.append(piece)
        else:
            assert found[-1][-1] == piece[0]
            found[-1] += piece[1:]
    assert found == expected
    assert pieces.predicted == sum(len(ids) - 1 for ids in expected)


def test_batches_hold_every_piece_once_an_epoch_and_little_padding(corpus):
    documents, tokenizer = corpus
    pieces = make_pieces(documents, tokenizer, 20)
    number, stream = -(-len(pieces) // 8), training_batches(pieces, 8, seed=3)
    epochs = [[next(stream) for _ in range(number)] for _ in range(2)]

    def rows(batches):
        padded = [row for b in batches for row in zip(b["tokens"], b["mask"], strict=True)]
        return sorted(tuple(tokens[real]) for tokens, real in padded if real.any())

    assert rows(epochs[0]) == rows(epochs[1]) == rows(evaluation_batches(pieces, 8))
    assert any(not np.array_equal(*each) for each in zip(*([b["mask"] for b in e] for e in epochs), strict=True))
    for batch in epochs[0]:
        assert batch["tokens"].shape[0] == 8
        assert batch["tokens"].shape[1] - 1 in (8, 16, 20)
        assert batch["mask"].shape[1] - batch["mask"].sum(1).max() < 8


def test_a_unigram_model_that_knows_the_frequencies_has_their_entropy(corpus):
    _, tokenizer = corpus
    pieces = make_pieces(["bird"] * 40_000, tokenizer, 16)
    kinds = len(set(tokenizer.encode("bird", 99)))
    assert unigram_perplexity(pieces, pieces, tokenizer.vocab_size) == pytest.approx(kinds, rel=0.05)
