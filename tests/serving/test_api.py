import base64
import io
import json
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from dualcap_jax import Captioner

from ..commands import HANGS, run, wait_for
from .conftest import serving


def encoded(image: Image.Image, kind="PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def pictures(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (60, 40), (33, 90)]
    return [
        encoded(Image.fromarray(rng.integers(0, 256, (*sizes[i % 3], 3), np.uint8)).resize((64 + i, 50)))
        for i in range(count)
    ]


def post(address, images, path="caption", field="images", headers=None, **settings):
    files = [(field, ("a.png", image)) for image in images]
    return httpx.post(f"{address}/v1/{path}", files=files, data=settings, headers=headers, timeout=HANGS)


@pytest.fixture(scope="module")
def captioner(finished) -> Captioner:
    return Captioner.load(finished[0])


def test_captions_are_those_of_the_captioner_in_the_order_sent(server, captioner):
    images = pictures(5)
    answer = post(server, images)
    assert answer.status_code == 200, answer.text
    expected = captioner(images)
    assert [each["text"] for each in answer.json()["captions"]] == [each.text for each in expected]
    scores = [each["score"] for each in answer.json()["captions"]]
    np.testing.assert_allclose(scores, [each.score for each in expected], rtol=1e-5)


def test_beams_alternatives_prompt_and_explanation_are_those_of_the_captioner(server, captioner):
    (image,) = pictures(1)
    asked = {"num_beams": 3, "num_return_sequences": 2, "prompt": "there"}
    answer = post(server, [image], **asked, explain=True)
    assert answer.status_code == 200, answer.text
    best, expected = answer.json()["captions"][0], captioner(image, explain=True, **asked)
    assert (best["text"], [each["text"] for each in best["others"]]) == (expected.text, [expected.others[0].text])
    assert [word["text"] for word in best["words"]] == [word.text for word in expected.words]
    np.testing.assert_allclose(
        [word["seen"] for word in best["words"]], [word.seen for word in expected.words], rtol=1e-3, atol=1e-4
    )


def test_json_gives_what_a_form_gives(server):
    images = pictures(2)
    asked = {"images": [base64.b64encode(image).decode() for image in images], "num_beams": 1}
    answer = httpx.post(f"{server}/v1/caption", json=asked, timeout=HANGS)
    assert answer.json() == post(server, images, num_beams=1).json()


def test_an_explanation_has_each_word_and_the_maps_asked_for(server, captioner):
    (image,) = pictures(1)
    text = "two red squares"
    answer = post(server, [image], "explain", "image", caption=text, words=[2])
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [word["text"] for word in told["words"]] == text.split()
    expected = captioner.explain(image, text)
    np.testing.assert_allclose(
        [word["log_prob"] for word in told["words"]], [word.log_prob for word in expected], rtol=1e-4
    )
    assert [word["map"] is None for word in told["words"]] == [True, True, False]
    heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["words"][2]["map"].partition(",")[2]))))
    np.testing.assert_allclose(heat / 255, captioner.grad_cam(image, text, 2), atol=0.01)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["image"].partition(",")[2]))))
    np.testing.assert_array_equal(seen, captioner.prepare(image))
    every = post(server, [image], "explain", "image", caption=text).json()
    assert all(word["map"] for word in every["words"])
    none = post(server, [image], "explain", "image", caption=text, words="").json()
    assert not any(word["map"] for word in none["words"])


def test_requests_of_many_clients_are_searched_together(server):
    def batches():
        text = httpx.get(f"{server}/metrics").text
        return [float(re.search(rf"^dualcap_batch_images_{name} (\S+)", text, re.M)[1]) for name in ("count", "sum")]

    images = pictures(32)
    alone = {image: post(server, [image]).json() for image in images}
    count, total = batches()
    with ThreadPoolExecutor(16) as clients:
        together = dict(zip(images, clients.map(lambda image: post(server, [image]).json(), images), strict=True))
    assert {image: each["captions"][0]["text"] for image, each in together.items()} == {
        image: each["captions"][0]["text"] for image, each in alone.items()
    }
    after, images_after = batches()
    assert images_after - total == 32
    assert after - count < 32


def test_what_the_model_is_and_what_may_be_asked_of_it(server, finished, captioner):
    told = httpx.get(f"{server}/v1/model").json()
    assert told["num_beams"] == [1, 2, 3, 5]
    assert told["usual"] == {"num_beams": 2, "max_length": 30}
    assert told["step"] == captioner.step
    assert str(finished[0]) not in json.dumps(told)


def test_the_document_describes_both_forms_and_the_sets_that_are_allowed(server):
    told = httpx.get(f"{server}/openapi.json").json()
    forms = told["paths"]["/v1/caption"]["post"]["requestBody"]["content"]
    assert set(forms) == {"application/json", "multipart/form-data"}
    for form in forms.values():
        assert form["schema"]["properties"]["num_beams"]["enum"] == [1, 2, 3, 5]
        assert "images" in form["schema"]["required"]


@pytest.mark.parametrize(
    ("settings", "status", "told"),
    [
        ({"num_beams": 7}, 422, "num_beams: must be 1 or 2 or 3 or 5"),
        ({"num_beams": 1, "num_return_sequences": 3}, 422, "num_return_sequences: 3; must be at most num_beams, 1"),
        ({"max_length": 31}, 422, "max_length: must be 30"),
        ({"beems": 3}, 422, "beems: Extra inputs are not permitted"),
        ({"prompt": "a b c d e f g h i j k l m"}, 422, "prompt: "),
        ({"num_beams": "many"}, 422, "num_beams: Input should be a valid integer"),
    ],
)
def test_a_setting_that_is_not_offered_is_refused_by_name(server, settings, status, told):
    answer = post(server, pictures(1), **settings)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"].startswith(told)


