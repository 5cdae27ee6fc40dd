"""What the page does, without how it is laid out: one method per event."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from rtn_jax.demo.drawing import blended, jpeg_address, marked, picture, png_address, table
from rtn_jax.demo.matcher import Choice, Match, Matcher
from rtn_jax.demo.photos import Photo, read_photo
from rtn_jax.demo.session import Session, Side
from rtn_jax.reporting.markup import element

AS_SAVED = "as saved"
"""The choice of a checkpoint's own image size and iterations."""

_CLICK = "Click a point in the source: its match appears in the target at once."
_GONE = "These photos are no longer in memory (many visitors, or a long pause): load them again."


class Handlers:
    """What the page does, one method per event; returns what the components show, as the browser takes it."""

    def __init__(self, matcher: Matcher, examples: Mapping[str, tuple[Photo, Photo]], uploads: Path) -> None:
        self._matcher, self._examples, self._uploads = matcher, examples, uploads

    def example(self, title: str, session: Session, share: float, since: float) -> tuple[Any, ...]:
        """A built-in pair with points chosen automatically."""
        started = time.perf_counter()
        session = session.with_photos(*self._examples[title], since)
        match = session.match(self._matcher)
        return self._all(session if match is None else session.marked(match), share, started=started)

    def load(self, side: Side, session: Session, share: float, since: float, file: Any) -> tuple[Any, ...]:
        """An uploaded photo; one that cannot be used leaves its side empty, as gradio has emptied it."""
        try:
            return self._all(session.with_photo(side, self._photo(file), since), share)
        except ValueError as error:
            gr.Warning(str(error), duration=10)
            return self._all(session.with_photo(side, None, since), share, problem=str(error))

    def remove(self, side: Side, session: Session, share: float, since: float) -> Any:
        """A side without a photo. Nothing is said of that side: by now the next photo may be on its way there."""
        changed = session.with_photo(side, None, since)
        if changed is session:  # the next photo has arrived already
            return gr.skip()
        kept, src, tgt, *others = self._all(changed, share)
        return kept, tgt if side == "source" else src, *others

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
        self, session: Session, share: float, network: str, size: str | int, iterations: str | int, mirror_aware: bool
    ) -> tuple[Any, ...]:
        """The same photos and points with another choice of how to match."""
        image_size, steps = (None if value == AS_SAVED else int(value) for value in (size, iterations))
        return self._all(replace(session, choice=Choice(network, image_size, steps, mirror_aware)), share)

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
        if not isinstance(file, dict) or not file.get("path"):
            raise ValueError("the photo did not arrive: load it again")
        path = Path(str(file["path"])).resolve()
        if not path.is_relative_to(self._uploads.resolve()):  # gradio sees to that as well
            raise ValueError("expected an uploaded file")
        return read_photo(path, str(file.get("orig_name") or path.name))

    def _all(
        self, session: Session, share: float, *, problem: str | None = None, started: float | None = None
    ) -> tuple[Any, ...]:
        """Everything on the page, and how long the match took, since `started` if it is made already."""
        started = time.perf_counter() if started is None else started
        match = session.match(self._matcher)
        said = problem
        if match is not None and said is None:
            config = self._matcher.params(session.choice).config
            seconds = time.perf_counter() - started
            how = f"{seconds:.1f} s" if seconds > 0.05 else "known already"
            height, width = config.image_shape
            steps = " + ".join(str(n) for n in config.iterations)
            what = ", the target's mirror image," if match.mirrored else ""
            said = f"{_CLICK} Matched{what} at {width} x {height} with {steps} iterations ({how})."
        warp = _image(None if match is None or session.tgt is None else blended(session.tgt, match, share))
        return *self._marks(session, match), note(said or missing(session), problem=problem is not None), warp

    def _points(self, session: Session) -> tuple[Any, ...]:
        """What a change of the points changes."""
        match = session.match(self._matcher)
        said = _GONE if session.src is None and session.tgt is None else missing(session)
        return *self._marks(session, match), note(said)

    def _marks(self, session: Session, match: Match | None) -> tuple[Any, ...]:
        src = None if session.src is None else marked(session.src, session.src_points)
        tgt = None if session.tgt is None else session.tgt.image
        if match is not None and session.tgt is not None:
            tgt = marked(session.tgt, match.carry(session.src_points))
        return session, _image(src), _image(tgt), table(session, match)


def _image(image: Any) -> dict[str, str] | None:
    return None if image is None else {"url": jpeg_address(image), "orig_name": "photo.jpg"}


def missing(session: Session | None) -> str:
    """What to do next."""
    if session is None or (session.src is None and session.tgt is None):
        return "Load two photos, or take an example."
    if session.src is None:
        return "Load a source photo as well."
    return "Load a target photo as well." if session.tgt is None else _CLICK


def note(words: str, *, problem: bool = False) -> str:
    """The line below the photos."""
    return element("p", words, class_="problem" if problem else "hint", role="alert" if problem else "status")
