"""Small sets of every layout, written for tests."""

import io
import json
import tarfile
import zipfile

from PIL import Image

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.sources import open_source


def jpeg(number=0):
    """An image like no other number's."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (40 * (number % 7), 30 * (number // 7), 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(root, files):
    """Write files by their names: bytes, text as UTF-8, or anything else as JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_bytes(content))


def as_bytes(content):
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def images(*names, folder=""):
    return {f"{folder}{name}": jpeg(number) for number, name in enumerate(names)}


def pack_zip(path, files, method=zipfile.ZIP_STORED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in files.items():
            file.writestr(name, as_bytes(content))


def pack_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(as_bytes(content))
            file.addfile(entry, io.BytesIO(as_bytes(content)))


def read(root, split="train", **config):
    """A split, by names: its captions."""
    source = opened(root, split, **config)
    return {source[i].filename: source[i].captions for i in range(len(source))}


def opened(root, split="train", **config):
    return open_source(DataConfig(root=str(root), **{"validation_fraction": 0, **config}), split)


def read_images(source):
    return {source[i].filename: source[i].read_image() for i in range(len(source))}


def jpeg_of(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(jpeg_of())


def write_coco(root, images, annotations, name="train2017"):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / name).mkdir(exist_ok=True)
    (root / "annotations" / f"captions_{name}.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )


def coco_image(number):
    return {"id": number, "file_name": f"{number:012d}.jpg", "width": 12, "height": 10}


def coco_caption(number, image_id, caption):
    return {"id": number, "image_id": image_id, "caption": caption}


def captions_of(source):
    return {source[i].filename: source[i].captions for i in range(len(source))}


def open_skipping(root, split="train"):
    return open_source(DataConfig(root=str(root), on_error="skip", validation_fraction=0), split)


def open_strictly(root, split="train"):
    return open_source(DataConfig(root=str(root), validation_fraction=0), split)
