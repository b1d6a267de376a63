"""What holds while a command is imported."""

import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

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
