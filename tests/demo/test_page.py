"""The page in a real browser: load, click, see the match, take the picture away; bad files; nothing asked of others."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import rtn_jax
from benchmarks.demo import at_once
from rtn_jax.coordinates import resize_points
from rtn_jax.demo.matcher import Choice, Matcher
from rtn_jax.demo.photos import example_photos, read_photo
from rtn_jax.images import read_image, resize
from rtn_jax.visualize.drawing import PALETTE
from tests import browser
from tests.large_files import black_png, empty_file
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

ROOT = Path(__file__).resolve().parents[2]
# Where a share of the source's box is on the picture in it, which is shown whole, in its middle, and not enlarged.
WHERE = """(i => { const b = i.getBoundingClientRect(), w = i.naturalWidth, h = i.naturalHeight,
  s = Math.min(b.width / w, b.height / h, 1);
  return [w / 2 + (ACROSS - .5) * b.width / s, h / 2 + (DOWN - .5) * b.height / s];
})(document.querySelector('#source img'))"""


@pytest.fixture(scope="module")
def matcher():
    """What the page's answers are compared with: two networks of one shape."""
    config = small_config(levels=ONE_LEVEL, residual_units="image")
    return Matcher({f"runs/{seed}": moving_params(config, scale=0.05, seed=seed) for seed in range(2)})


class Served:
    """The command as a user starts it."""

    def __init__(self, home: Path, networks: dict[str, rtn_jax.Params]) -> None:
        for name, params in networks.items():
            rtn_jax.save(home / name, params)
        (home / "tmp").mkdir()
        own = {"RTN_JAX_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT), "TMPDIR": str(home / "tmp")}
        self.home = home
        with (home / "output.txt").open("w") as output, (home / "errors.txt").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rtn_jax", "demo", "--port=0", "--ckpt", *networks],
                cwd=home,
                env=os.environ | own,
                stdout=output,
                stderr=errors,
            )
        deadline = time.monotonic() + 120
        while not (line := (home / "output.txt").read_text()).endswith("\n"):
            assert self.process.poll() is None and time.monotonic() < deadline, self.errors
            time.sleep(0.05)
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
        assert found, line
        self.url = found[1]

    @property
    def errors(self) -> str:
        return (self.home / "errors.txt").read_text()

    @property
    def uploads(self) -> list[Path]:
        """The files that the server has on its disk."""
        return [path for path in (self.home / "tmp").rglob("rtn_jax_demo_*/**/*") if path.is_file()]


@pytest.fixture(scope="module")
def served(tmp_path_factory, matcher):
    if importlib.util.find_spec("gradio") is None:
        if os.environ.get("CI"):
            pytest.fail("no gradio: requirements.txt has it")
        pytest.skip("no gradio")
    browser.chromium.find()  # skips before anything is started
    server = Served(tmp_path_factory.mktemp("home"), matcher.networks)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def page(served):
    """One tab for all tests; each leaves it with two photos."""
    with browser.running() as program:
        tab = program.page()
        program.folder = served.home / "downloads"
        tab.downloads_to(program.folder)
        tab.open(served.url)
        tab.until("document.querySelectorAll('#table tbody tr').length > 4")
        yield tab


def said(page) -> str:
    return page.js("document.querySelector('#note').innerText")


def rows(page) -> list[list[float]]:
    """Number, x, y of the source, x, y of the target and confidence of every point, as the table has them."""
    return [
        [float(x) for x in re.findall(r"-?[\d.]+", row)]
        for row in page.js("[...document.querySelectorAll('#table tbody tr')].map(r => r.innerText)")
    ]


def picture(page, name) -> np.ndarray:
    """What a panel shows."""
    page.until(f"!!document.querySelector('#{name} img')")
    address = page.js(f"document.querySelector('#{name} img').src")
    assert address.startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def click_and_wait(page, across, down) -> list[float]:
    """Clicks the source at shares of its width and height; the newest row of the table."""
    count = "document.querySelectorAll('#table tbody tr').length"
    points = page.js(count)
    page.click("#source img", across, down)
    page.until(f"{count} === {points + 1}")
    return rows(page)[0]


def take_example(page) -> None:
    """The first built-in pair, with its points."""
    page.click("#points button:nth-of-type(3)")  # no points, to see when the new ones are there
    page.until("!document.querySelector('#table tbody tr')")
    page.click("#example-0")
    page.until("document.querySelectorAll('#table tbody tr').length > 4")


