"""The page: gradio's components around a `Matcher`. What is shown travels inside the answers, never as a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from rtn_jax.demo.drawing import blended, jpeg_address, marked, picture, png_address, table
from rtn_jax.demo.look import CSS, DARK_AND_LIGHT, DROP, SAVE, example_css
from rtn_jax.demo.matcher import Choice, Match, Matcher
from rtn_jax.demo.photos import MAX_BYTES, Photo, read_photo
from rtn_jax.demo.session import Session, Side

IMAGE_SIZES = (128, 192, 256, 384, 512)
ITERATIONS = (1, 2, 3, 4, 6, 8)
AS_SAVED = "as saved"
QUEUE = 64
"""Requests that wait; a further one is told that the queue is full."""
SESSIONS = 32
"""Visitors whose photos are kept; of a further one the longest idle loses its photos."""
SECONDS_ON_DISK = 120
"""An upload is read at once and deleted after this time."""

_CLICK = "Click a point in the source: its match appears in the target at once."
_GONE = "These photos are no longer in memory (many visitors, or a long pause): load them again."


class Handlers:
    """What the page does, one method per event; returns what the components show, as the browser takes it."""

    def __init__(self, matcher: Matcher, examples: Mapping[str, tuple[Photo, Photo]], uploads: Path) -> None:
        self._matcher, self._examples, self._uploads = matcher, examples, uploads

    def example(self, title: str, session: Session, share: float) -> tuple[Any, ...]:
        """A built-in pair with points chosen automatically."""
        src, tgt = self._examples[title]
        session = replace(session, src=src, tgt=tgt, points=())
        match = session.match(self._matcher)
        return self._all(session if match is None else session.marked(match), share)

    def load(self, side: Side, session: Session, share: float, file: Any) -> tuple[Any, ...]:
        """An uploaded photo; one that cannot be used leaves the page as it was, with a message."""
        try:
            return self._all(session.with_photo(side, self._photo(file)), share)
        except ValueError as error:
            gr.Warning(str(error), duration=10)
            return self._all(session, share, problem=str(error))

    def remove(self, side: Side, session: Session, share: float) -> tuple[Any, ...]:
        """A side without a photo."""
        return self._all(session.with_photo(side, None), share)

    def click(self, session: Session, event: gr.SelectData) -> tuple[Any, ...]:
        """A point of the source: a look-up in the match that is there, and a drawing."""
        x, y = event.index
        return self._points(session.clicked(x, y))

    def choose(self, session: Session) -> tuple[Any, ...]:
        """Points where the match is sure."""
        match = session.match(self._matcher)
        return self._points(session if match is None else session.marked(match))

    def undo(self, session: Session) -> tuple[Any, ...]:
        """The newest point goes."""
        return self._points(session.undone())

    def clear(self, session: Session) -> tuple[Any, ...]:
        """All points go."""
        return self._points(session.cleared())

    def rematch(
        self, session: Session, share: float, network: str, size: str | int, iterations: str | int
    ) -> tuple[Any, ...]:
        """The same photos and points with another choice of network, size or iterations."""
        numbers = (None if value == AS_SAVED else int(value) for value in (size, iterations))
        return self._all(replace(session, choice=Choice(network, *numbers)), share)

    def blend(self, session: Session, share: float) -> Any:
        """The warped source over the target."""
        match = session.match(self._matcher)
        return _image(None if match is None or session.tgt is None else blended(session.tgt, match, share))

    def take(self, session: Session) -> str:
        """The picture to download, as an address."""
        match = session.match(self._matcher)
        if match is None:
            gr.Warning("Load two photos first.", duration=5)
            return ""
        return png_address(picture(session, match))

    def _photo(self, file: Any) -> Photo:
        path = Path(str(file["path"])).resolve()
        if not path.is_relative_to(self._uploads.resolve()):  # gradio sees to that as well
            raise ValueError("expected an uploaded file")
        return read_photo(path, str(file.get("orig_name") or path.name))

    def _all(self, session: Session, share: float, problem: str | None = None) -> tuple[Any, ...]:
        """Everything on the page, and how long the match took."""
        started = time.perf_counter()
        match = session.match(self._matcher)
        note = problem
        if match is not None and note is None:
            config = self._matcher.params(session.choice).config
            seconds = time.perf_counter() - started
            how = f"{seconds:.1f} s" if seconds > 0.05 else "known already"
            height, width = config.image_shape
            steps = " + ".join(str(n) for n in config.iterations)
            note = f"{_CLICK} Matched at {width} x {height} with {steps} iterations ({how})."
        warp = _image(None if match is None or session.tgt is None else blended(session.tgt, match, share))
        return *self._marks(session, match), _note(note or _missing(session), problem is not None), warp

    def _points(self, session: Session) -> tuple[Any, ...]:
        """What a change of the points changes."""
        match = session.match(self._matcher)
        note = _GONE if session.src is None and session.tgt is None else _missing(session)
        return *self._marks(session, match), _note(note, False)

    def _marks(self, session: Session, match: Match | None) -> tuple[Any, ...]:
        src = None if session.src is None else marked(session.src, session.src_points)
        tgt = None if session.tgt is None else session.tgt.image
        if match is not None and session.tgt is not None:
            tgt = marked(session.tgt, match.carry(session.src_points))
        return session, _image(src), _image(tgt), table(session, match)


def build(matcher: Matcher, examples: Mapping[str, tuple[Photo, Photo]], uploads: Path) -> gr.Blocks:
    """The page.

    Args:
        matcher: its networks are what can be chosen.
        examples: pairs by title; the first one is there when the page is opened.
        uploads: the folder in which gradio puts uploads.
    """
    do = Handlers(matcher, examples, uploads)
    with gr.Blocks(
        title="rtn_jax", analytics_enabled=False, delete_cache=(SECONDS_ON_DISK // 4, SECONDS_ON_DISK)
    ) as page:
        session = gr.State(Session(Choice(next(iter(matcher.networks)))))
        gr.HTML(
            "<h1>Where is this point in the other photo?</h1>"
            "<p>Drop two photos of things of one kind. Click in the source; the network says where that is in the "
            "target.</p>",
            elem_id="opening",
        )
        with gr.Row(elem_id="examples"):
            buttons = {
                title: gr.Button(title, elem_id=f"example-{i}", elem_classes="example", size="sm")
                for i, title in enumerate(examples)
            }
        with gr.Row(elem_id="photos"):
            source, target = (
                _photo_box(side, words) for side, words in (("source", "click a point in it"), ("target", ""))
            )
        note = gr.HTML(_note(_missing(None), False), elem_id="note")
        with gr.Row(elem_id="points"):
            choose = gr.Button("Choose points for me", size="sm", min_width=120)
            undo = gr.Button("Undo", size="sm", min_width=80)
            clear = gr.Button("Clear points", size="sm", min_width=100)
            take = gr.Button("Download picture", size="sm", min_width=120, variant="primary", elem_id="download")
        with gr.Row(elem_id="below"):
            with gr.Column(scale=3, min_width=300):
                gr.HTML("<h2>Source warped onto the target</h2>", elem_classes="title")
                warp = gr.Image(show_label=False, interactive=False, buttons=["fullscreen"], elem_id="warp")
                share = gr.Slider(0, 1, 1, step=0.02, label="From the target to the warped source", elem_id="share")
            with gr.Column(scale=2, min_width=280):
                points = gr.HTML("", elem_id="table", apply_default_css=False)
                names = list(matcher.networks)
                network = gr.Dropdown(names, value=names[0], label="Checkpoint", elem_id="network", filterable=False)
                with gr.Row():
                    size, iterations = (
                        gr.Dropdown(
                            [AS_SAVED, *map(str, numbers)],
                            value=AS_SAVED,
                            label=label,
                            min_width=120,
                            filterable=False,
                            elem_id=name,
                        )
                        for label, name, numbers in (
                            ("Image size", "size", IMAGE_SIZES),
                            ("Iterations per level", "iterations", ITERATIONS),
                        )
                    )
        address = gr.Textbox(visible="hidden", elem_id="address")

        marks = [session, source, target, points, note]
        everything = [*marks, warp]
        # As the handlers give it to the browser: gradio would write a file for each picture.
        raw: dict[str, Any] = {"postprocess": False, "api_visibility": "private", "concurrency_id": "one queue"}
        quick: dict[str, Any] = raw | {"show_progress": "hidden"}
        slow: dict[str, Any] = raw | {"show_progress": "minimal", "show_progress_on": [warp]}
        first = next(iter(examples))
        page.load(lambda s, a: do.example(first, s, a), [session, share], everything, **slow)
        for title, button in buttons.items():
            button.click(lambda s, a, t=title: do.example(t, s, a), [session, share], everything, **slow)
        sides: tuple[tuple[Side, gr.Image], ...] = (("source", source), ("target", target))
        for side, box in sides:
            box.upload(
                lambda s, a, file, side=side: do.load(side, s, a, file),
                [session, share, box],
                everything,
                preprocess=False,
                **slow,
            )
            box.clear(lambda s, a, side=side: do.remove(side, s, a), [session, share], everything, **quick)
        source.select(do.click, [session], marks, trigger_mode="multiple", **quick)
        for button, action in ((choose, do.choose), (undo, do.undo), (clear, do.clear)):
            button.click(action, [session], marks, **quick)
        for box in (network, size, iterations):
            box.input(do.rematch, [session, share, network, size, iterations], everything, **slow)
        share.input(do.blend, [session, share], [warp], trigger_mode="always_last", **quick)
        take.click(do.take, [session], [address], **quick).then(
            None, [address], [address], js=SAVE, api_visibility="private"
        )
    page.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
    page.state_session_capacity = SESSIONS
    return page


def look(examples: Mapping[str, tuple[Photo, Photo]]) -> dict[str, Any]:
    """What gradio wants to know apart from the page: fonts that are on every machine, colours, pictures of buttons."""
    sans, mono = (
        [gr.themes.Font(name) for name in names]
        for names in (("system-ui", "Segoe UI", "Roboto", "sans-serif"), ("ui-monospace", "Consolas", "monospace"))
    )
    theme = gr.themes.Default(primary_hue="sky", neutral_hue="zinc", font=sans, font_mono=mono).set(**DARK_AND_LIGHT)
    return {"theme": theme, "css": CSS + example_css(examples), "js": DROP}


def _photo_box(side: Side, words: str) -> gr.Image:
    with gr.Column(min_width=300):
        gr.HTML(f"<h2>{side.capitalize()} <span>{words}</span></h2>", elem_classes="title")
        return gr.Image(
            show_label=False,
            sources=["upload"],
            interactive=True,
            buttons=["fullscreen"],
            type="filepath",
            elem_id=side,
            alt_text=f"The {side} photo with its points",
            placeholder=f"Drop the {side} photo here\nor tap to choose one (up to {MAX_BYTES >> 20} MB)",
        )


def _image(image: Any) -> dict[str, str] | None:
    return None if image is None else {"url": jpeg_address(image), "orig_name": "photo.jpg"}


def _missing(session: Session | None) -> str:
    if session is None or (session.src is None and session.tgt is None):
        return "Load two photos, or take an example."
    if session.src is None:
        return "Load a source photo as well."
    return "Load a target photo as well." if session.tgt is None else _CLICK


def _note(words: str, problem: bool) -> str:
    from rtn_jax.reporting.markup import element

    return element("p", words, class_="problem" if problem else "hint", role="alert" if problem else "status")
