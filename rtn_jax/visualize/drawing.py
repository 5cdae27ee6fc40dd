"""Panels, dots, numbers, lines and words for pictures of matches.

Marks are drawn on a transparent layer at several times the picture's resolution and laid over it reduced, which smooths
their edges and leaves the picture's own pixels alone. Every mark has a dark and a white outline: it can be seen on any
background.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from rtn_jax.coordinates import Shape, outer_edges, resize_points
from rtn_jax.images import resize, to_uint8

Color = tuple[int, int, int]
Point = Iterable[float | int]  # (x, y)

# Okabe and Ito's colours for every kind of colour vision, then three of Tol's "muted" scheme that differ from them.
PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (136, 34, 85),
    (51, 34, 136),
    (153, 153, 51),
)
DARK: Color = (20, 20, 20)
WHITE: Color = (255, 255, 255)

RADIUS = 0.38
"""A dot's, as a share of its number's height."""

SYMBOLS: tuple[tuple[tuple[float, float], ...] | None, ...] = (
    None,
    ((-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)),
    ((0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)),
    ((0.0, -1.35), (1.25, 0.85), (-1.25, 0.85)),
    ((0.0, 1.35), (-1.25, -0.85), (1.25, -0.85)),
)
"""Disc, square, diamond, triangle up and triangle down, as corners (x, y) in radii: when the colours end, the next
shape begins, so that up to fifty points differ in colour and shape together, whatever colours a reader tells apart."""

_LUMINANCE = (0.2126, 0.7152, 0.0722)
_CLEAR = (0, 0, 0, 0)
_NUMBERED = 50  # more points than these are dots without numbers


@dataclass(frozen=True)
class Panel:
    """The place of a picture of shape `original` on a canvas: shown with `shape`, its top-left pixel at (x, y)."""

    original: Shape
    shape: Shape
    x: int = 0
    y: int = 0

    def at(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Where points of the original picture are on the canvas."""
        at: np.ndarray = resize_points(points, self.original, self.shape) + np.asarray([self.x, self.y])
        return at

    def shown_at(self, points: Float[np.ndarray, "n 2"], radius: float) -> Float[np.ndarray, "n 2"]:
        """The same, those outside the picture moved in so far that a mark of `radius` is seen whole."""
        at, (low, high) = self.at(points), self.box
        outside = ((at < low) | (at > high)).any(axis=1, keepdims=True)
        return np.where(outside, np.clip(at, np.minimum(low + radius, high), np.maximum(high - radius, low)), at)

    @property
    def box(self) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
        """Its outer edges on the canvas: top left and bottom right."""
        low, high = outer_edges(self.shape)
        at = np.asarray([self.x, self.y])
        return low + at, high + at

    def put(self, canvas: UInt8[np.ndarray, "H W 3"], picture: np.ndarray) -> None:
        """Copies a picture, resized if need be, to its place."""
        shown = picture if picture.shape[:2] == self.shape else resize(picture, self.shape)
        canvas[self.y : self.y + self.shape[0], self.x : self.x + self.shape[1]] = to_uint8(shown)


def fitted(original: Shape, height: int, aspect: float) -> Shape:
    """The shape of a picture scaled to `height`, or less where it would be wider than `aspect * height`."""
    scale = min(height / original[0], aspect * height / original[1])
    return max(1, round(original[0] * scale)), max(1, round(original[1] * scale))


