"""Batches from small sets, through `train_iterator` and `eval_batches`."""

import dataclasses
import json
import pickle
from collections import Counter
from itertools import islice

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.data.pipeline import check_images, count_examples, eval_batches, pad_tokens, train_iterator
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import iterate_captions, open_source
from dualcap_jax.data.text import train_tokenizer

CAPTION_COUNTS = [1, 3, 2, 5, 1, 1, 4]  # 17 pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven images with 1 to 5 captions, each naming its image and its place."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    rows = []
    for i, count in enumerate(CAPTION_COUNTS):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows.append({"image": f"{i}.png", "captions": [f"image {i} caption {c}" for c in range(count)]})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="module")
def config(folder):
    return DataConfig(root=str(folder), image_size=16, max_length=12, validation_fraction=0, read_threads=0)


@pytest.fixture(scope="module")
def source(config):
    return open_source(config, "train")


@pytest.fixture(scope="module")
def tokenizer(source):
    return train_tokenizer(iterate_captions(source), 300)


def texts(batch, tokenizer):
    """The captions of each row."""
    return [
        [tokenizer.decode(ids[real]) for ids, real in zip(tokens, mask, strict=True) if real.any()]
        for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True)
    ]


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert set(batch) == set(other)
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_a_batch_holds_what_its_records_hold(source, tokenizer, config):
    batch = next(train_iterator(source, tokenizer, config, batch_size=5, seed=0))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((5, 16, 16, 3), "uint8"),
        "tokens": ((5, 1, 12), "int32"),
        "mask": ((5, 1, 12), "bool"),
        "image_id": ((5,), "int64"),
    }
    for row, image_id in enumerate(batch["image_id"]):
        record = source[int(image_id)]
        np.testing.assert_array_equal(batch["image"][row], source.transform.decode(record.read_image()))
        ids = batch["tokens"][row, 0][batch["mask"][row, 0]].tolist()
        assert ids in [tokenizer.encode(caption, 12) for caption in record.captions]
        assert not batch["tokens"][row, 0][~batch["mask"][row, 0]].any()


def test_only_training_images_are_cropped_at_random(source, tokenizer, config):
    augmented = dataclasses.replace(config, crop_scale=0.3)
    plain, cropped, again = (
        next(train_iterator(source, tokenizer, settings, 8, seed=3)) for settings in (config, augmented, augmented)
    )
    np.testing.assert_array_equal(cropped["image"], again["image"])
    np.testing.assert_array_equal(cropped["tokens"], plain["tokens"])
    assert all(not np.array_equal(a, b) for a, b in zip(cropped["image"], plain["image"], strict=True))
    assert_same(eval_batches(source, tokenizer, augmented, 4), eval_batches(source, tokenizer, config, 4))


def test_a_share_of_the_training_images_is_cropped_the_others_stay_whole(source, tokenizer, config):
    some = dataclasses.replace(config, crop_scale=0.3, crop_share=0.5)
    plain, cropped = (next(train_iterator(source, tokenizer, settings, 40, seed=3)) for settings in (config, some))
    whole = [np.array_equal(a, b) for a, b in zip(cropped["image"], plain["image"], strict=True)]
    assert 10 < sum(whole) < 30


def test_only_training_images_are_mirrored_and_half_of_them(source, tokenizer, config):
    flipping = dataclasses.replace(config, flip=True)
    plain, flipped = (next(train_iterator(source, tokenizer, settings, 40, seed=3)) for settings in (config, flipping))
    np.testing.assert_array_equal(flipped["tokens"], plain["tokens"])
    mirrored = [not np.array_equal(a, b) for a, b in zip(flipped["image"], plain["image"], strict=True)]
    assert 10 < sum(mirrored) < 30
    np.testing.assert_array_equal(flipped["image"][mirrored], plain["image"][mirrored][:, :, ::-1])
    assert_same(eval_batches(source, tokenizer, flipping, 4), eval_batches(source, tokenizer, config, 4))


def test_the_mask_goes_by_length_not_by_id():
    tokens, mask = pad_tokens([[9, 0, 0, 9], [9]], 3, 5)
    np.testing.assert_array_equal(tokens, [[9, 0, 0, 9, 0], [9, 0, 0, 0, 0], [0] * 5])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0] * 5])


def test_each_epoch_holds_every_pair_once_in_a_new_order(source, tokenizer, config):
    assert count_examples(source, config) == 17
    iterator = train_iterator(source, tokenizer, config, batch_size=17, seed=3)
    epochs = [[caption for (caption,) in texts(batch, tokenizer)] for batch in islice(iterator, 4)]
    expected = Counter(iterate_captions(source))
    assert [Counter(epoch) for epoch in epochs] == [expected] * 4
    assert len(set(map(tuple, epochs))) == 4
    again = [[c for (c,) in texts(b, tokenizer)] for b in islice(train_iterator(source, tokenizer, config, 17, 3), 4)]
    other = [[c for (c,) in texts(b, tokenizer)] for b in islice(train_iterator(source, tokenizer, config, 17, 4), 4)]
    assert again == epochs
    assert other != epochs


