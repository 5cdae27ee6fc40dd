"""What one visitor has on the table: two photos, points of the first, and how to match. Values; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from rtn_jax.coordinates import clip_points
from rtn_jax.demo.matcher import Choice, Match, Matcher
from rtn_jax.demo.photos import Photo

Side = Literal["source", "target"]

MAX_POINTS = 20
"""Of a further one the oldest makes room."""
AUTOMATIC_POINTS = 10


@dataclass(frozen=True, eq=False)
class Session:
    """A visitor's table."""

    choice: Choice
    src: Photo | None = None
    tgt: Photo | None = None
    points: tuple[tuple[float, float], ...] = ()
    """(x, y) in pixels of the source as shown, oldest first."""
    src_since: float = 0.0
    """When the browser asked for this source, or for none, by its own clock."""
    tgt_since: float = 0.0

    def with_photo(self, side: Side, photo: Photo | None, since: float = 0.0) -> Session:
        """With another photo on one side, or none; points of a source go with it.

        Requests may overtake each other: one that was sent before what is there changes nothing, and gives `self`.
        """
        if since < (self.src_since if side == "source" else self.tgt_since):
            return self
        if side == "source":
            return replace(self, src=photo, points=(), src_since=since)
        return replace(self, tgt=photo, tgt_since=since)

    def with_photos(self, src: Photo, tgt: Photo, since: float) -> Session:
        """With other photos on both sides, and without points."""
        return replace(self, src=src, tgt=tgt, points=(), src_since=since, tgt_since=since)

    def clicked(self, x: float, y: float) -> Session:
        """With one more point of the source, moved into it if need be."""
        if self.src is None:
            return self
        at = clip_points(np.asarray([x, y], np.float64), self.src.shape)
        return replace(self, points=(*self.points, (float(at[0]), float(at[1])))[-MAX_POINTS:])

    def undone(self) -> Session:
        """Without the newest point."""
        return replace(self, points=self.points[:-1])

    def cleared(self) -> Session:
        """Without points."""
        return replace(self, points=())

    def marked(self, match: Match) -> Session:
        """With points chosen where the match is sure."""
        return replace(self, points=tuple((float(x), float(y)) for x, y in match.good_points(AUTOMATIC_POINTS)))

    def match(self, matcher: Matcher) -> Match | None:
        """The match of its photos, if both are there."""
        return None if self.src is None or self.tgt is None else matcher.match(self.src, self.tgt, self.choice)

    @property
    def src_points(self) -> Float[np.ndarray, "n 2"]:
        """The points as an array."""
        return np.asarray(self.points, np.float64).reshape(-1, 2)
