"""The page, driven in a browser as a person would."""

import shutil

import pytest

from .conftest import serving
from .test_api import pictures

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

STUBS = """
    globalThis.said = [];
    speechSynthesis.speak = (utterance) => said.push(utterance.text);
    speechSynthesis.cancel = () => said.push(null);
    globalThis.copied = [];
    Object.defineProperty(navigator, "clipboard", {value: {writeText: async (text) => copied.push(text)}});
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        flags = [
            "--disable-background-networking",
            "--no-sandbox",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
        ]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page; at the end no script has failed, and no other host was asked."""
    contexts, faults = [], []

    def begin(address=server, may_fail=False, **settings):
        context = browser.new_context(permissions=["camera"], **settings)
        contexts.append(context)
        context.add_init_script(STUBS)
        page = context.new_page()
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        if not may_fail:  # Chromium itself tells of each status that is an error
            page.on("console", lambda told: faults.append(told.text) if told.type in ("error", "warning") else None)
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "blob:", "data:")) else faults.append(asked.url),
        )
        page.goto(address)
        return page

    yield begin
    for context in contexts:
        context.close()
    assert not faults


def choose(page, image: bytes, name="a.png", kind="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": image})


def words(page):
    return page.locator("#words button")


def test_a_picture_is_captioned_with_alternatives_words_and_maps(open_page, server):
    page = open_page()
    page.click("summary")
    page.fill("#prompt", "there are")  # so that there is more than one word
    choose(page, pictures(1)[0])
    expect(page.locator("#status")).to_contain_text("Caption: ")
    text = page.locator("#status").inner_text().removeprefix("Caption: ")
    assert " ".join(words(page).all_inner_texts()) == text
    assert set(page.locator("#others button").all_inner_texts()[0].split("\n")) >= {text}
    kinds = {each.get_attribute("class") for each in words(page).all()}
    assert kinds <= {"clear", "some", "guess"}
    words(page).nth(1).hover()
    expect(page.locator("#word")).to_contain_text(f"“{text.split()[1]}”: ")
    expect(page.locator("canvas[data-map=shown]")).to_be_visible()
    second = page.locator("#others button").nth(1)
    other = second.inner_text().split("\n")[0]
    second.click()
    expect(page.locator("#status")).to_have_text(f"Caption: {other}")
    assert " ".join(words(page).all_inner_texts()) == other
    page.click("#copy")
    expect(page.locator("#status")).to_have_text("Copied.")
    assert [" ".join(each.split()) for each in page.evaluate("copied")] == [other]


def test_beams_and_prompt_are_used(open_page):
    page = open_page()
    page.click("summary")
    page.select_option("#beams", "3")
    page.fill("#prompt", "there")
    page.locator("#examples button").first.click()
    expect(page.locator("#status")).to_contain_text("Caption: there")
    assert page.locator("#others button").count() == 3


def test_a_picture_is_pasted_and_dropped(open_page):
    page = open_page()
    for kind in ("paste", "drop"):
        page.evaluate(
            """async (kind) => {
                const blob = await (await fetch("examples/1.png")).blob(), moved = new DataTransfer();
                moved.items.add(new File([blob], "a.png", {type: "image/png"}));
                const event = kind === "paste" ? new ClipboardEvent(kind, {clipboardData: moved, bubbles: true})
                    : new DragEvent(kind, {dataTransfer: moved, bubbles: true});
                document.getElementById("status").textContent = "";
                document.body.dispatchEvent(event);
            }""",
            kind,
        )
        expect(page.locator("#status")).to_contain_text("Caption: ")


def test_what_goes_wrong_is_told_in_words(open_page):
    page = open_page(may_fail=True)
    choose(page, b"no picture")
    expect(page.locator("#error")).to_contain_text("This is not a picture that can be read")
    choose(page, b"x" * 3_000_000)
    expect(page.locator("#error")).to_contain_text("too large: it has 3.0 MB, and 2.0 MB are allowed")
    page.route("**/v1/caption", lambda route: route.fulfill(status=429, json={"detail": "try again in 1 s"}))
    choose(page, pictures(1)[0])
    expect(page.locator("#error")).to_have_text("The server is busy: try again in 1 s.")
    page.unroute("**/v1/caption")
    page.route("**/v1/caption", lambda route: route.abort())
    choose(page, pictures(1)[0])
    expect(page.locator("#error")).to_contain_text("can't be reached")
    page.unroute("**/v1/caption")
    choose(page, pictures(1)[0])
    expect(page.locator("#status")).to_contain_text("Caption: ")
    expect(page.locator("#error")).to_be_hidden()


def test_the_keyboard_is_enough(open_page):
    page = open_page()
    expect(page.locator("#examples button")).to_have_count(6)

    def tab_to(selector):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab never comes to {selector}")

    tab_to("#file")
    tab_to("#examples button")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Caption: ")
    tab_to("#words button")
    expect(page.locator("canvas[data-map=shown]")).to_be_visible()
    tab_to("#copy")
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_have_text("Copied.")
    tab_to("#others button[aria-pressed=false]")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Caption: ")
    tab_to("#start")
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#start")).to_be_focused()


def test_the_camera_is_described_and_read_aloud_until_it_is_stopped(open_page):
    page = open_page()
    page.click("#start")
    expect(page.locator("#status")).to_have_text("Live: the camera is on.")
    seen = page.locator("#live-caption")
    expect(seen).not_to_be_empty()
    text = seen.inner_text()
    assert [each for each in page.evaluate("said") if each][-1] == text
    assert seen.get_attribute("aria-live") == "off"
    before = len(page.evaluate("said"))
    page.keyboard.press("r")
    said = page.evaluate("said")
    assert len(said) > before
    assert said[-1] == seen.inner_text()
    page.click("#repeat")
    assert page.evaluate("said")[-1] == seen.inner_text()
    page.click("#stop")
    expect(page.locator("#status")).to_have_text("Live: stopped. The camera is off.")
    expect(page.locator("#video")).to_be_hidden()
    assert page.evaluate("document.getElementById('video').srcObject.active") is False


def test_without_a_voice_the_caption_is_announced(open_page):
    page = open_page()
    page.uncheck("#speak")
    page.click("#start")
    expect(page.locator("#live-caption")).not_to_be_empty()
    assert page.locator("#live-caption").get_attribute("aria-live") == "polite"
    assert not [each for each in page.evaluate("said") if each]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_it_fits_and_no_barrier_is_found(open_page, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page.locator("#examples button").first.click()
    expect(page.locator("#status")).to_contain_text("Caption: ")
    words(page).first.focus()
    expect(page.locator("canvas[data-map=shown]")).to_be_visible()
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert not [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


def test_reduced_motion_stops_what_turns(open_page):
    for motion, name in (("reduce", "none"), ("no-preference", "turn")):
        page = open_page(reduced_motion=motion)
        page.evaluate("document.body.classList.add('busy')")
        style = "getComputedStyle(document.getElementById('status'), '::before').animationName"
        assert page.evaluate(style) == name


def test_a_secret_is_asked_for(open_page, finished, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("open sesame")
    with serving(finished[0], "--token-file", secret) as (address, _):
        page = open_page(address, may_fail=True)
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#error")).to_contain_text("this is not it")
        page.fill("#token", "open sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#secret")).to_be_hidden()
        page.locator("#examples button").first.click()
        expect(page.locator("#status")).to_contain_text("Caption: ")
