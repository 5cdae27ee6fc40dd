"""Titled pictures beside and below each other on white."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8

from rtn_jax.visualize.drawing import Layer, Panel, text_width

FRAME = 170
"""The grey between and around panels: a white picture can be told from the page."""


def title_size(height: int) -> float:
    """The height of the titles over pictures of that height."""
    return max(9.0, height / 18)


def board(
    columns: list[list[tuple[str, np.ndarray]]], height: int, *, framed: int | None = None, least_width: float = 0
) -> tuple[UInt8[np.ndarray, "h w 3"], Layer, list[list[Panel]]]:
    """Titled pictures on white, one below the other in each column, a column as wide as its widest picture or title.

    Args:
        columns: of each column its titles and pictures, which are `height` pixels high at most.
        framed: that many columns, from the left, have a grey line around their pictures; all of them unless given.
        least_width: of every column.

    Returns:
        The canvas, the layer over it with the titles, and for every column its pictures' places.
    """
    margin, size = max(4, height // 30), title_size(height)
    title = round(1.5 * size)
    rows = [(row + 1) * (margin + title) + row * height for row in range(max(map(len, columns)))]
    panels: list[list[Panel]] = []
    x = margin
    for column in columns:
        shapes = [(picture.shape[0], picture.shape[1]) for _, picture in column]
        panels.append([Panel(shape, shape, x, y) for shape, y in zip(shapes, rows, strict=False)])
        widths = [max(picture.shape[1], text_width(words, size)) for words, picture in column]
        x += margin + math.ceil(max(*widths, least_width))
    canvas = np.full((rows[-1] + height + margin, x, 3), 255, np.uint8)
    layer = Layer((canvas.shape[0], canvas.shape[1]))
    for number, (column, places) in enumerate(zip(columns, panels, strict=True)):
        for (words, picture), panel in zip(column, places, strict=True):
            if framed is None or number < framed:
                canvas[panel.y - 1 : panel.y + panel.shape[0] + 1, panel.x - 1 : panel.x + panel.shape[1] + 1] = FRAME
            panel.put(canvas, picture)
            layer.text((panel.x, panel.y - title / 2), words, size, anchor="lm", outlined=False)
    return canvas, layer, panels