@pytest.mark.parametrize("width", [2, 5])
def test_whole_images_come_with_captions_drawn_anew_each_epoch(source, tokenizer, config, width):
    config = dataclasses.replace(config, captions_per_image=width)
    assert count_examples(source, config) == 7
    batches = list(islice(train_iterator(source, tokenizer, config, 7, seed=1), 8))
    chosen = Counter()
    for batch in batches:
        assert batch["tokens"].shape == (7, width, 12)
        assert sorted(batch["image_id"]) == list(range(7))
        for image_id, captions in zip(batch["image_id"], texts(batch, tokenizer), strict=True):
            known = source[int(image_id)].captions
            assert len(captions) == len(set(captions)) == min(width, len(known))
            assert set(captions) <= set(known)
            chosen.update(captions)
    assert set(chosen) == set(iterate_captions(source))  # in 8 epochs each caption had its turn
    assert_same(batches, islice(train_iterator(source, tokenizer, config, 7, seed=1), 8))


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_the_one_stream(source, tokenizer, config, width, processes):
    config = dataclasses.replace(config, captions_per_image=width)
    alone = islice(train_iterator(source, tokenizer, config, 12, seed=5), 5)
    shares = [
        islice(train_iterator(source, tokenizer, config, 12 // processes, 5, index, processes), 5)
        for index in range(processes)
    ]
    dealt_out = (
        {name: np.stack([part[name] for part in parts], 1).reshape(12, *parts[0][name].shape[1:]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    )
    assert_same(alone, dealt_out)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 9),
    st.sampled_from([1, 3]),
    st.sampled_from([(0, 3), (3, 1), (2, 0), (1, 4)]),
    st.integers(0, 1),
)
def test_a_restored_iterator_goes_on_where_it_stopped(
    source, tokenizer, config, tmp_path_factory, steps, width, threads, process
):
    config = dataclasses.replace(config, captions_per_image=width)
    before, after = (dataclasses.replace(config, read_threads=number) for number in threads)
    whole = list(islice(train_iterator(source, tokenizer, config, 4, 7, process, 2), 15))
    iterator = train_iterator(source, tokenizer, before, 4, 7, process, 2)
    assert_same(whole[:steps], islice(iterator, steps))
    directory = tmp_path_factory.mktemp("checkpoint")
    with ocp.CheckpointManager(directory) as manager:
        manager.save(steps, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    resumed = train_iterator(source, tokenizer, after, 4, 7, process, 2)
    next(resumed)  # what it gave before it was restored must not matter
    with ocp.CheckpointManager(directory) as manager:
        manager.restore(steps, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed)))
    assert_same(whole[steps:], islice(resumed, 15 - steps))
    iterator.close()
    resumed.close()


def test_worker_processes_change_nothing_in_the_stream(source, tokenizer, config):
    with_workers = dataclasses.replace(config, workers=2, read_threads=1)
    expected = list(islice(train_iterator(source, tokenizer, config, 4, seed=2), 6))
    iterator = train_iterator(source, tokenizer, with_workers, 4, seed=2)
    assert_same(expected[:2], islice(iterator, 2))
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    resumed = train_iterator(source, tokenizer, with_workers, 4, seed=2)
    resumed.set_state(state)
    assert_same(expected[2:], islice(resumed, 4))
    resumed.close()


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_evaluation_sees_every_record_once_in_order(source, tokenizer, config, batch_size, threads):
    dataset = eval_batches(source, tokenizer, dataclasses.replace(config, read_threads=threads), batch_size)
    for _ in range(2):  # it can be gone through again
        batches = list(dataset)
        assert all(batch["tokens"].shape == (batch_size, 5, 12) for batch in batches)
        ids = np.concatenate([batch["image_id"] for batch in batches])
        assert ids.tolist() == [*range(7), *[-1] * (-7 % batch_size)]
        rows = [row for batch in batches for row in texts(batch, tokenizer)]
        assert rows[:7] == [list(source[i].captions) for i in range(7)]
        assert rows[7:] == [[]] * (-7 % batch_size)
        assert not np.concatenate([batch["image"] for batch in batches])[7:].any()


def break_images(folder, tmp_path, broken):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in broken:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_skipped_and_counted_once(folder, config, tokenizer, tmp_path, workers):
    break_images(folder, tmp_path, ["1.png", "3.png"])
    config = dataclasses.replace(config, root=str(tmp_path), on_error="skip", workers=workers, read_threads=2)
    source = open_source(config, "train")
    assert source.faults.summary() == "nothing skipped"
    if not workers:
        evaluated = np.concatenate([batch["image_id"] for batch in eval_batches(source, tokenizer, config, 4)])
        assert evaluated.tolist() == [0, 2, 4, 5, 6, -1, -1, -1]
    iterator = train_iterator(source, tokenizer, config, batch_size=9, seed=0)  # 17 pairs less 3 and 5
    for batch in islice(iterator, 3):
        assert Counter(c for (c,) in texts(batch, tokenizer)) == Counter(
            caption for i in (0, 2, 4, 5, 6) for caption in source[i].captions
        )
    next(iterator)
    iterator.close()
    assert source.faults.counts == {"unreadable image": 2}
    assert "skipped 2: 2 x unreadable image (first: image '" in source.faults.summary()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_unreadable_image_is_an_error_that_names_it(folder, config, tokenizer, tmp_path, threads):
    break_images(folder, tmp_path, ["3.png"])
    config = dataclasses.replace(config, root=str(tmp_path), read_threads=threads)
    source = open_source(config, "train")
    with pytest.raises(DataError, match=r"image '3.png': broken image \(.*--data.on_error skip"):
        list(eval_batches(source, tokenizer, config, 4))
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"image '0.png': can't be read \(No such file or directory\)"):
        list(eval_batches(source, tokenizer, config, 1))


