"""A flow's colours together with what they mean."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike

from rtn_jax.visualize.colors import color_wheel, flow_to_color, usual_maximum
from rtn_jax.visualize.drawing import Layer, Panel, text_width
from rtn_jax.visualize.mesh import check_mapping

_LEAST = 48  # pixels of a key in which its words can still be read


def flow_key(max_norm: float | int, *, size: int = 160, unit: str = "px") -> UInt8[np.ndarray, "h w 3"]:
    """The key of `flow_to_color` with its words: which way each colour points, and how long a motion the rim is.

    Args:
        max_norm: the length of a full colour, as given to `flow_to_color`.
        size: of the result's sides in pixels, about.
        unit: of `max_norm`.

    Raises:
        ValueError: `max_norm` not above 0, or `size` below 48.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm: expected a length above 0, got {max_norm}")
    if size < _LEAST:
        raise ValueError(f"size: expected at least {_LEAST} pixels, got {size}")
    words = max(9.0, size / 12)
    line, rim = round(1.4 * words), f"rim: {max_norm:.3g} {unit}"
    beside = round(max(text_width(side, words) for side in ("left", "right")) + words / 2)
    disc = color_wheel(max(8, size - 2 * beside))
    canvas = np.full((disc.shape[0] + 3 * line, max(size, round(text_width(rim, words)) + 2), 3), 255, np.uint8)
    middle = canvas.shape[1] // 2
    panel = Panel(disc.shape[:2], disc.shape[:2], middle - disc.shape[1] // 2, line)
    panel.put(canvas, disc)
    layer = Layer(canvas.shape[:2])
    (left, top), (right, bottom) = (edge.tolist() for edge in panel.box)
    for word, x, y, anchor in (
        *(("up", middle, top - words / 4, "mb"), ("down", middle, bottom + words / 4, "mt")),
        *(("left", left - words / 4, (top + bottom) / 2, "rm"), ("right", right + words / 4, (top + bottom) / 2, "lm")),
        (rim, middle, bottom + 1.9 * line, "mb"),
    ):
        layer.text((x, y), word, words, anchor=anchor, outlined=False)
    return layer.over(canvas)


def flow_picture(
    flow: ArrayLike, max_norm: float | int | None = None, *, unit: str = "px"
) -> UInt8[np.ndarray, "h w 3"]:
    """A flow `[H, W, 2]` as colours with its key to the right of it, on white.

    Args:
        flow: as for `flow_to_color`; unknown motion is grey.
        max_norm: the length of a full colour; that which 98 % of the known motions stay below unless given.
        unit: of the flow.

    Raises:
        ValueError: the shape is not `[H, W, 2]`, or `max_norm` is not above 0.
    """
    flow = check_mapping(flow, name="flow")
    longest = usual_maximum(flow) if max_norm is None else max_norm
    colours = flow_to_color(flow, longest)
    key = flow_key(longest, size=min(200, max(_LEAST, colours.shape[0] // 2)), unit=unit)
    gap = max(4, key.shape[1] // 10)
    height = max(colours.shape[0], key.shape[0])
    picture = np.full((height, colours.shape[1] + gap + key.shape[1], 3), 255, np.uint8)
    picture[: colours.shape[0], : colours.shape[1]] = colours
    picture[: key.shape[0], colours.shape[1] + gap :] = key
    return picture
