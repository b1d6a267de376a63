"""What the server does for a request, apart from HTTP."""

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dualcap_jax.captioner import Caption
from dualcap_jax.data.images import ImageError
from dualcap_jax.data.inputs import open_image
from dualcap_jax.explain.words import Word
from dualcap_jax.serving.batcher import Batcher
from dualcap_jax.serving.config import ServingConfig
from dualcap_jax.serving.engine import Engine, Settings
from dualcap_jax.serving.metrics import Metrics
from dualcap_jax.serving.problems import Problem, busy

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
"""Pillow's decoders that see what strangers send."""

T = TypeVar("T")


class Service:
    """Decodes, batches and compiles; to be used within `running`.

    Args:
        engine: computes.
        config: the server's.
        metrics: are told of each batch.
    """

    def __init__(self, engine: Engine, config: ServingConfig, metrics: Metrics):
        self.engine, self.config, self._metrics = engine, config, metrics
        captioner = engine.captioner
        data = replace(captioner.config.data, max_pixels=config.max_pixels)
        captioner.config = replace(captioner.config, data=data)
        self._compilations: dict[Hashable, asyncio.Task[None]] = {}
        self.ready = False
        """Whether the run's own search is compiled, for one image at least."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take requests within the block; at its end, finish those that were accepted."""
        config = self.config
        self._decoders = ThreadPoolExecutor(os.cpu_count(), "decode")
        self._compiler = ThreadPoolExecutor(1, "compile")
        self._batcher: Batcher[Any, Any, Any] = Batcher(
            self._work, config.batch_size, config.batch_wait_ms / 1000, config.max_queue
        )
        self._metrics.watch_queue(lambda: self._batcher.waiting)
        usual = asyncio.create_task(self._compile_usual())
        try:
            yield
        finally:
            usual.cancel()
            await self._batcher.close()
            self._decoders.shutdown()
            self._compiler.shutdown(wait=False, cancel_futures=True)

    async def _compile_usual(self) -> None:
        try:
            await self._compiled(self.engine.usual)
        except Exception as error:  # requests try it again
            print(f"the usual search can't be compiled: {error}", file=sys.stderr)
            return
        self.ready = True
        await self._once("explain", self.engine.compile_explaining)

    async def _compiled(self, settings: Settings) -> None:
        """Return once a search is compiled for one image; larger batches follow by themselves."""
        shape = self.engine.shape(settings)
        if shape not in self.engine.compiled:
            await self._once(shape, self._compile, settings)

    def _compile(self, settings: Settings) -> None:
        self.engine.compile(settings, 1)
        with suppress(RuntimeError):  # the server is stopping
            for size in self.config.sizes[1:]:
                self._compiler.submit(self.engine.compile, settings, size)

    async def _once(self, key: Hashable, compile: Callable[..., None], *args: Any) -> None:
        """Return once this was compiled, by a thread that keeps nobody waiting who does not need it."""
        task = self._compilations.get(key)
        if task is None or (task.done() and task.exception()):
            task = self._compilations[key] = asyncio.create_task(self._in(self._compiler, compile, *args))
        await asyncio.shield(task)

    async def caption(self, images: Sequence[bytes], settings: Settings, count: int) -> list[Caption]:
        """Captions of encoded images, the best with `count - 1` others.

        Raises:
            Problem: an image can't be read, there is no room, or it takes too long.
            ConfigError: the prompt is too long.
        """
        self.engine.shape(settings)

        async def work() -> list[Caption]:
            opened = await asyncio.gather(*(self._in(self._decoders, self._prepared, image) for image in images))
            await self._compiled(settings)
            return await self._batcher.submit(settings, opened)

        captions = await self._in_time(work())
        self._metrics.captions.inc(len(captions))
        return [replace(each, others=each.others[: count - 1]) for each in captions]

    async def explain(
        self, image: bytes, caption: str, places: Sequence[int] | None
    ) -> tuple[np.ndarray, tuple[Word, ...], dict[int, np.ndarray]]:
        """What an image gave each word of any caption.

        Args:
            image: encoded.
            caption: any text.
            places: of the words to map, from 0; None: of all.

        Returns:
            What the network saw, uint8 [size, size, 3]; the words; and by place the maps, float32 [size, size].

        Raises:
            Problem: as for `caption`.
            UserError: the caption is too long, or has no such word.
        """

        async def work() -> tuple[np.ndarray, tuple[Word, ...], dict[int, np.ndarray]]:
            opened, captioner = await self._in(self._decoders, self._opened, image), self.engine.captioner
            self.engine.check_caption(caption)
            await self._once("explain", self.engine.compile_explaining)
            (words,) = await self._batcher.submit(partial(captioner.explain, opened), [(caption,)])
            maps = {}
            for place in range(len(words)) if places is None else set(places):
                (maps[place],) = await self._batcher.submit(partial(captioner.grad_cam, opened), [(caption, place)])
            return captioner.prepare(opened), words, maps

        return await self._in_time(work())

    def _work(self, key: Any, items: list[Any]) -> Sequence[Any]:
        """What the batcher's thread does: search together, or explain one by one."""
        if not isinstance(key, Settings):
            return [key(*item) for item in items]
        self._metrics.batch.observe(len(items))
        return self.engine.caption(key, items)

    def _opened(self, data: bytes) -> Image.Image:
        """An image of one of `FORMATS`.

        Raises:
            Problem: it is none, or broken, or too large.
        """
        formats = ", ".join(FORMATS)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels = image.width * image.height
        except Image.DecompressionBombError:
            pixels = self.config.max_pixels + 1
        except UnidentifiedImageError:
            raise Problem(415, f"no image that is read here: {formats} are") from None
        except Exception as error:  # of Pillow's decoders, on broken headers
            raise Problem(422, f"broken image ({error})") from error
        if pixels > self.config.max_pixels:
            raise Problem(413, f"an image of more than {self.config.max_pixels:,} pixels; send a smaller one")
        try:
            return open_image(data, self.engine.captioner.config.data.transform)
        except ImageError as error:
            raise Problem(422, str(error)) from error

    def _prepared(self, data: bytes) -> np.ndarray:
        return self.engine.captioner.prepare(self._opened(data))

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

    async def _in_time(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self.config.timeout):
                return await work
        except TimeoutError:
            raise busy(f"not done within {self.config.timeout:g} s", 503, 5) from None