def test_a_caption_that_is_too_long_or_empty_and_a_word_that_is_not_there_are_refused(server):
    (image,) = pictures(1)
    for settings, told in [
        ({"caption": "very " * 200}, "caption: "),
        ({"caption": " "}, "caption: is empty"),
        ({"caption": "two squares", "words": 5}, "the caption 'two squares' has no word 5"),
    ]:
        answer = post(server, [image], "explain", "image", **settings)
        assert (answer.status_code, answer.json()["detail"][: len(told)]) == (422, told)


def test_other_paths_and_methods_are_problems_too(server):
    for method, path, status in [("GET", "/v1/caption", 405), ("GET", "/nowhere", 404), ("GET", "/page/../../x", 404)]:
        answer = httpx.request(method, server + path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_the_secret_is_asked_for_where_there_is_one(finished, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    with serving(finished[0], "--token-file", secret) as (address, _):
        for headers, status in [
            ({}, 401),
            ({"Authorization": "Bearer open"}, 401),
            ({"Authorization": "open sesame"}, 401),
            ({"Authorization": "Bearer open sesame"}, 200),
        ]:
            for path in ("/v1/model", "/metrics", "/openapi.json"):
                answer = httpx.get(address + path, headers=headers)
                assert answer.status_code == status, (path, headers)
                assert status == 200 or answer.headers["www-authenticate"] == "Bearer"
            assert post(address, pictures(1), headers=headers).status_code == status
        for path in ("/healthz", "/readyz", "/", "/page/page.js", "/examples/0.png"):
            assert httpx.get(address + path).status_code == 200


def test_a_server_that_is_full_says_when_to_come_again(finished):
    with serving(finished[0], "--max-queue", 2) as (address, _):
        images = pictures(12)
        with ThreadPoolExecutor(12) as clients:
            answers = list(clients.map(lambda image: post(address, [image]), images))
        assert {answer.status_code for answer in answers} <= {200, 429}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        too_many = post(address, pictures(3))
        assert (too_many.status_code, post(address, pictures(2)).status_code) == (429, 200)


def test_what_takes_too_long_is_given_up(finished):
    with serving(finished[0], "--timeout", 0.1) as (address, _):
        for num_beams in (5, 4, 3):  # each has to be compiled first
            answer = post(address, pictures(1), num_beams=num_beams)
            if answer.status_code != 408:  # on a busy machine the image itself may come too slowly
                break
        assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (503, True), answer.text
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_a_client_that_leaves_is_dropped(finished):
    with serving(finished[0]) as (address, _):
        body = pictures(1)[0]
        for _ in range(64):
            sent(address, [body]).close()
        assert post(address, [body]).status_code == 200
        wait_for(lambda: 'status="499"' in httpx.get(f"{address}/metrics").text)
        text = httpx.get(f"{address}/metrics").text
        captioned = float(re.search(r"^dualcap_captions_total (\S+)", text, re.M)[1])
        assert captioned < 65


def sent(address: str, images) -> socket.socket:
    """A connection on which a request for captions was sent."""
    host, port = address.removeprefix("http://").split(":")
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    form = b"".join(part + image + b"\r\n" for image in images) + b"--b--\r\n"
    head = f"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Length: {len(form)}\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + form)
    return connection


def answer_on(connection: socket.socket) -> httpx.Response:
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return httpx.Response(int(head.split()[1]), content=body)


def test_a_server_asked_to_end_answers_what_it_accepted(finished):
    with serving(finished[0]) as (address, process):
        images = pictures(16)
        connections = [sent(address, images) for _ in range(8)]
        assert httpx.get(f"{address}/healthz").status_code == 200  # so those before it are accepted
        process.send_signal(signal.SIGTERM)
        answers = [answer_on(connection) for connection in connections]
        assert [(answer.status_code, len(answer.json()["captions"])) for answer in answers] == [(200, 16)] * 8
        assert process.wait(60) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_a_killed_server_starts_again_in_the_same_place(finished):
    with serving(finished[0]) as (address, process):
        process.kill()
        process.wait()
        port = address.rpartition(":")[2]
        with serving(finished[0], "--port", port) as (again, _):
            assert again == address


def test_nothing_is_written_to_disk(server, tmp_path):
    before = set(tmp_path.parent.parent.rglob("*"))
    large = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 800, 3), np.uint8)))
    assert len(large) > 2**20  # above which Starlette would write it
    assert post(server, [large]).status_code == 200
    assert set(tmp_path.parent.parent.rglob("*")) == before


def test_a_mistake_is_one_line(finished, tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, told in [
            (
                ["--port", port],
                f"error: --host 127.0.0.1 --port {port}: address already in use; give others, or --port 0",
            ),
            (["--port", 70000], "error: --port=70000: must be at most 65535"),
            (["--max-upload", "much"], "error: --max-upload much: must be a number and GiB, MiB, GB or MB"),
            (["--beams", "0"], "error: --beams=(0,): must be at least 1 each"),
            (["--lengths", "4000"], "error: --lengths 4000: the language model has "),
            (["--token-file", empty], f"error: --token-file {empty}: is empty; write a secret into it"),
            (["--token-file", tmp_path / "none"], "error: "),
            (["--host", "no.such.host.invalid"], "error: --host no.such.host.invalid"),
        ]:
            done = run("serve", finished[0], *options, code=2)
            assert done.stderr.startswith(told), done.stderr
            assert done.stderr.count("\n") == 1
    assert run("serve", tmp_path, code=2).stderr.startswith("error: ")
