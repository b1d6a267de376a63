import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcap_jax.serving.batcher import Batcher, Closed, QueueFull


class Work:
    """Doubles numbers; a gate holds it up until it is opened."""

    def __init__(self, open_at_once=True):
        self.batches, self.gate, self.begun = [], threading.Event(), threading.Event()
        if open_at_once:
            self.gate.set()

    def __call__(self, key, items):
        self.begun.set()
        assert self.gate.wait(30)
        self.batches.append((key, list(items)))
        if key == "broken":
            raise RuntimeError("broken")
        return [2 * item for item in items]


async def until(event: threading.Event) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert await asyncio.get_running_loop().run_in_executor(pool, event.wait, 30)


@given(
    requests=st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(), min_size=1, max_size=5)), max_size=12),
    batch_size=st.integers(1, 6),
)
def test_each_caller_gets_its_own_results_in_order_and_no_batch_mixes_keys(requests, batch_size):
    work = Work()

    async def main():
        batcher = Batcher(work, batch_size, 0.001, 1000)
        results = await asyncio.gather(*(batcher.submit(key, items) for key, items in requests))
        await batcher.close()
        return results

    assert asyncio.run(main()) == [[2 * item for item in items] for _, items in requests]
    assert all(1 <= len(items) <= batch_size for _, items in work.batches)
    done, asked = ({key: [] for key in "abc"} for _ in range(2))
    for key, items in work.batches:
        done[key] += items
    for key, items in requests:
        asked[key] += items
    assert done == asked


def test_what_comes_while_a_batch_is_in_work_makes_one_batch():
    work = Work(open_at_once=False)

    async def main():
        batcher = Batcher(work, 8, 0.0, 100)
        first = asyncio.create_task(batcher.submit("a", [1]))
        await until(work.begun)
        others = [asyncio.create_task(batcher.submit("a", [number])) for number in range(2, 8)]
        await asyncio.sleep(0)
        work.gate.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(main()) == [[2 * number] for number in range(1, 8)]
    assert work.batches == [("a", [1]), ("a", [2, 3, 4, 5, 6, 7])]


def test_a_lone_item_waits_for_others_no_longer_than_it_was_told():
    work = Work()

    async def main():
        batcher = Batcher(work, 8, 0.2, 100)
        loop = asyncio.get_running_loop()
        began = loop.time()
        alone = await batcher.submit("a", [1])
        lone = loop.time() - began
        full = await batcher.submit("a", list(range(8)))
        return alone, lone, full, loop.time() - began - lone

    alone, lone, full, unwaited = asyncio.run(main())
    assert (alone, full) == ([2], [2 * item for item in range(8)])
    assert lone >= 0.2
    assert unwaited < 0.2


def test_the_item_that_has_waited_longest_comes_first_whatever_its_key():
    work = Work(open_at_once=False)

    async def main():
        batcher = Batcher(work, 2, 0.0, 100)
        asked = [asyncio.create_task(batcher.submit("a", [0]))]
        await until(work.begun)
        for key, item in [("a", 1), ("b", 2), ("a", 3), ("a", 4)]:
            asked.append(asyncio.create_task(batcher.submit(key, [item])))
            await asyncio.sleep(0)
        work.gate.set()
        await asyncio.gather(*asked)

    asyncio.run(main())
    assert work.batches == [("a", [0]), ("a", [1, 3]), ("b", [2]), ("a", [4])]


def test_a_caller_that_leaves_takes_what_waits_with_it():
    work = Work(open_at_once=False)

    async def main():
        batcher = Batcher(work, 4, 0.0, 100)
        first = asyncio.create_task(batcher.submit("a", [1]))
        await until(work.begun)
        leaving, staying = (asyncio.create_task(batcher.submit("a", [number])) for number in (2, 3))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert batcher.waiting == 1
        work.gate.set()
        return await asyncio.gather(first, staying)

    assert asyncio.run(main()) == [[2], [6]]
    assert work.batches == [("a", [1]), ("a", [3])]


def test_no_more_is_taken_than_there_is_room_for():
    work = Work(open_at_once=False)

    async def main():
        batcher = Batcher(work, 1, 0.0, 2)
        first = asyncio.create_task(batcher.submit("a", [1]))
        await until(work.begun)
        second = asyncio.create_task(batcher.submit("a", [2]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.submit("a", [3, 4])
        third = asyncio.create_task(batcher.submit("a", [5]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.submit("a", [6])
        work.gate.set()
        return await asyncio.gather(first, second, third)

    assert asyncio.run(main()) == [[2], [4], [10]]


def test_what_fails_is_told_to_its_callers_and_the_others_go_on():
    work = Work()

    async def main():
        batcher = Batcher(work, 4, 0.0, 100)
        return await asyncio.gather(batcher.submit("broken", [1, 2]), batcher.submit("a", [3]), return_exceptions=True)

    error, result = asyncio.run(main())
    assert (str(error), result) == ("broken", [6])


def test_closing_finishes_what_was_accepted_and_takes_no_more():
    work = Work(open_at_once=False)

    async def main():
        batcher = Batcher(work, 1, 60.0, 100)
        asked = [asyncio.create_task(batcher.submit("a", [number])) for number in range(4)]
        await until(work.begun)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            await batcher.submit("a", [9])
        work.gate.set()
        await closing
        return await asyncio.gather(*asked)

    assert asyncio.run(main()) == [[0], [2], [4], [6]]