def test_an_example_is_there_when_the_page_opens(page, matcher):
    src, tgt = next(iter(example_photos().values()))
    match = matcher.match(src, tgt, Choice("runs/0"))
    listed = rows(page)
    assert [row[0] for row in listed] == list(range(len(listed), 0, -1))
    chosen = resize_points(match.good_points(10), src.shape, src.original)
    np.testing.assert_allclose([row[1:3] for row in listed][::-1], chosen, atol=1)
    assert picture(page, "source").shape[:2] == src.shape
    assert picture(page, "target").shape[:2] == tgt.shape
    assert "Click a point in the source" in said(page)


def test_a_click_shows_its_match(page, matcher):
    src, tgt = next(iter(example_photos().values()))
    match = matcher.match(src, tgt, Choice("runs/0"))
    page.click("#points button:nth-of-type(3)")  # no points
    page.until("!document.querySelector('#table tbody tr')")
    row = click_and_wait(page, 0.4, 0.7)
    assert row[0] == 1
    at = page.js(WHERE.replace("ACROSS", "0.4").replace("DOWN", "0.7"))  # on the picture, as shown
    np.testing.assert_allclose(row[1:3], resize_points(np.asarray(at), src.shape, src.original), atol=2)
    expected = match.carry(np.asarray([at]))[0]
    assert np.abs(expected - at).max() > 3, "the match is elsewhere"
    np.testing.assert_allclose(row[3:5], resize_points(expected, tgt.shape, tgt.original), atol=2)
    assert row[5] == pytest.approx(match.sureness(np.asarray([at]))[0], abs=0.02)
    for name, (x, y) in (("source", at), ("target", expected)):
        there = picture(page, name)[round(y), round(x)].astype(int)
        assert np.abs(there - PALETTE[0]).max() < 30, f"a dot in the {name}"


def test_photos_of_ones_own_are_chosen_or_dropped(page, matcher, tmp_path, rng):
    for name, (height, width) in {"src.png": (300, 400), "tgt.jpg": (500, 350)}.items():
        Image.fromarray(photos(rng, 1, height, width)[0]).save(tmp_path / name, quality=95)
    page.click("#source button[title='Remove Image']")
    page.until("document.querySelector('#note').innerText === 'Load a source photo as well.'")
    assert not rows(page)
    page.choose_file("#source input[type=file]", tmp_path / "src.png")
    page.until("document.querySelector('#source img')?.naturalWidth === 640")
    page.drop_file("#target img", tmp_path / "tgt.jpg")  # onto the photo that is there
    page.until("document.querySelector('#target img')?.naturalWidth === 448")
    page.until("document.querySelector('#note').innerText.includes('Matched')")
    row = click_and_wait(page, 0.5, 0.75)
    np.testing.assert_allclose(row[1:3], (200, 225), atol=4)
    src, tgt = (read_photo(tmp_path / name, name) for name in ("src.png", "tgt.jpg"))
    at = resize_points(np.asarray([row[1:3]]), src.original, src.shape)
    expected = resize_points(matcher.match(src, tgt, Choice("runs/0")).carry(at), tgt.shape, tgt.original)[0]
    np.testing.assert_allclose(row[3:5], expected, atol=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("film.jpg", r"exceed the maximum allowed size of 20.*film\.jpg"),
        ("notes.jpg", r"notes\.jpg: not a picture of a kind that can be read"),
        ("wall.png", r"wall\.png: .* pixels, at most 100,000,000 are read"),
    ],
)
def test_a_bad_file_gets_a_message_and_the_page_lives_on(page, served, tmp_path, name, message):
    empty_file(tmp_path / "film.jpg", 50 * 2**20)
    (tmp_path / "notes.jpg").write_text("these are words")
    black_png(tmp_path / "wall.png", 20_000, 20_000)
    take_example(page)
    page.drop_file("#target img", tmp_path / name)
    page.until(f"/{message}/s.test(document.body.innerText)")
    page.until("!document.querySelector('#target img')")
    assert picture(page, "source").std() > 20, "the other photo is still there"
    page.choose_file("#target input[type=file]", _photo_file(tmp_path))
    page.until("document.querySelector('#target img')?.naturalWidth === 640")
    page.until("document.querySelector('#note').innerText.includes('Matched')")
    points = len(rows(page))
    click_and_wait(page, 0.3, 0.4)
    assert len(rows(page)) == points + 1
    assert "Traceback" not in served.errors


