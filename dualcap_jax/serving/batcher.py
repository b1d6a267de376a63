"""Items of many callers, worked on together where they are of a kind."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFull(Exception):
    """So many items wait that no more are taken."""


class Closed(Exception):
    """No more items are taken: what was accepted is being finished."""


@dataclass(eq=False)
class _Waiting(Generic[Key, Item, Result]):
    key: Key
    item: Item
    result: "asyncio.Future[Result]"
    since: float
    """Of the event loop's clock."""


class Batcher(Generic[Key, Item, Result]):
    """Joins items with equal keys into batches, and has one thread work on a batch at a time.

    The item that has waited longest decides whose turn it is, so that no key starves another. To be made, used and
    closed within one event loop.

    Args:
        work: `(key, items) -> results`, called in that thread; what it raises is raised to each of the batch's callers.
        batch_size: most items of a batch.
        wait: seconds that the longest waiting item of a batch that is not full waits for more.
        max_waiting: items that may wait at once.
    """

    def __init__(
        self, work: Callable[[Key, list[Item]], Sequence[Result]], batch_size: int, wait: float, max_waiting: int
    ):
        self._work, self._batch_size, self._wait, self._max_waiting = work, batch_size, wait, max_waiting
        self._waiting: deque[_Waiting[Key, Item, Result]] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "batcher")
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._serve())

    @property
    def waiting(self) -> int:
        """How many items wait to be worked on."""
        return sum(not each.result.done() for each in self._waiting)

    async def submit(self, key: Key, items: Sequence[Item]) -> list[Result]:
        """The results of items, in their order. A caller that is cancelled takes what still waits out of the queue.

        Raises:
            QueueFull: there is no room for all of them.
            Closed: `close` was called.
            Exception: what `work` raised.
        """
        if self._closed:
            raise Closed
        if self.waiting + len(items) > self._max_waiting:
            raise QueueFull
        now = self._loop.time()
        mine = [_Waiting(key, item, self._loop.create_future(), now) for item in items]
        self._waiting += mine
        self._changed.set()
        try:
            results = await asyncio.gather(*(each.result for each in mine), return_exceptions=True)
        finally:
            for each in mine:
                each.result.cancel()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results  # type: ignore[return-value]

    async def close(self) -> None:
        """Finish what was accepted; returns when it is."""
        self._closed = True
        self._changed.set()
        await self._task
        self._thread.shutdown()

    async def _serve(self) -> None:
        while batch := await self._next():
            key, items = batch[0].key, [each.item for each in batch]
            try:
                results = await self._loop.run_in_executor(self._thread, self._work, key, items)
            except Exception as error:
                for each in batch:
                    if not each.result.done():
                        each.result.set_exception(error)
            else:
                for each, result in zip(batch, results, strict=True):
                    if not each.result.done():
                        each.result.set_result(result)

    async def _next(self) -> list[_Waiting[Key, Item, Result]]:
        """The next batch; empty when closed and none is left."""
        while True:
            self._changed.clear()
            self._waiting = deque(each for each in self._waiting if not each.result.done())
            batch: list[_Waiting[Key, Item, Result]] = []
            left = None
            if self._waiting:
                first = self._waiting[0]
                batch = [each for each in self._waiting if each.key == first.key][: self._batch_size]
                left = first.since + self._wait - self._loop.time()
            full = len(batch) == self._batch_size
            if full or self._closed or (left is not None and left <= 0):
                for each in batch:
                    self._waiting.remove(each)
                return batch
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
