"""One source against one target after the other: what is computed once, and what is written for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from rtn_jax.coordinates import distance_outside, resize_points
from rtn_jax.flow_files import write_flow_bands
from rtn_jax.images import read_image, resize, save_animation, save_image, save_mask
from rtn_jax.matching.answer import TOLERANCE, Answer, Points, match_photos, positions, reliable
from rtn_jax.matching.carried import Edit
from rtn_jax.matching.files import TargetFiles
from rtn_jax.matching.photo import Photo
from rtn_jax.matching.points import check_inside, chosen_points
from rtn_jax.matching.transfer import carry_edit, carry_mask
from rtn_jax.model import Features
from rtn_jax.params import Params
from rtn_jax.visualize import iteration_frames, mask_overlay, match_figure

_FIRST_STAYS, _STAYS, _LAST_STAYS = 1000, 700, 1800  # milliseconds of an animation's frames


@dataclass(frozen=True)
class Job:
    """What the matches of one source have in common."""

    params: Params
    src: Photo
    features: Features
    """Of the source."""
    points: int | Points
    """How many points to choose, or those to show, in pixels of the source."""
    tolerance: float
    """A share of the source's longer side, see `match_photos`."""
    mask: Bool[np.ndarray, "H W"] | None
    edit: Edit | None
    mirror_aware: bool = False
    """Whether every target's mirror image is matched, too, and kept where the network is surer of it."""

    def write(self, target: Photo, path: Path, files: TargetFiles) -> dict[str, Any]:
        """Matches one target, the photo at `path`, and writes its files.

        Returns:
            What the JSON file says about the target.

        Raises:
            ValueError: if the network's answer is not finite, or a file cannot be written.
        """
        answer = self._answer(target)
        points = self._points(answer)
        save_image(files.picture, answer_picture(answer, self.src, target, points))
        if files.flow is not None:
            write_flow_bands(files.flow, self.src.shape, answer.flow_bands())
        if files.animation is not None:
            frames = self._frames(answer, target)
            stays = [_FIRST_STAYS, *[_STAYS] * (len(frames) - 2), _LAST_STAYS]
            save_animation(files.animation, frames, milliseconds=stays)
        if files.mask is not None and files.overlay is not None and self.mask is not None:
            carried, shown = carry_mask(answer, self.mask), target.shown
            save_image(files.overlay, mask_overlay(shown, carry_mask(answer, self.mask, shape=shown.shape[:2])))
            save_mask(files.mask, carried)
        if files.edit is not None and self.edit is not None:
            save_image(files.edit, carry_edit(answer, read_image(path), self.edit.colors, self.edit.opacity))
        return _record(answer, target, points, files)

    def _answer(self, target: Photo) -> Answer:
        answers = [
            match_photos(
                self.params,
                self.features,
                target.encoded(self.params, mirrored=mirrored),
                self.src.shape,
                target.shape,
                tolerance=self.tolerance,
                mirrored=mirrored,
            )
            for mirrored in ((False, True) if self.mirror_aware else (False,))
        ]
        return max(answers, key=lambda answer: answer.sureness) if self.mirror_aware else answers[0]

    def _points(self, answer: Answer) -> Points:
        if not isinstance(self.points, int):
            return self.points
        shape = self.src.shown.shape[:2]
        mask = None
        if self.mask is not None:
            weight = np.repeat(self.mask[..., None].astype(np.uint8) * np.uint8(255), 3, axis=2)
            mask = resize(weight, shape)[..., 0] > 127
        return chosen_points(answer, self.points, shape, mask)

    def _frames(self, answer: Answer, target: Photo) -> list[UInt8[np.ndarray, "h w 3"]]:
        src, tgt = self.src.shown, target.shown
        captions, flows = zip(*answer.iterations(self.params.config), strict=True)
        mappings = [positions(flow, src.shape[:2], tgt.shape[:2]) for flow in flows]
        return iteration_frames(src, tgt, mappings, captions)


def prepared(
    params: Params,
    src: Photo,
    *,
    points: int | Points,
    tolerance: float = TOLERANCE,
    mask: Bool[np.ndarray, "H W"] | None = None,
    edit: Edit | None = None,
    mirror_aware: bool = False,
) -> Job:
    """A job for this source; its features are computed here.

    Raises:
        ValueError: if a point is outside the source.
    """
    if not isinstance(points, int):
        check_inside(points, src.shape, src.name)
    return Job(params, src, src.encoded(params), points, tolerance, mask, edit, mirror_aware)


def answer_picture(answer: Answer, src: Photo, tgt: Photo, points: Points) -> UInt8[np.ndarray, "h w 3"]:
    """`visualize.match_figure` of an answer: what does not come back is greyed out, points there are hollow.

    Args:
        answer: of the two photos.
        src, tgt: the photos.
        points: `[n, 2]` pixels of the source as given.
    """
    shape = src.shown.shape[:2]
    confidence = answer.confidence_at(shape)
    return match_figure(
        src.shown,
        tgt.shown,
        answer.mapping(shape, tgt.shown.shape[:2]),
        confidence=confidence,
        points=resize_points(points, answer.src_shape, shape),
        reliable=reliable(confidence),
    )


def _record(answer: Answer, target: Photo, points: Points, files: TargetFiles) -> dict[str, Any]:
    """Of one target, in plain Python values; what is infinite is None."""
    there, errors, sure = answer.move(points), answer.errors(points), answer.confidences(points)
    inside = np.asarray(distance_outside(there, answer.tgt_shape)) == 0
    rows = zip(points.tolist(), there.tolist(), errors.tolist(), sure.tolist(), inside.tolist(), strict=True)
    return {
        "file": target.name,
        "width": target.shape[1],
        "height": target.shape[0],
        "mirrored": answer.mirrored,
        "tolerance": answer.tolerance,
        "reliable": float(reliable(answer.confidence).mean()),
        "points": [
            {
                "source": [round(x, 3) for x in start],
                "target": [round(x, 3) for x in end],
                "inside": within,
                "confidence": round(confidence, 4),
                "reliable": bool(reliable(np.asarray(confidence))),
                "round_trip_error": round(error, 3) if np.isfinite(error) else None,
            }
            for start, end, error, confidence, within in rows
        ],
        "written": files.listed(),
    }