def _photo_file(folder: Path) -> Path:
    Image.fromarray(photos(np.random.default_rng(1), 1, 150, 200)[0]).save(folder / "good.png")
    return folder / "good.png"


def test_a_removal_that_arrives_late_takes_nothing_newer_away(page, tmp_path, rng):
    """A dropped photo is two requests, the old one's removal and the new one: a busy machine turned them round."""

    def after(method, count):
        return page.browser.wait(lambda: page.events(method)[count:], method)

    Image.fromarray(photos(rng, 1, 400, 300)[0]).save(tmp_path / "good.png")
    take_example(page)
    page.call("Fetch.enable", patterns=[{"urlPattern": "*/queue/join*"}])
    try:
        paused = len(page.events("Fetch.requestPaused"))
        page.drop_file("#target img", tmp_path / "good.png")
        removal, load = (after("Fetch.requestPaused", paused + i)[0] for i in range(2))
        page.call("Fetch.continueRequest", requestId=load["requestId"])
        page.until("document.querySelector('#target img')?.naturalWidth === 480")
        answered = len(page.events("Network.responseReceived"))
        page.call("Fetch.continueRequest", requestId=removal["requestId"])
        after("Network.responseReceived", answered)
    finally:
        page.call("Fetch.disable")
    assert len(click_and_wait(page, 0.4, 0.4)) == 6, "there is a target to match with"


def test_of_two_photos_dropped_at_once_the_second_stays(page, tmp_path, rng):
    take_example(page)
    for name, width in (("first.png", 300), ("second.png", 200)):
        Image.fromarray(photos(rng, 1, 400, width)[0]).save(tmp_path / name)
        page.drop_file("#target img", tmp_path / name)
    page.until("document.querySelector('#target img')?.naturalWidth === 320")
    click_and_wait(page, 0.4, 0.4)  # answered after all that was asked before
    assert picture(page, "target").shape == (640, 320, 3)


def test_the_picture_can_be_taken_away(page):
    folder = page.browser.folder
    page.click("#download")
    page.browser.wait(lambda: list(folder.glob("matches.png")), "the picture")
    deadline = time.monotonic() + 20
    while True:
        try:
            taken = read_image(folder / "matches.png")
            break
        except ValueError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert taken.shape[0] == 640
    left, right = picture(page, "source").shape, picture(page, "target").shape
    assert taken.shape[1] == pytest.approx(640 * (left[1] / left[0] + right[1] / right[0]) + 16, abs=3)


def test_the_slider_blends(page):
    take_example(page)
    slider = "document.querySelector('#share input[type=range]')"
    whole = picture(page, "warp").astype(int)
    address = page.js("document.querySelector('#warp img').src")
    page.js(
        f"(s => {{ s.value = 0; s.dispatchEvent(new Event('input', {{bubbles: true}})); "
        f"s.dispatchEvent(new Event('pointerup', {{bubbles: true}})); }})({slider})"
    )
    page.until(f"document.querySelector('#warp img').src !== {json.dumps(address)}")
    target = picture(page, "warp").astype(int)
    assert np.abs(target - whole).mean() > 3
    _, tgt = next(iter(example_photos().values()))
    assert np.abs(target - resize(tgt.image, target.shape[:2])).mean() < 3


def test_the_mirror_image_is_asked_about(page, tmp_path, rng):
    src = photos(rng, 1, 400, 300)[0]
    for name, image in (("source", src), ("target", src[:, ::-1])):
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / f"{name}.png")
        page.drop_file(f"#{name} img", tmp_path / f"{name}.png")  # onto the photo that is there
        page.until(f"document.querySelector('#{name} img')?.naturalWidth === 480")
        page.until("document.querySelector('#note').innerText.includes('Matched at')")
    page.click("#mirrors input")
    page.until("document.querySelector('#note').innerText.includes('Matched, the target\\'s mirror image, at')")
    page.click("#mirrors input")
    page.until("document.querySelector('#note').innerText.includes('Matched at')")
    page.click("#example-0")
    page.until("document.querySelectorAll('#table tbody tr').length > 4")


