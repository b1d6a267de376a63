"""Load a server of a run with clients: how fast does it answer one and many, and does its memory stay flat?

    python scripts/benchmark_serving.py runs/NAME [--clients 64] [--seconds 60] [--requests 5000]

A network of transformers of like size (ViT and GPT-2, VisionEncoderDecoderModel.generate, in PyTorch, random weights)
is served by the same app after it, and loaded in the same way. Its captions are as long as the run's are on average.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import asyncio
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dualcap_jax import Caption, Captioner
from dualcap_jax.config import load_run
from dualcap_jax.data.sources.scenes import ScenesSource
from dualcap_jax.serving.config import ServingConfig
from dualcap_jax.serving.engine import Engine, Settings


@dataclass
class Load:
    """What came of sending requests for a while."""

    seconds: list[float]
    """Of each request."""
    statuses: list[int]
    lasted: float

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.seconds) / self.lasted

    def __str__(self) -> str:
        p50, p99 = np.percentile(self.seconds, (50, 99)) * 1000
        errors = sum(status != 200 for status in self.statuses)
        return f"{self.rate:7.1f} a second, p50 {p50:6.1f} ms, p99 {p99:6.1f} ms, {errors} errors"


def request(image: bytes) -> bytes:
    """A request for a caption, as it goes over the wire."""
    form = b"".join(
        [
            b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n',
            image,
            b"\r\n--b--\r\n",
        ]
    )
    head = f"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Length: {len(form)}\r\n"
    return head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + form


async def load(port: int, requests: Sequence[bytes], clients: int, go_on: Callable[[int], bool]) -> Load:
    """Have so many clients send requests, each the next once it is answered, as long as `go_on(requests sent)`."""
    found, sent = Load([], [], 0.0), 0

    async def client() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while go_on(sent):
            sent += 1
            began = time.perf_counter()
            writer.write(requests[sent % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            found.seconds.append(time.perf_counter() - began)
            found.statuses.append(int(head.split()[1]))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    found.lasted = time.perf_counter() - began
    return found


def until(moment: float) -> Callable[[int], bool]:
    """Go on until then."""
    return lambda sent: time.perf_counter() < moment


def resident(process: int) -> float:
    """Memory of a process, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def serving(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The port of a server that is compiled for all sizes of batches, and its process."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().split()[0].rpartition(":")[2])
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").close()
                break
            except OSError:
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


class Peer(Engine):
    """Transformers' network in the place of ours.

    Args:
        captioner: whose tokenizer and sizes it has.
        config: the server's.
        tokens: of each caption.
    """

    def __init__(self, captioner: Captioner, config: ServingConfig, tokens: int):
        import torch
        from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

        super().__init__(captioner, config)
        language: Any = captioner.config.model.language
        side = captioner.config.data.image_size
        vision = ViTConfig(
            hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, image_size=side,
            patch_size=max(side // 8, 1),
        )  # fmt: skip
        text = GPT2Config(
            vocab_size=language.vocab_size, n_positions=language.max_positions, n_embd=language.width,
            n_layer=language.layers, n_head=language.heads, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        joined = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
        self._network = VisionEncoderDecoderModel(joined).eval()
        self._generated = {"min_new_tokens": tokens, "max_new_tokens": tokens, "decoder_start_token_id": 0}
        self._torch = torch
        print(f"peer: {sum(each.numel() for each in self._network.parameters()):,} parameters", file=sys.stderr)

    def _search(self, settings: Settings, images: Sequence[np.ndarray]) -> list[Caption]:
        with self._torch.inference_mode():
            pixels = self._torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
            found = self._network.generate(pixels, num_beams=settings.num_beams, pad_token_id=0, **self._generated)
        return [Caption(self.captioner.tokenizer.decode(ids.tolist()), 0.0, 0.0) for ids in found]


def serve_peer(run: str, tokens: int) -> None:
    """Serve it until the process is ended."""
    import uvicorn

    from dualcap_jax.info import about
    from dualcap_jax.serving.app import create_app

    config = ServingConfig()
    engine = Peer(Captioner.load(run), config, tokens)
    engine.compile_explaining = lambda: None  # type: ignore[method-assign]
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    app: Any = create_app(engine, config, about(Path(run)))
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run([listener])


def main(arguments: Sequence[str]) -> int:
    """Print what came of it; returns 1 where a request failed."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run directory, of scenes")
    parser.add_argument("--clients", type=int, default=64, help="clients at once")
    parser.add_argument("--seconds", type=float, default=60, help="seconds of each load")
    parser.add_argument("--requests", type=int, default=5000, help="requests over which memory is watched")
    parser.add_argument(
        "--serve-peer", type=int, default=0, help="serve the peer instead, with captions of so many tokens"
    )
    args = parser.parse_args(arguments)
    if args.serve_peer:
        serve_peer(args.run, args.serve_peer)
        return 0
    data = load_run(args.run).data
    source = ScenesSource(replace(data, scenes=replace(data.scenes, test=64)), "test")
    images = [source[index].read_image() for index in range(64)]
    captions = Captioner.load(args.run)(images)
    tokens = round(float(np.mean([len(each.tokens) + 1 for each in captions])))
    requests, failed = [request(image) for image in images], 0
    commands = {
        "dualcap_jax": ["-m", "dualcap_jax.serve", args.run, "--port", "0"],
        "transformers": [__file__, args.run, "--serve-peer", str(tokens)],
    }
    rates = {}
    for name, command in commands.items():
        with serving(command) as (port, process):
            asyncio.run(
                load(port, requests, args.clients, lambda sent: sent < 20 * args.clients)
            )  # to compile, to warm
            for clients in (1, args.clients):
                found = asyncio.run(load(port, requests, clients, until(time.perf_counter() + args.seconds)))
                rates[name, clients] = found.rate
                failed += sum(status != 200 for status in found.statuses)
                print(f"{name}, {clients:2} clients: {found}", flush=True)
            memory = [resident(process)]
            for _ in range(2):
                found = asyncio.run(load(port, requests, args.clients, lambda sent: sent < args.requests // 2))
                memory.append(resident(process))
            told = ", ".join(f"{each:.0f}" for each in memory)
            print(f"{name}, memory before, amid and after {args.requests:,} requests: {told} MiB", flush=True)
    for name in commands:
        gain = rates[name, args.clients] / rates[name, 1]
        print(f"{name}: {gain:.2f} times as fast with {args.clients} clients as with 1")
    for clients in (1, args.clients):
        ratio = rates["dualcap_jax", clients] / rates["transformers", clients]
        print(f"dualcap_jax, {clients} clients: {ratio:.2f} times transformers' rate")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
