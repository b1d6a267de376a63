"""What holds while a command is imported."""

import gc
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from dualcap_jax import starting


def collects_after_putting_off() -> bool:
    starting.put_off_collecting()
    return gc.isenabled()


def test_a_process_that_another_began_collects_garbage_all_along():
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(collects_after_putting_off).result()


def test_a_command_collects_again_once_it_runs():
    assert gc.isenabled()
    try:
        assert not collects_after_putting_off()
        starting.collect_again()
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("before", [None, "glibc.malloc.check=1"])
def test_a_command_begins_anew_once_to_ask_for_huge_pages(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: begun.append((path, arguments)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "-m", "dualcap_jax.train", "--seed", "1"])
    monkeypatch.setattr(starting, "WHO_GETS_THEM", str(tmp_path / "enabled"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if before is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", before)

    for there in ("[always] madvise never", "always madvise [never]", None):
        if there is not None:
            (tmp_path / "enabled").write_text(there)
        else:
            (tmp_path / "enabled").unlink()
        starting.use_huge_pages()
    assert begun == []

    (tmp_path / "enabled").write_text("always [madvise] never\n")
    starting.use_huge_pages()
    assert begun == [(sys.executable, [sys.executable, "-W", "error", "-m", "dualcap_jax.train", "--seed", "1"])]
    assert os.environ["GLIBC_TUNABLES"].split(":") == [*filter(None, [before]), "glibc.malloc.hugetlb=1"]

    starting.use_huge_pages()
    assert len(begun) == 1
