"""Our checkpoints: a folder with the weights, the config that belongs to them, and the digests of all files.

    <checkpoint>/config.json     the network's config, the other files' digests, and the writer's notes (the step)
    <checkpoint>/weights/        the weights alone, an orbax tree
    <checkpoint>/training/       optimiser state and the like, present in checkpoints of a training run only

The weights can be read without knowing the optimiser. A folder is written beside its final place and moved there when
it is whole, so a reader never meets half a checkpoint. A run of `train.py` holds several:

    <run>/checkpoints/<step>/    the latest ones and the best
"""

from rtn_jax.checkpoints.header import check, read_header
from rtn_jax.checkpoints.network import load, load_training, save
from rtn_jax.checkpoints.runs import FOLDER, best, find, listed, numbered, place
from rtn_jax.checkpoints.trees import reason

__all__ = [
    "FOLDER",
    "best",
    "check",
    "find",
    "listed",
    "load",
    "load_training",
    "numbered",
    "place",
    "read_header",
    "reason",
    "save",
]
