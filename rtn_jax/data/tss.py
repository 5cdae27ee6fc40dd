"""TSS: 400 pairs of images with dense flows between their objects in both directions, 800 flow fields.

Taniai, Sinha and Sato, "Joint recovery of dense correspondence and cosegmentation in two images" (CVPR 2016).
Published, from the page taniai.space/projects/cvpr16_dccs, as

    TSS_CVPR2016/{FG3DCar,JODS,PASCAL}/<pair>/image1.png, image2.png, mask1.png, mask2.png
                                              flow1.flo, flow2.flo, flip_gt.txt; pair.txt and corr.txt are not read

`flow1.flo` lies on image 1 and points into image 2, `flow2.flo` the other way, each in pixels of those images. Where
there is no object the flow is 1e10. `flip_gt.txt` is 1 if the second image shows the object mirrored; the flows are
those of the images as distributed. Masks are 0 outside the object and anything else on it: JODS writes 1, the others
255 and, along some outlines, greys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.data.published import top_folder
from rtn_jax.data.rows import Row, collect
from rtn_jax.flow_files import read_flow
from rtn_jax.images import read_image
from rtn_jax.metrics import known_flow

FOLDER = "TSS_CVPR2016"
SUBSETS = ("FG3DCar", "JODS", "PASCAL")
FLIP_FILE = "flip_gt.txt"
FILES = (*(f"{kind}{k}" for kind in ("image", "mask") for k in ("1.png", "2.png")), "flow1.flo", "flow2.flo", FLIP_FILE)
"""What every pair's folder must hold."""

_IMAGE = re.compile(r"(?P<pair>[^/]+/[^/]+)/image(?P<side>[12])\.png")
_FIELD = re.compile(r"(?P<pair>[^/]+/[^/]+)/flow(?P<side>[12])")


def tss(data_dir: str | Path, *, split: str = "test", skip_bad: bool = False) -> Benchmark:
    """Lists the flow fields of all pairs that are there; images, masks and flows are read when they are asked for.

    Args:
        data_dir: the folder that holds `TSS_CVPR2016`, or `TSS_CVPR2016` itself. A subset may be absent.
        split: `test`, there is no other.
        skip_bad: leave pairs with missing or wrong files out instead of failing; `left_out` says which.

    Returns:
        A benchmark of flow fields, two for each pair, sorted by name: `<subset>/<pair>/flow1` has image 1 as its
        source. Its masks are `[H, W]` of their image, its flows are known on the source's object only.

    Raises:
        ValueError: no subset is there, a subset has no pair, or a pair lacks a file or is not as published; the
            message names the folder and the file.
    """
    if split != "test":
        raise ValueError(f"split: TSS has only 'test', got {split!r}")
    folder = top_folder(data_dir, FOLDER, "TSS")
    fields, bad = collect(_folders(folder), _read_pair, skip_bad=skip_bad)
    left_out = tuple(f"{line} (both of its flow fields are left out)" for line in bad)
    pairs = tuple(pair for both in fields for pair in both)
    return Benchmark(
        name="TSS", pairs=pairs, files=TssFiles(folder), protocol="flow", subsets=SUBSETS, left_out=left_out
    )


@dataclass(frozen=True)
class TssFiles(FolderFiles):
    """Images, masks and flows below `TSS_CVPR2016`; images are named `<subset>/<pair>/image1.png`."""

    def mask(self, name: str) -> Bool[np.ndarray, "H W"]:
        found = _IMAGE.fullmatch(name)
        if not found:
            raise ValueError(f"{name}: no mask is known, only of <subset>/<pair>/image1.png and image2.png")
        path = self.folder / found["pair"] / f"mask{found['side']}.png"
        mask = np.asarray(read_image(path).any(axis=-1))
        _check_size(path, mask, self.folder / name, self.shape(name))
        if not mask.any():
            raise ValueError(f"{path}: expected a mask with an object, got one without")
        return mask

    def flow(self, pair_id: str) -> Float[np.ndarray, "H W 2"]:
        found = _FIELD.fullmatch(pair_id)
        if not found:
            raise ValueError(f"{pair_id}: no flow is known, only of <subset>/<pair>/flow1 and flow2")
        path, image = self.folder / f"{pair_id}.flo", f"{found['pair']}/image{found['side']}.png"
        flow = read_flow(path)
        _check_size(path, flow, self.folder / image, self.shape(image))
        unknown = ~(known_flow(flow) & self.mask(image))
        if unknown.all():
            raise ValueError(f"{path}: expected a flow that is known somewhere on the object, got none")
        flow[unknown] = np.nan
        return flow


def _folders(folder: Path) -> list[Row[Path]]:
    """The pairs' folders, subset by subset, sorted."""
    subsets = [folder / name for name in SUBSETS if (folder / name).is_dir()]
    if not subsets:
        raise ValueError(
            f"data_dir: TSS needs at least one of the folders {', '.join(SUBSETS)}, none found in {folder}"
        )
    rows = []
    for subset in subsets:
        try:
            pairs = sorted(entry for entry in subset.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        except OSError as error:
            raise ValueError(f"{subset}: cannot be read, {error.strerror}") from error
        if not pairs:
            raise ValueError(f"{subset}: expected a folder for every pair, got none")
        rows += [(str(pair), pair) for pair in pairs]
    return rows


def _read_pair(folder: Path) -> tuple[Pair, Pair]:
    """The two fields of a pair."""
    try:
        missing = [name for name in FILES if not (folder / name).is_file()]
    except OSError as error:  # of a folder that may not be entered
        raise ValueError(f"cannot be read, {error.strerror}") from error
    if missing:
        raise ValueError(f"files not found: {', '.join(missing)}")
    subset, name = folder.parent.name, folder.name
    mirrored = _read_flip(folder / FLIP_FILE)

    def field(side: int) -> Pair:
        return Pair(
            id=f"{subset}/{name}/flow{side}",
            src=f"{subset}/{name}/image{side}.png",
            tgt=f"{subset}/{name}/image{3 - side}.png",
            category="car" if subset == "FG3DCar" else re.split(r"_?\d", name)[0],  # FG3DCar's pairs are numbers
            subset=subset,
            has_masks=True,
            has_flow=True,
            mirrored=mirrored,
        )

    return field(1), field(2)


def _read_flip(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: cannot be read ({error})") from error
    if text not in ("0", "1"):
        raise ValueError(f"{path.name}: expected 0 or 1, got {text[:20]!r}")
    return text == "1"


def _check_size(path: Path, array: np.ndarray, image: Path, shape: tuple[int, ...]) -> None:
    """That a mask or a flow has its image's size."""
    if array.shape[:2] != tuple(shape):
        sizes = [f"{width} x {height}" for height, width in (shape, array.shape[:2])]
        raise ValueError(f"{path}: expected {sizes[0]} pixels as {image.name} has, got {sizes[1]}")