class Layer:
    """A transparent layer over a canvas of `shape`; positions (x, y) and lengths are in the canvas's pixels.

    `detail` is the layer's pixels per pixel of the canvas: with 2 edges are a little rougher, in half the time.
    """

    def __init__(self, shape: Shape, *, detail: int = 3) -> None:
        self._detail = detail
        self._image = Image.new("RGBA", (shape[1] * detail, shape[0] * detail), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def line(self, start: Point, end: Point, color: Color, width: float) -> None:
        """A line on a broader one, light under a dark colour and dark under a light one; the picture shines through."""
        ends = [self._at(start), self._at(end)]
        casing = DARK if np.dot(color, _LUMINANCE) > 90 else WHITE
        for paint, extent in (((*casing, 150), width + 1.6), ((*color, 240), width)):
            self._draw.line(ends, paint, max(1, round(extent * self._detail)))

    def dot(self, point: Point, color: Color, radius: float) -> None:
        """A disc inside a white and a dark ring."""
        for paint, share in ((DARK, 1.0), (WHITE, 0.84), (color, 0.64)):
            self._draw.ellipse(self._circle(point, share * radius), fill=paint)

    def symbol(self, point: Point, color: Color, radius: float, shape: int, *, hollow: bool = False) -> None:
        """A mark of one of the `SYMBOLS` inside a white and a dark outline; `hollow` leaves its middle uncovered."""
        corners = SYMBOLS[shape % len(SYMBOLS)]
        if corners is None:
            (self.ring if hollow else self.dot)(point, color, radius)
            return
        solid = ((DARK, 1.0), (WHITE, 0.84), (color, 0.64))
        open_ = ((DARK, 1.0), (WHITE, 0.9), (color, 0.8), (WHITE, 0.56), (DARK, 0.46), (_CLEAR, 0.36))
        middle = np.asarray(self._at(point))
        for paint, share in open_ if hollow else solid:
            outline = middle + np.asarray(corners) * (share * radius * self._detail)
            self._draw.polygon([(x, y) for x, y in outline.tolist()], fill=paint)

    def polygon(self, corners: Float[np.ndarray, "k 2"], color: Color, width: float) -> None:
        """A closed outline on a broader one, light under a dark colour and dark under a light one."""
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            self.line(start, end, color, width)

    def ring(self, point: Point, color: Color, radius: float) -> None:
        """A ring that leaves the picture in its middle uncovered."""
        for paint, outer, inner in ((DARK, 1.0, 0.36), (WHITE, 0.9, 0.46), (color, 0.8, 0.56)):
            width = max(1, round((outer - inner) * radius * self._detail))
            self._draw.ellipse(self._circle(point, outer * radius), outline=paint, width=width)

    def cross(self, point: Point, color: Color, radius: float) -> None:
        """A diagonal cross inside a white and a dark outline."""
        x, y = self._at(point)
        for paint, reach, share in ((DARK, 1.0, 0.9), (WHITE, 0.92, 0.68), (color, 0.8, 0.4)):
            r, width = reach * radius * self._detail, max(1, round(share * radius * self._detail))
            for slope in (1, -1):
                self._draw.line([(x - r, y - slope * r), (x + r, y + slope * r)], paint, width)

    def text(self, point: Point, words: str, size: float, *, anchor: str = "mm", outlined: bool = True) -> None:
        """Words at `point` (`anchor` as in Pillow; "mm" is their middle): white with a dark outline, or plain dark."""
        stroke = round(size * 0.13 * self._detail) if outlined else 0
        paint = WHITE if outlined else DARK
        face = _font(size * self._detail)
        self._draw.text(self._at(point), words, paint, face, anchor, stroke_width=stroke, stroke_fill=DARK)

    def over(self, canvas: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The canvas with the layer on it."""
        below = Image.fromarray(canvas).convert("RGBA")
        return np.array(Image.alpha_composite(below, self._image.reduce(self._detail)).convert("RGB"))

    def _at(self, point: Point) -> tuple[float, float]:
        x, y = resize_points(np.asarray([*point], np.float64), (1, 1), (self._detail, self._detail))
        return float(x), float(y)

    def _circle(self, point: Point, radius: float) -> tuple[float, float, float, float]:
        (x, y), r = self._at(point), radius * self._detail
        return x - r, y - r, x + r, y + r


@lru_cache(maxsize=64)  # reading it takes longer than writing with it
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The sans serif font inside Pillow: the same picture on every machine."""
    return ImageFont.load_default(size)


def text_width(words: str, size: float) -> float:
    """Pixels that a line of text takes."""
    length: float = _font(size).getlength(words)
    return length


def palette(n: int) -> list[Color]:
    """Colours for `n` points: the palette's, from the start again when it ends."""
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def mark_size(n: int, height: int) -> float:
    """The height of the numbers of `n` points in a picture of that height; of many points the dots get smaller."""
    return max(8.0, height / 21 * min(1.0, math.sqrt(_NUMBERED / max(n, 1))))


def mark(
    layer: Layer,
    panel: Panel,
    points: Float[np.ndarray, "n 2"],
    size: float,
    *,
    keep_free: Float[np.ndarray, "k 2"] | None = None,
    reliable: Bool[np.ndarray, " n"] | None = None,
) -> None:
    """Numbered marks at points of a panel's picture; one with a NaN is left out.

    Hollow are those that are not `reliable`, and those outside the picture, which stand at its edge. The numbers are
    kept off the marks at `keep_free` (positions on the canvas) too.
    """
    known = np.isfinite(points).all(axis=1)
    index, colors, radius = np.flatnonzero(known), palette(len(points)), size * RADIUS
    exact, shown = panel.at(points), panel.shown_at(points, radius)
    hollow = (exact != shown).any(axis=1) | (False if reliable is None else ~reliable)
    for i in index.tolist():
        layer.symbol(shown[i], colors[i], radius, i // len(PALETTE), hollow=bool(hollow[i]))
    if len(points) <= _NUMBERED:
        words = [str(i + 1) for i in index]
        marks = shown[index] if keep_free is None else np.concatenate([shown[index], keep_free])
        for place, word in zip(place_labels(marks, words, panel.box, size), words, strict=True):
            layer.text(place, word, size)


def place_labels(
    points: Float[np.ndarray, "m 2"],
    words: Sequence[str],
    box: tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]],
    size: float,
) -> Float[np.ndarray, "n 2"]:
    """Middles of labels of height `size` beside the first of the marks at `points`, one for each word, inside `box`.

    One after the other each takes, of sixteen places around its dot, the one that covers least of other marks, of the
    labels so far and of what lies outside the box; of equal ones the nearer, then the upper right.
    """
    around = np.asarray([(1, -1), (-1, -1), (1, 1), (-1, 1), (1, 0), (-1, 0), (0, -1), (0, 1)]) * [1.0, 0.9]
    radius = np.full(2, 1.15 * RADIUS * size)
    taken = np.concatenate([points - radius, points + radius], axis=1)  # boxes (left, top, right, bottom): marks first
    middles = np.empty((len(words), 2))
    for i, word in enumerate(words):
        half = np.asarray([text_width(word, size) + 0.1 * size, 0.8 * size]) / 2
        near = np.where(np.abs(around).min(axis=1, keepdims=True) > 0, 0.75, 1.0) * around
        places = points[i] + np.concatenate([near * (radius + half), near * (2 * radius + half)])
        boxes = np.concatenate([places - half, places + half], axis=1)
        outside = 4 * half.prod() - _overlap(boxes, np.concatenate(box)[None]).sum(axis=1)
        covered = _overlap(boxes, np.delete(taken, i, axis=0)).sum(axis=1)
        best = int(np.argmin(covered + 4 * outside + 1e-3 * size**2 * np.arange(len(places))))
        middles[i] = places[best]
        taken = np.concatenate([taken, boxes[best : best + 1]])
    return middles


def _overlap(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """The areas that the boxes of `a` share with those of `b`."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    return np.asarray(np.maximum(high - low, 0).prod(axis=-1))
