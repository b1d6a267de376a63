"""Where the files of a set lie: in folders of several names, or in the archives that they came in."""

from collections.abc import Iterable
from pathlib import Path

from dualcap_jax.data.archives import File, Place, file_in, folders_in

FLICKR = (
    "Flicker8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "flickr30k_images/flickr30k_images",
    "flickr30k_images",
    "flickr30k-images",
    "Images",
    "images",
)
"""Folders that hold the images of sets whose captions name no folder."""


def find_places(root: Path, *names: str) -> list[Place]:
    """Those folders of these names that are there, and the zips of these names.

    Raises:
        DataError: a zip is broken.
    """
    places: list[Place] = []
    for name in names:
        if (root / name).is_dir():
            places.append(root / name)
        if (archive := root / f"{name}.zip").is_file():
            places += folders_in(archive)
    return places


def find_file(places: Iterable[Place], *names: str) -> File | None:
    """The first file of one of these names."""
    return next((file for place in places for name in names if (file := file_in(place, name))), None)
