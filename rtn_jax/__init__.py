"""Dense semantic correspondence with Recurrent Transformer Networks in JAX."""

from rtn_jax.affine import warp_image
from rtn_jax.artefact import export
from rtn_jax.checkpoints import load, save
from rtn_jax.checkpoints.released import save_released
from rtn_jax.config import Config, Level
from rtn_jax.model import Features, Output, apply, encode, match, transfer_keypoints
from rtn_jax.params import Params, init
from rtn_jax.version import __version__ as __version__

__all__ = [
    "Config",
    "Features",
    "Level",
    "Output",
    "Params",
    "apply",
    "encode",
    "export",
    "init",
    "load",
    "match",
    "save",
    "save_released",
    "transfer_keypoints",
    "warp_image",
]