def test_another_checkpoint_size_and_number_of_iterations(page):
    def choose(name, value):
        page.click(f"#{name} input")
        option = f"[...document.querySelectorAll('[role=option]')].find(o => o.innerText.trim().endsWith('{value}'))"
        page.until(f"!!{option}")
        page.js(f"{option}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")

    def answers() -> np.ndarray:
        return np.asarray([row[3:5] for row in rows(page)])

    def answers_change(before: np.ndarray, note: str) -> None:
        page.until(f"document.querySelector('#note').innerText.includes('Matched at {note} iterations')")
        page.browser.wait(lambda: np.abs(answers() - before).max() > 1, "other answers", seconds=30)

    before = answers()
    choose("network", "runs/1")
    answers_change(before, "32 x 32 with 2")
    before = answers()
    choose("size", "128")
    answers_change(before, "128 x 128 with 2")
    before = answers()
    choose("iterations", "3")
    answers_change(before, "128 x 128 with 3")


def test_on_a_phone_nothing_sticks_out(page, tmp_path):
    page.resize(390, 800)
    try:
        page.until("innerWidth === 390")
        assert page.js("document.documentElement.scrollWidth") <= 390
        beyond = (
            "[...document.querySelectorAll('#photos *, #examples *, #below *, button')].filter(e => "
            "e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
        )
        assert page.js(beyond) == []
        click_and_wait(page, 0.6, 0.3)
    finally:
        page.resize(1280, 900)


def join(served, data, number, session="test"):
    """The answer of the server to an event of the page, sent by hand."""
    body = {"data": data, "fn_index": number, "session_hash": session}
    joined = httpx.post(f"{served.url}/gradio_api/queue/join", json=body, timeout=30)
    if joined.status_code != 200:
        return joined.text
    address = f"{served.url}/gradio_api/queue/data"
    with httpx.stream("GET", address, params={"session_hash": session}, timeout=30) as stream:
        for line in stream.iter_lines():
            if '"process_completed"' in line:
                return line
    raise AssertionError("no answer")


def test_no_file_of_the_server_can_be_had(page, served, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 40), "red").save(secret)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), "blue").save(photo)
    with photo.open("rb") as file:
        uploaded = httpx.post(f"{served.url}/gradio_api/upload", files={"files": file}).json()[0]
    assert Path(uploaded).read_bytes() == photo.read_bytes()
    for path in (secret, uploaded, "/etc/passwd", ROOT / "README.md"):
        for route in (f"/gradio_api/file={path}", f"/file={path}", f"/gradio_api/file{path}"):
            assert httpx.get(served.url + route).status_code == 404

    config = httpx.get(f"{served.url}/config").json()
    boxes = {c["id"]: c["props"].get("elem_id") for c in config["components"]}
    upload = next(
        d
        for d in config["dependencies"]
        if any(boxes.get(target) == "target" and event == "upload" for target, event in d["targets"])
    )

    def loaded(path, **fields):
        about = {"path": str(path), "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}} | fields
        return join(served, [None, 1, 0, about], upload["id"], session=f"visitor with {path} {fields}")

    assert "data:image/jpeg" in loaded(uploaded), "an upload is shown"
    for path in (secret, f"{uploaded}/../../../../secret.png", "http://127.0.0.1:1/a.png", ""):
        assert "data:image" not in loaded(path), path
    assert "data:image" not in loaded(secret, meta={})
    assert "data:image" not in loaded("", url=f"file://{secret}")


def test_several_visitors_at_once(page, served):
    visits = at_once(served.url, served.process.pid, clients=3, seconds=1.0)
    assert visits.errors == []
    assert len(visits.seconds) > 3
    assert min(visits.memory) > 100


def test_no_other_server_was_asked_for_anything(page, served):
    """The last of the tests in the tab: of all that happened."""
    asked = page.requests
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith(f"{served.url}/")] == []
    refused = [words for words in page.complaints if "Content Security Policy" in words]
    assert refused == [], "nothing even tried"


def test_interrupted_it_ends_well_with_a_page_open(page, served):
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(timeout=20) == 0
    assert "Traceback" not in served.errors
    assert served.uploads == []
    assert list((served.home / "tmp").glob("rtn_jax_demo_*")) == []
