"""The page: gradio's components around a `Matcher`. What is shown travels inside the answers, never as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from rtn_jax.demo.handlers import AS_SAVED, Handlers, missing, note
from rtn_jax.demo.look import CSS, DARK_AND_LIGHT, DROP, NOW, SAVE, example_css
from rtn_jax.demo.matcher import Choice, Matcher
from rtn_jax.demo.photos import MAX_BYTES, Photo
from rtn_jax.demo.session import Session, Side

IMAGE_SIZES = (128, 192, 256, 384, 512)
ITERATIONS = (1, 2, 3, 4, 6, 8)
QUEUE = 64
"""Requests that wait; a further one is told that the queue is full."""
SESSIONS = 32
"""Visitors whose photos are kept; of a further one the longest idle loses its photos."""
SECONDS_ON_DISK = 120
"""An upload is read at once and deleted after this time."""


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
            source, target = _photo_box("source", "click a point in it"), _photo_box("target", "")
        line = gr.HTML(note(missing(None)), elem_id="note")
        with gr.Row(elem_id="points"):
            choose = gr.Button("Choose points for me", size="sm", min_width=120)
            undo = gr.Button("Undo", size="sm", min_width=80)
            clear = gr.Button("Clear points", size="sm", min_width=100)
            take = gr.Button("Download picture", size="sm", min_width=120, variant="primary", elem_id="download")
        with gr.Row(elem_id="below"):
            with gr.Column(scale=3, min_width=300, elem_classes="titled"):
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
                mirrors = gr.Checkbox(
                    label="It may face the other way (asks about the target's mirror image, too)", elem_id="mirrors"
                )
        address = gr.Textbox(visible="hidden", elem_id="address")
        now = gr.Number(0, visible="hidden")

        marks = [session, source, target, points, line]
        everything = [*marks, warp]
        # As the handlers give it to the browser: gradio would write a file for each picture.
        raw: dict[str, Any] = {"postprocess": False, "api_visibility": "private", "concurrency_id": "one queue"}
        quick: dict[str, Any] = raw | {"show_progress": "hidden"}
        slow: dict[str, Any] = raw | {"show_progress": "minimal", "show_progress_on": [warp]}
        first = next(iter(examples))
        asked: list[Any] = [session, share, now]
        page.load(lambda *a: do.example(first, *a), asked, everything, js=NOW, **slow)
        for title, button in buttons.items():
            button.click(lambda *a, t=title: do.example(t, *a), asked, everything, js=NOW, **slow)
        sides: tuple[tuple[Side, gr.Image], ...] = (("source", source), ("target", target))
        for side, box in sides:
            others = [component for component in everything if component is not box]
            often: dict[str, Any] = {"trigger_mode": "multiple", "js": NOW}
            loaded = [*asked, box]
            box.upload(lambda *a, s=side: do.load(s, *a), loaded, everything, preprocess=False, **often, **slow)
            box.clear(lambda *a, s=side: do.remove(s, *a), asked, others, **often, **quick)
        source.select(do.click, [session], marks, trigger_mode="multiple", **quick)
        for button, action in ((choose, do.choose), (undo, do.undo), (clear, do.clear)):
            button.click(action, [session], marks, **quick)
        how: list[Any] = [network, size, iterations, mirrors]
        for choice in how:
            choice.input(do.rematch, [session, share, *how], everything, **slow)
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
    with gr.Column(min_width=300, elem_classes="titled"):
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
