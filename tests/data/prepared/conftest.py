import pytest

from .sets import write_coco


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path / "coco")
    return tmp_path / "coco"
