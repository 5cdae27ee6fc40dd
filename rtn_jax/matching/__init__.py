"""Matching one's own photos: reading them, the answer both ways, and what is carried over with it.

`python -m rtn_jax match` is built from these; so is anything else that shows what a network makes of two photos.
"""

from rtn_jax.matching.answer import Answer, match_photos
from rtn_jax.matching.job import answer_picture
from rtn_jax.matching.photo import SHOWN, Photo, photo_of, read_photo
from rtn_jax.matching.points import chosen_points
from rtn_jax.matching.transfer import carry_edit, carry_mask, changed_pixels

__all__ = [
    "SHOWN",
    "Answer",
    "Photo",
    "answer_picture",
    "carry_edit",
    "carry_mask",
    "changed_pixels",
    "chosen_points",
    "match_photos",
    "photo_of",
    "read_photo",
]
