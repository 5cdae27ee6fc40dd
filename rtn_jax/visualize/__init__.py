"""Pictures of correspondence: arrays in, uint8 RGB arrays `[H, W, 3]` out; `images.save_image` writes them.

Points are (x, y) pixels of the picture they lie in. `draw_matches` shows points, `match_figure` a whole mapping,
`draw_affine` and `draw_correlation` what the network holds on its grid, `iteration_strip` how it got there.
"""

from rtn_jax.visualize.colors import (
    checkerboard,
    color_wheel,
    confidence_to_color,
    flow_to_color,
    grey_out,
    mask_overlay,
    usual_maximum,
    warp_overlay,
)
from rtn_jax.visualize.fields import draw_affine, draw_correlation
from rtn_jax.visualize.figures import draw_matches, match_figure
from rtn_jax.visualize.iterations import iteration_frames, iteration_strip
from rtn_jax.visualize.keys import flow_key, flow_picture
from rtn_jax.visualize.mesh import forward_warp, pull_back
from rtn_jax.visualize.spread import sample_grid_points

__all__ = [
    "checkerboard",
    "color_wheel",
    "confidence_to_color",
    "draw_affine",
    "draw_correlation",
    "draw_matches",
    "flow_key",
    "flow_picture",
    "flow_to_color",
    "forward_warp",
    "grey_out",
    "iteration_frames",
    "iteration_strip",
    "mask_overlay",
    "match_figure",
    "pull_back",
    "sample_grid_points",
    "usual_maximum",
    "warp_overlay",
]
