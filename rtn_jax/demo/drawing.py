"""A session and its match as pictures, and as a table."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rtn_jax.coordinates import resize_points
from rtn_jax.demo.matcher import Match
from rtn_jax.demo.photos import Photo
from rtn_jax.demo.session import Session
from rtn_jax.images import resize
from rtn_jax.reporting.markup import Markup, element, joined
from rtn_jax.visualize import draw_matches
from rtn_jax.visualize.colors import HOLE
from rtn_jax.visualize.drawing import Layer, Panel, mark, mark_size, palette

_QUALITY = 90


def marked(photo: Photo, points: Float[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "h w 3"]:
    """A photo with numbered dots at points (x, y) of it as shown; one outside is a ring at the edge."""
    if not len(points):
        return photo.image
    layer = Layer(photo.shape, detail=2)  # drawn at every click
    mark(layer, Panel(photo.shape, photo.shape), points, mark_size(len(points), max(photo.shape)))
    return layer.over(photo.image)


def blended(photo: Photo, match: Match, share: float) -> UInt8[np.ndarray, "h w 3"]:
    """The target with the source warped onto it, `share` (0..1) of the latter; grey where nothing of it came to lie."""
    warped = np.where(match.covered[..., None], match.warped, np.uint8(HOLE))
    target = resize(photo.image, match.covered.shape)
    return (share * warped + (1 - share) * target).round().astype(np.uint8)


def picture(session: Session, match: Match) -> UInt8[np.ndarray, "h w 3"]:
    """Both photos side by side with their points, joined by lines: what can be taken away.

    Raises:
        ValueError: without photos.
    """
    if session.src is None or session.tgt is None:
        raise ValueError("session: expected two photos")
    points = session.src_points
    return draw_matches(session.src.image, session.tgt.image, points, match.carry(points), height=640)


def table(session: Session, match: Match | None) -> Markup:
    """The points in pixels of the photos as they were given, newest first, with how alike the features are there."""
    if session.src is None or not session.points:
        return Markup("")
    src = session.src_points
    there = resize_points(src, session.src.shape, session.src.original)
    cells = [["", ""] for _ in src]
    if match is not None and session.tgt is not None:
        moved = resize_points(match.carry(src), session.tgt.shape, session.tgt.original)
        cells = [[_place(point), f"{sure:.2f}"] for point, sure in zip(moved, match.sureness(src), strict=True)]
    rows = [
        element("tr", element("td", _dot(i, color)), element("td", _place(there[i])), *(element("td", c) for c in rest))
        for i, (color, rest) in enumerate(zip(palette(len(src)), cells, strict=True))
    ]
    heads = [element("th", words, scope="col") for words in ("", "source (x, y)", "target (x, y)", "similarity")]
    body = element("tbody", *reversed(rows))
    return element("table", element("thead", element("tr", *heads)), body, class_="points")


def jpeg_address(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """The picture itself as an address: nothing is left on the server's disk."""
    return _address(image, "jpeg", quality=_QUALITY, subsampling=0)


def png_address(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """The same without loss, for pictures that are taken away."""
    return _address(image, "png", compress_level=3)  # a fifth larger than by default, in a third of the time


def _address(image: UInt8[np.ndarray, "h w 3"], kind: str, **options: int) -> str:
    output = io.BytesIO()
    Image.fromarray(image).save(output, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(output.getvalue()).decode()}"


def _place(point: Float[np.ndarray, " 2"]) -> str:
    return f"{point[0]:.0f}, {point[1]:.0f}"


def _dot(index: int, color: tuple[int, int, int]) -> Markup:
    return joined(element("span", class_="dot", style=f"background: rgb{color}"), str(index + 1))
