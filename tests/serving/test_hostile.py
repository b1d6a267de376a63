"""What a server that anyone can reach is sent. Each is refused with a status of its own, and the server stays up."""

import base64
import io
import json
import socket
import struct
import time
import zlib

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ..commands import HANGS
from .conftest import serving
from .test_api import encoded, pictures, post


@pytest.fixture(autouse=True)
def _still_up(server):
    yield
    assert post(server, pictures(1)).status_code == 200


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def photograph() -> bytes:
    rng = np.random.default_rng(1)
    return encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (b"", 415),
        (b"GIF89a", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),  # which Pillow would hand to Ghostscript
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"http://169.254.169.254/latest/meta-data", 415),
        (photograph()[:200], 422),
        (photograph()[:-400], 422),
        (png(50_000, 50_000, b"\0" * 100), 413),
        (png(50_000, 2, b"\0" * 100_002), 200),  # long, but no more pixels than are allowed
        (png(1500, 1500, b"\0" * 1501 * 1500), 413),
        (png(900, 900, b"\0" * 10_000_000), 200),  # more is packed into it than its pixels take
        (png(900, 900, b"\0" * 100), 422),
    ],
)
def test_an_image_that_is_none_or_too_large(server, image, status):
    answer = post(server, [image])
    assert answer.status_code == status, answer.text


def send(address: str, head: str, pieces=(), seconds: float = 30) -> tuple[int, float]:
    """The status that is answered to what is written on a connection, and after how many seconds."""
    host, port = address.removeprefix("http://").split(":")
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        connection.settimeout(0.05)
        received = b""
        for piece in pieces:
            try:
                connection.sendall(piece)
                received = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:  # it no longer listens to more
                break
            if received:
                break
        connection.settimeout(seconds)
        received = received or connection.recv(4096)
    return int(received.split()[1]), time.monotonic() - began


HEAD = "POST /v1/caption HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=b\n"


def test_a_body_that_is_announced_as_huge_is_not_waited_for(server):
    status, seconds = send(server, HEAD + "Content-Length: 10000000000\n\n")
    assert (status, seconds < 5) == (413, True)


def test_a_body_without_end_is_cut_off(server):
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    status, _ = send(server, HEAD + "Transfer-Encoding: chunked\n\n", (chunk for _ in range(1000)))
    assert status == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999999999999999999"])
def test_a_length_that_is_none_is_refused(server, length):
    status, _ = send(server, HEAD + f"Content-Length: {length}\n\n")
    assert status in (400, 413)


def test_a_slow_body_is_given_up(finished):
    with serving(finished[0], "--timeout", 5) as (address, _):
        assert post(address, pictures(1)).status_code == 200
        status, seconds = send(address, HEAD + "Content-Length: 1000\n\n", (b"x" for _ in range(200)))
        assert (status, 4.5 < seconds < 20) == (408, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[" * 10_000 + b"]" * 10_000, 422),
        (b'{"images":' * 10_000 + b"1" + b"}" * 10_000, 422),
        (b'{"images": ["not base64!"]}', 422),
        (b'{"images": []}', 422),
        (b'{"images": "http://127.0.0.1/"}', 422),
        (b'{"images": [1]}', 422),
        (b'{"images": ["AAAA"], "num_beams": NaN}', 422),
        (b'{"images": ["AAAA"], "num_beams": 1e400}', 422),
        (b'{"images": ["AAAA"], "unknown": 1}', 422),
        (b'{"images": ["AAAA"], "prompt": "\\ud800"}', 422),
        (b'{"images": ["AAAA"]}', 415),
        (b"\xff\xfe\x00", 422),
        (json.dumps({"images": ["AAAA"] * 17}).encode(), 422),
    ],
)
def test_json_that_is_none_or_not_what_is_asked_for(server, body, status):
    answer = httpx.post(f"{server}/v1/caption", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"x", 415),
        ("", b"x", 415),
        ("application/x-www-form-urlencoded", b"images=x", 415),
        ("multipart/form-data", b"x", 422),
        ("multipart/form-data; boundary=b", b"x", 422),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n\r\n--b--\r\n", 422),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n', 422),
        ("multipart/form-data; boundary=" + "b" * 10_000, b"x", 422),
        (
            "multipart/form-data; boundary=b",
            b"".join(b'--b\r\nContent-Disposition: form-data; name="x%d"\r\n\r\n1\r\n' % i for i in range(500))
            + b"--b--",
            422,
        ),
    ],
)
def test_forms_that_are_none(server, kind, body, status):
    answer = httpx.post(f"{server}/v1/caption", content=body, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_names_of_files_mean_nothing(server):
    for name, status in [
        ("../../etc/passwd", 200),
        ("/etc/passwd", 200),
        ("a\0b", 200),
        ("con", 200),
        ('"; rm -rf', 200),
        ("x" * 5000, 422),
    ]:
        files = [("images", (name, pictures(1)[0]))]
        assert httpx.post(f"{server}/v1/caption", files=files, timeout=HANGS).status_code == status


@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(data=st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda tail: photograph()[:200] + tail)))
def test_random_bytes_are_no_fault_of_the_server(server, data):
    with_json = httpx.post(f"{server}/v1/caption", json={"images": [base64.b64encode(data).decode()]})
    assert with_json.status_code in (200, 413, 415, 422)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 600), value=st.integers(0, 255))
def test_a_photograph_with_a_changed_byte_is_no_fault_of_the_server(server, place, value):
    data = bytearray(photograph())
    data[place % len(data)] = value
    assert post(server, [bytes(data)]).status_code in (200, 413, 415, 422)


def test_a_request_smuggled_behind_another_is_refused(server):
    head = HEAD + "Content-Length: 4\nTransfer-Encoding: chunked\n\n"
    status, _ = send(server, head, [b"0\r\n\r\n"])
    assert 400 <= status < 500


def test_metadata_is_no_way_in(server):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "<script>alert(1)</script>" * 1000
    Image.new("RGB", (64, 48), "red").save(buffer, "JPEG", exif=exif)
    answer = post(server, [buffer.getvalue()])
    assert (answer.status_code, "script" in answer.text) == (200, False)


@pytest.mark.slow
def test_nothing_that_the_document_allows_or_forbids_makes_the_server_fail(server):
    import schemathesis

    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    statuses = set()
    for operation in schema.get_all_operations():
        made = operation.ok().as_strategy()

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(case=made)
        def call(case):
            answer = case.call(timeout=HANGS)
            statuses.add(answer.status_code)
            assert answer.status_code < 500, answer.text

        call()
    assert statuses & {200, 422}
