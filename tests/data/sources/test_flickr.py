"""Flickr8k as its authors give it out, zipped or not."""

import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from dualcap_jax.data.prepared.writer import prepare
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import open_source

from ..prepared.sets import data_config, folder_builder, records
from .sets import images, jpeg, opened, pack_zip, read, read_images, write

NAMES = ("1_a.jpg", "2_b.jpg", "3_c.jpg", "4_d.jpg")
TOKENS = "".join(f"{name}#{number}\tCaption {number} of {name} .\n" for name in NAMES for number in (0, 1))
TEXTS = {
    "Flickr8k.token.txt": TOKENS + "2258277193_586949ec62.jpg.1#0\tsome people waiting for a train .\n",
    "Flickr_8k.trainImages.txt": "1_a.jpg\n2_b.jpg\n",
    "Flickr_8k.devImages.txt": "3_c.jpg\n",
}
CAPTIONS = {name: tuple(f"Caption {number} of {name} ." for number in (0, 1)) for name in NAMES}
NOTES = {"__MACOSX/Flicker8k_Dataset/._1_a.jpg": b"note", "__MACOSX/._Flickr8k.token.txt": b"note"}


def write_texts(root, how, texts=TEXTS):
    if how == "zip":
        pack_zip(root / "Flickr8k_text.zip", {**texts, **NOTES}, zipfile.ZIP_DEFLATED)
    else:
        write(root / how, texts)


def write_images(root, how):
    if how == "stored":
        pack_zip(root / "Flickr8k_Dataset.zip", {**images(*NAMES, folder="Flicker8k_Dataset/"), **NOTES})
    elif how == "deflated":
        pack_zip(root / "Flickr8k_Dataset.zip", images(*NAMES, folder="Flicker8k_Dataset/"), zipfile.ZIP_DEFLATED)
    elif how == "backslashes":  # as some programs of Windows write them
        pack_zip(root / "Flickr8k_Dataset.zip", images(*NAMES, folder="Flicker8k_Dataset\\"))
    else:
        write(root / how, images(*NAMES))


@pytest.mark.parametrize("texts", ["zip", ".", "Flickr8k_text"])
@pytest.mark.parametrize(
    "where",
    [
        "stored",
        "deflated",
        "backslashes",
        "Flicker8k_Dataset",
        "Flickr8k_Dataset/Flicker8k_Dataset",
        "Flickr8k_Dataset",
        "Images",
        ".",
    ],
)
def test_its_lists_divide_flickr8k_wherever_it_lies(tmp_path, texts, where):
    write_texts(tmp_path, texts)
    write_images(tmp_path, where)
    train = opened(tmp_path)
    assert read(tmp_path) == {name: CAPTIONS[name] for name in NAMES[:2]}
    assert read(tmp_path, "validation") == {"3_c.jpg": CAPTIONS["3_c.jpg"]}
    assert read_images(train) == {name: jpeg(number) for number, name in enumerate(NAMES[:2])}
    assert [train[i].image_id for i in range(2)] == [0, 1]
    assert opened(tmp_path, "validation")[0].image_id == 2
    assert train.faults.summary() == "nothing skipped"
    with pytest.raises(
        DataError, match=r"no split 'test'; it has train, validation. List the images of 'test' in Flickr"
    ):
        opened(tmp_path, "test")


def test_without_lists_all_images_are_divided_and_captions_of_the_lost_image_are_counted(tmp_path):
    write_texts(tmp_path, ".", {"Flickr8k.token.txt": TEXTS["Flickr8k.token.txt"]})
    write_images(tmp_path, "stored")
    train = opened(tmp_path, validation_fraction=0.25)
    validation = opened(tmp_path, "validation", validation_fraction=0.25)
    assert sorted([*train.filenames, *validation.filenames]) == list(NAMES)
    assert len(validation) == 1
    assert train.faults.counts == {"missing image": 1}
    with pytest.raises(DataError, match=r"has no split 'validation'.* --data.validation-fraction 0.1"):
        opened(tmp_path, "validation")


@pytest.mark.parametrize(
    ("name", "change", "kind", "sentence"),
    [
        ("Flickr8k.token.txt", "3_c.jpg a caption\n", "malformed line", r"token.txt:9: is not NAME#NUMBER, a tab"),
        ("Flickr8k.token.txt", "3_c.jpg#2\t \n", "empty caption", r"token.txt:9: a caption of .*3_c.jpg' is empty"),
        ("Flickr_8k.devImages.txt", "9_x.jpg\n", "missing image", r"devImages.txt:2: image '9_x.jpg' does not exist"),
        ("Flickr_8k.devImages.txt", "1_a.jpg\n", "contradictory split", r"devImages.txt:2: image '1_a.jpg' is in "),
        ("Flickr_8k.devImages.txt", "5_e.jpg\n", "image without captions", r"image '5_e.jpg' has no caption"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_line_or_skipped_and_counted(tmp_path, name, change, kind, sentence):
    texts = {**TEXTS, "Flickr8k.token.txt": TOKENS}
    write_texts(tmp_path, ".", {**texts, name: texts[name] + change})
    write(tmp_path, images(*NAMES, "5_e.jpg", folder="Images/"))
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path, "validation")
    source = opened(tmp_path, "validation", on_error="skip")
    assert source.faults.counts == {kind: 1}
    assert list(source.filenames) == ["3_c.jpg"]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_images_in_a_zip_are_read_by_threads_and_processes_at_once(tmp_path, start):
    write_texts(tmp_path, ".")
    write_images(tmp_path, "deflated")
    source = opened(tmp_path)
    expected = {"1_a.jpg": jpeg(0), "2_b.jpg": jpeg(1)}
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read_images, [source] * 50)) == [expected] * 50
    with ProcessPoolExecutor(1, get_context(start)) as processes:
        reading = [processes.submit(source[place].read_image) for place in [0, 1] * 10]
        assert [each.result() for each in reading] == [jpeg(0), jpeg(1)] * 10


@pytest.mark.parametrize("change", ["cut", "byte", "other"])
def test_a_damaged_zip_is_told_for_the_image_or_the_whole(tmp_path, change):
    write_texts(tmp_path, ".")
    write_images(tmp_path, "stored")
    path = tmp_path / "Flickr8k_Dataset.zip"
    source, data = opened(tmp_path), path.read_bytes()
    path.write_bytes({"cut": data[:100], "byte": data[:100] + b"?" + data[101:], "other": data[50:]}[change])
    with pytest.raises(OSError, match=r"in Flickr8k_Dataset.zip: it (lacks its end|is damaged|has changed)"):
        source[0].read_image()
    if change == "cut":
        with pytest.raises(DataError, match=r"Flickr8k_Dataset.zip: broken or incomplete .* download it again"):
            opened(tmp_path)


def test_a_set_in_zips_is_prepared_as_it_is_read(tmp_path):
    write_texts(tmp_path, "zip")
    write_images(tmp_path, "deflated")
    prepare(folder_builder(tmp_path / "out"), tmp_path)
    for split in ("train", "validation"):
        assert records(open_source(data_config(tmp_path / "out"), split)) == records(opened(tmp_path, split))
