"""Captioning by many machines: Ray Data deals the images out to actors, one for each GPU, or for each machine without.

An actor that dies is begun anew, and its share with it. All machines see run directory and images under the same paths,
and have this package installed.
"""

import json
import logging
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dualcap_jax.bulk.captioning import Reader, Rows, row_of
from dualcap_jax.bulk.inputs import Item, Told
from dualcap_jax.bulk.outputs import Row
from dualcap_jax.captioner import Captioner
from dualcap_jax.data.config import DataConfig
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.errors import ConfigError, UserError
from dualcap_jax.training.config import Which

SECONDS = 10
"""Within which a cluster must answer."""

BATCHES = 4
"""Of the search that an actor is given at a time: what is done again where it dies."""


class Actor:
    """Captions its share of the images.

    Args:
        folder: that relative paths begin at.
        workdir: the run directory.
        checkpoint: of it.
        data: how images are read.
        decoding: settings of the search.
        explain: note what each word owes to the image.
    """

    def __init__(
        self,
        folder: str,
        workdir: str,
        checkpoint: Which,
        data: DataConfig,
        decoding: DecodingConfig,
        explain: bool,
    ):
        os.chdir(folder)
        self._captioner = Captioner.load(workdir, checkpoint)
        self._captioner.config = replace(self._captioner.config, data=data)
        self._decoding, self._explain = decoding, explain

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Rows of pickled images, as JSON: of one that can't be read its name and the `error`."""
        failed: dict[str, str] = {}
        reader = Reader([pickle.loads(each) for each in batch["item"]], self._captioner, failed.__setitem__)
        captions = self._captioner.caption_prepared(reader, self._decoding, self._explain)
        rows = [row_of(reader.read.popleft(), caption) for caption in captions]
        rows += [{"image": name, "error": reason} for name, reason in failed.items()]
        return {"row": [json.dumps(row) for row in rows]}


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster.

    Args:
        address: HOST:PORT of its head, "ray://HOST:PORT", or "local" for this machine alone.

    Raises:
        UserError: Ray is not installed.
        ConfigError: nothing answers there.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise UserError("--ray needs Ray: pip install 'dualcap-jax[ray]'") from None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"--ray {address}: no Ray cluster answers there ({told})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def rows_there(ray: Any, batch_size: int, *actor: Any) -> Rows:
    """What captions images by a cluster, in whatever order they come.

    Args:
        ray: connected.
        batch_size: of the search.
        actor: arguments of `Actor` after the first, which is this process's folder.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    nodes = sum(node["Alive"] for node in ray.nodes())
    share = BATCHES * batch_size
    needed = {"num_gpus": 1} if gpus else {"num_cpus": 1}

    def rows(items: Sequence[Item], fail: Told) -> Iterator[Row]:
        if not items:
            return
        ray.data.DataContext.get_current().enable_progress_bars = False
        pickled = [{"item": pickle.dumps(item)} for item in items]
        dealt = ray.data.from_items(pickled, override_num_blocks=-(-len(items) // share))
        found = dealt.map_batches(
            Actor,
            fn_constructor_args=(os.getcwd(), *actor),
            batch_size=share,
            concurrency=(1, gpus or nodes),
            scheduling_strategy="SPREAD",
            **needed,
        )
        for values in found.iter_rows():
            row = json.loads(values["row"])
            if "error" in row:
                fail(row["image"], row["error"])
            else:
                yield row

    return rows
