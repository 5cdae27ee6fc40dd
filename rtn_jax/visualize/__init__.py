"""Pictures of correspondence: arrays in, uint8 RGB arrays `[H, W, 3]` out; `images.save_image` writes them.

Points are (x, y) pixels of the picture they lie in. `draw_matches` shows points, `match_figure` a whole mapping.
"""

from rtn_jax.visualize.colors import checkerboard, color_wheel, flow_to_color, warp_overlay
from rtn_jax.visualize.figures import draw_matches, match_figure
from rtn_jax.visualize.mesh import forward_warp, pull_back
from rtn_jax.visualize.spread import sample_grid_points

__all__ = [
    "checkerboard",
    "color_wheel",
    "draw_matches",
    "flow_to_color",
    "forward_warp",
    "match_figure",
    "pull_back",
    "sample_grid_points",
    "warp_overlay",
]
