"""metrics.jsonl as it is found: whole, cut short by a kill, or broken."""

import pytest

from dualcap_jax.training.logs import ROW, BrokenLog, read_rows

GOOD = b'{"step": 1, "split": "train"}\n'


def rows(tmp_path, content: bytes) -> list[dict]:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    return list(read_rows(tmp_path / "metrics.jsonl", ROW))


@pytest.mark.parametrize("end", [b"", b'{"step": 2, "spl', b"\xff", b"\0\0\0"])
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path, end):
    assert rows(tmp_path, GOOD + end) == [{"step": 1, "split": "train"}]


def test_a_log_that_is_missing_or_empty_has_no_rows(tmp_path):
    assert list(read_rows(tmp_path / "metrics.jsonl", ROW)) == []
    assert rows(tmp_path, b"") == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"step": 2, "split": "\xff"}', "no JSON"),
        (b'{"step": 2, "spl', "no JSON"),
        (b"", "no JSON"),
        (b"[]", r"\[\] is not an object with a step and a split"),
        (b'{"step": 2}', "is not an object with a step and a split"),
        (b'{"step": "2", "split": "train"}', "is not an object with a step and a split"),
    ],
)
def test_another_line_that_is_no_row_is_named_with_the_mend(tmp_path, line, told):
    with pytest.raises(BrokenLog, match=f"metrics.jsonl:2: .*{told}.*; take this line away, or bring the file back"):
        rows(tmp_path, GOOD + line + b"\n" + GOOD)
