"""Flickr8k as Kaggle gives it out: captions.txt, a table with the columns image and caption, and Images/."""

from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import Faults
from dualcap_jax.data.sources.csv_rows import has_columns, read_csv
from dualcap_jax.data.sources.entries import Entry, among, split_of
from dualcap_jax.data.sources.places import FLICKR, find_places

NAME = "captions.txt with columns image,caption (Kaggle's Flickr8k)"
MEND = "Give captions.txt a column 'split', with '{split}' for some of its images"
FILE = "captions.txt"
COLUMNS = "image", ("caption",)


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return (root / FILE).is_file() and has_columns(root / FILE, *COLUMNS)


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    find = among([*find_places(root, *FLICKR), root])
    return split_of(read_csv(root / FILE, *COLUMNS, faults), find, FILE, config, split, faults)