@pytest.mark.parametrize(("threads", "workers"), [(0, 0), (2, 0), (1, 1)])
def test_after_a_fault_that_is_mended_the_stream_goes_on_where_it_was(
    folder, config, tokenizer, tmp_path, threads, workers
):
    break_images(folder, tmp_path, ["6.png"])
    config = dataclasses.replace(config, root=str(tmp_path), read_threads=threads, workers=workers)
    whole = []
    expected = train_iterator(
        open_source(dataclasses.replace(config, root=str(folder)), "train"), tokenizer,
        dataclasses.replace(config, root=str(folder), workers=0), 2, seed=4,
    )  # fmt: skip
    iterator = train_iterator(open_source(config, "train"), tokenizer, config, 2, seed=4)
    try:
        while True:
            before = iterator.get_state()
            whole.append(next(iterator))
    except DataError as error:
        assert "image '6.png'" in str(error)  # noqa: PT017
    iterator.set_state(before)
    saved = json.loads(json.dumps(iterator.get_state()))
    (tmp_path / "6.png").write_bytes((folder / "6.png").read_bytes())
    resumed = train_iterator(open_source(config, "train"), tokenizer, config, 2, seed=4)
    resumed.set_state(saved)
    whole += islice(resumed, 12 - len(whole))
    assert_same(whole, islice(expected, 12))
    resumed.close()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_broken_images_are_found_before_they_are_met(folder, config, tmp_path, on_error):
    break_images(folder, tmp_path, ["3.png", "5.png"])
    config = dataclasses.replace(config, root=str(tmp_path), on_error=on_error)
    source = open_source(config, "train")
    check_images(source, 3, threads=2)  # none of the first
    assert source.faults.summary() == "nothing skipped"
    if on_error == "skip":
        check_images(source, 100, threads=2)
        assert source.faults.counts == {"unreadable image": 2}
    else:
        with pytest.raises(DataError, match="image '3.png': broken image"):
            check_images(source, 100, threads=2)


@pytest.mark.parametrize("settings", [{"truncated": "accept"}, {"on_error": "skip"}])
def test_what_the_message_about_a_truncated_image_offers_is_taken(folder, config, tokenizer, tmp_path, settings):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    image = Image.open(folder / "3.png")
    image.save(tmp_path / "3.png", "JPEG")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:-100])
    config = dataclasses.replace(config, root=str(tmp_path))
    with pytest.raises(DataError) as refused:
        list(eval_batches(open_source(config, "train"), tokenizer, config, 7))
    for name, value in settings.items():
        assert f"--data.{name} {value}" in str(refused.value)
    config = dataclasses.replace(config, **settings)
    (batch,) = eval_batches(open_source(config, "train"), tokenizer, config, 7)
    assert (batch["image_id"] >= 0).sum() == (7 if "truncated" in settings else 6)


def test_when_no_image_can_be_read_training_does_not_search_for_ever(folder, config, tokenizer, tmp_path):
    break_images(folder, tmp_path, [f"{i}.png" for i in range(7)])
    config = dataclasses.replace(config, root=str(tmp_path), on_error="skip")
    source = open_source(config, "train")
    with pytest.raises(DataError, match="not one of the 7 images can be read: image '"):
        next(train_iterator(source, tokenizer, config, 4, 0))


def test_sources_and_tokenizers_can_be_sent_to_worker_processes(source, tokenizer):
    copies = pickle.loads(pickle.dumps((source, tokenizer)))
    assert copies[0][1].read_image() == source[1].read_image()
    assert copies[1].encode("image 3", 9) == tokenizer.encode("image 3", 9)


def test_the_embedded_scenes_run_through_the_defaults():
    config = DataConfig(scenes=ScenesConfig(train=30, validation=5))
    source = open_source(config, "train")
    tokenizer = train_tokenizer(iterate_captions(source), config.vocab_size)
    batch = next(train_iterator(source, tokenizer, config, 8, seed=0))
    assert batch["image"].shape == (8, 64, 64, 3)
    for image_id, (caption,) in zip(batch["image_id"], texts(batch, tokenizer), strict=True):
        assert caption in source[int(image_id)].captions
    (batch,) = eval_batches(open_source(config, "validation"), tokenizer, config, 5)
    assert batch["mask"].any(-1).all()
