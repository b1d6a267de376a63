"""Settings of the server."""

from dataclasses import dataclass

from dualcap_jax.data.reading import MAX_PIXELS
from dualcap_jax.errors import require
from dualcap_jax.fields import bytes_of, check_types


@dataclass(frozen=True)
class ServingConfig:
    """What the server accepts, and how much of it at once."""

    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: this machine alone. 0.0.0.0: all of its addresses."""

    port: int = 8000
    """Port to listen on. 0: any that is free."""

    token_file: str = ""
    """File with a secret that clients must send as "Authorization: Bearer SECRET". Empty: none is asked for."""

    max_upload: str = "20MB"
    """Largest body of a request."""

    max_pixels: int = MAX_PIXELS
    """Most pixels of an image."""

    max_queue: int = 128
    """Requests, and images, that may be in work or wait at once. More are answered with status 429."""

    timeout: float = 30.0
    """Seconds until a request must be answered. It is given up with status 503, or with 408 if it was still being
    sent."""

    batch_size: int = 16
    """Most images searched together, and most images of a request."""

    batch_wait_ms: float = 5.0
    """Milliseconds that an image waits for others to be searched with, where nothing else is in work."""

    beams: tuple[int, ...] = (1, 3, 5)
    """Numbers of beams that a request may ask for, beside the run's own. Each is compiled when first asked for."""

    lengths: tuple[int, ...] = ()
    """Longest captions, in tokens, that a request may ask for, beside the run's own. Each is compiled when first asked
    for."""

    max_prompt: int = 8
    """Most tokens of a prompt. Each number of them is compiled when first asked for."""

    def __post_init__(self) -> None:
        """Reject impossible values, naming field, value and accepted range."""
        check_types(self, "--")
        for name, least in (
            ("port", 0),
            ("max_pixels", 1),
            ("max_queue", 1),
            ("batch_size", 1),
            ("batch_wait_ms", 0),
            ("max_prompt", 0),
        ):
            self._require(least <= getattr(self, name) < float("inf"), name, f"must be at least {least}")
        self._require(self.port <= 65535, "port", "must be at most 65535")
        self._require(0 < self.timeout < float("inf"), "timeout", "must be more than 0")
        self._require(all(beams >= 1 for beams in self.beams), "beams", "must be at least 1 each")
        self._require(all(length >= 2 for length in self.lengths), "lengths", "must be at least 2 each")
        self._require(bytes_of("--max-upload", self.max_upload) > 0, "max_upload", "must be more than 0")

    @property
    def max_bytes(self) -> int:
        """Largest body of a request, in bytes."""
        return bytes_of("--max-upload", self.max_upload)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batches that are compiled: 1, 4, 16 ... images, and the largest."""
        sizes = [1]
        while sizes[-1] * 4 < self.batch_size:
            sizes.append(sizes[-1] * 4)
        return (*sizes, self.batch_size) if self.batch_size > 1 else (1,)

    def _require(self, condition: bool, name: str, accepted: str) -> None:
        require(condition, f"--{name.replace('_', '-')}", getattr(self, name), accepted)
