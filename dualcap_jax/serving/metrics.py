"""What Prometheus is told."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self) -> None:
        kept = self._registry = CollectorRegistry()
        self.requests = Counter("dualcap_requests", "Requests answered.", ("path", "status"), registry=kept)
        self.seconds = Histogram("dualcap_request_seconds", "Seconds until an answer.", ("path",), registry=kept)
        self.captions = Counter("dualcap_captions", "Images captioned.", registry=kept)
        sizes = (1, 2, 4, 8, 16, 32, 64)
        self.batch = Histogram("dualcap_batch_images", "Images searched together.", buckets=sizes, registry=kept)
        self._queue = Gauge("dualcap_waiting_images", "Images that wait for a batch.", registry=kept)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Ask this for how many images wait."""
        self._queue.set_function(waiting)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
