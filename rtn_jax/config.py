"""The network as data: `Config`, its levels and presets."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from rtn_jax.coordinates import Normalization, Shape
from rtn_jax.sampling import Border

BackboneName = Literal["vgg", "vgg16", "resnet", "resnet50", "resnet152", "fcss", "cat-fcss"]
DtypeName = Literal["float32", "bfloat16", "float64"]
ResNetStride = Literal[16, 8]
ResidualUnits = Literal["window", "image"]
StrideIn = Literal["1x1", "3x3"]
PresetName = Literal["default", "paper", "released", "wide", "joint"]
Start = Literal["identity", "consensus"]

MIN_IMAGE_SIZE = 32

CAFFE_MEAN = (123.680, 116.779, 103.939)
"""Mean RGB colour of the Oxford VGG and the original ResNet weights, in whatever format they come."""


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True, kw_only=True)
class Level:
    """One grid of the coarse-to-fine schedule."""

    layer: str
    """Layer of the backbone whose output is matched, and which is redone under the field (`conv5_1`), or several of one
    grid, joined by `+` (`conv5_1+conv5_3`): the cosines of each count alike."""
    iterations: int
    """Recurrent steps at this level, at least 1."""
    downscale: int = 1
    """Factor by which both images are reduced before the backbone sees them: a layer then covers as much more of the
    image, and the correlation window reaches as much farther."""

    def __post_init__(self) -> None:
        for name in ("iterations", "downscale"):
            if not _is_whole(getattr(self, name), 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {getattr(self, name)!r}")
        if not all(self.layers) or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layer: expected a layer, or different ones joined by +, got {self.layer!r}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers one by one."""
        return tuple(self.layer.split("+"))

    @property
    def taps(self) -> tuple[str, ...]:
        """What the layers' features at this scale are called among the `Features` of an image."""
        return tuple(layer if self.downscale == 1 else f"{layer}/{self.downscale}" for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A last look of every cell around the place that the recurrence ended at (`rtn_jax.search.local_search`).

    It compares all layers of the levels that see the images as they are, on the finest grid.
    """

    radius: int = 8
    """Of the window in cells."""
    temperature: float = 20.0
    """What cosines are multiplied by under the exponential."""
    reach: float = 2.0
    """Distance in cells at which a match is e times less likely for being as far away."""

    def __post_init__(self) -> None:
        if not _is_whole(self.radius, 1):
            raise ValueError(f"radius: expected a whole number of at least 1, got {self.radius!r}")
        for name in ("temperature", "reach"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a number above 0, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that fixes the network besides its weights. Hashable, so it can be static under `jax.jit`."""

    backbone: BackboneName = "vgg"
    """Feature extractor shared by both images: VGG-19 or -16, ResNet-101, -50 or -152, FCSS, or CAT-FCSS."""
    levels: tuple[Level, ...] = cast("tuple[Level, ...]", None)
    """Coarse to fine; two of the backbone's own unless given."""
    radius: int = 4
    """Of the correlation window in cells: (2 * radius + 1)^2 candidates."""
    image_size: int | tuple[int, int] = (256, 256)
    """(height, width) both images are resized to inside; one number means a square."""
    geometry_width: int = 64
    """Channels of the first stage of the geometry network; the deepest has eight times as many."""
    normalization: Normalization = "centers"
    """Units of the translations: `centers` means the same on every grid, `corners` is the release's."""
    upsampling: Border = "edge"
    """How a field is continued outside its grid when it is doubled: `zero` is the release's shrinking border."""
    residual_units: ResidualUnits = "window"
    """Of the translations that the geometry network predicts. `window`: 1 is the radius of the correlation window, so
    that a peak of the volume means the same at every level and image size; `image`: 1 is half the image, as released.
    """
    starts: tuple[Start, ...] = ("identity",)
    """Fields that the recurrence is begun from, each by itself; of several results each pair keeps the one that is
    surer of itself. `identity`: nothing moves, as the paper has it; `consensus`: the affine map that most mutual
    nearest neighbours agree on. Training begins at the identity unless asked otherwise."""
    search: Search | bool = False
    """What ends the estimate, beyond the paper: nothing unless given; True is `Search()`. Training is without."""
    final_correlation: bool = True
    """Compute the returned volume with the recurrence's last field. False: the release's, of the one before."""
    compute_dtype: DtypeName = "float32"
    """Of features and convolutions; norms, softmax and coordinates are float32 at least."""
    remat: bool = False
    """Recompute every iteration in the backward pass instead of storing it."""
    unroll: bool | None = None
    """Unroll the recurrence when compiling. None: on the CPU, where a rolled gradient is several times slower, and only
    in a larger program (of `jit` or `grad`, say); called by itself, `apply` is as fast rolled and compiles sooner."""
    resnet_stride: ResNetStride = 16
    """ResNets: image pixels per cell of conv4 (and conv5). 8 dilates it, with the same weights, for a finer grid."""
    pixel_mean: tuple[float, float, float] = CAFFE_MEAN
    """RGB colour that is subtracted from images; goes with the backbone's weights, whose file decides."""
    stride_in: StrideIn = "1x1"
    """ResNets: the convolution of a stage's first block that has its stride, likewise decided by the weights. 1x1: the
    original's; 3x3: torchvision's."""

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, int) or not isinstance(size, Iterable):
            size = (size, size)
        object.__setattr__(self, "image_size", tuple(size))
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        levels = _levels(self.backbone) if self.levels is None else self.levels
        object.__setattr__(self, "levels", tuple(levels) if isinstance(levels, Iterable) else ())
        if not self.levels or not all(isinstance(level, Level) for level in self.levels):
            raise ValueError(f"levels: expected at least one Level, got {self.levels!r}")
        if len(self.image_shape) != 2 or not all(_is_whole(n, MIN_IMAGE_SIZE) for n in self.image_shape):
            raise ValueError(
                f"image_size: expected a number or (height, width), whole numbers of at least {MIN_IMAGE_SIZE}, "
                f"got {self.image_size}"
            )
        object.__setattr__(self, "starts", tuple(self.starts))
        if not self.starts or len(set(self.starts)) < len(self.starts) or not set(self.starts) <= set(get_args(Start)):
            raise ValueError(f"starts: expected one or more of {', '.join(get_args(Start))}, got {self.starts!r}")
        if not isinstance(self.search, Search | bool):
            raise ValueError(f"search: expected a Search, True or False, got {self.search!r}")
        object.__setattr__(self, "search", Search() if self.search is True else self.search)
        for name in ("radius", "geometry_width"):
            if not _is_whole(getattr(self, name), 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {getattr(self, name)!r}")
        if len(self.pixel_mean) != 3 or not all(math.isfinite(value) for value in self.pixel_mean):
            raise ValueError(f"pixel_mean: expected three numbers, got {self.pixel_mean!r}")

    @property
    def image_shape(self) -> Shape:
        """`image_size` as (height, width), which it always is once the config is made."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def iterations(self) -> tuple[int, ...]:
        """Recurrent steps of every level."""
        return tuple(level.iterations for level in self.levels)

    @property
    def first_look(self) -> int:
        """The level whose features are compared over whole images: the coarsest of the images as they are.

        One of reduced images reaches farther and tells less apart.
        """
        return next((i for i, level in enumerate(self.levels) if level.downscale == 1), 0)

    def replace(self, *, iterations: tuple[int, ...] | None = None, **changes: Any) -> Config:
        """A copy with some fields changed; `iterations=(2, 5)` changes those of the levels alone.

        Raises:
            ValueError: if the number of iterations differs from the number of levels, or a field does not exist.
        """
        unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            raise ValueError(f"config: no such field: {', '.join(unknown)}")
        if iterations is not None:
            levels = changes.get("levels", self.levels)
            if len(iterations) != len(levels):
                raise ValueError(f"iterations: expected {len(levels)} numbers, one per level, got {tuple(iterations)}")
            changes["levels"] = tuple(
                dataclasses.replace(level, iterations=n) for level, n in zip(levels, iterations, strict=True)
            )
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """One JSON object; `Config.from_json` reads it back to an equal config."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if the text is not such an object, or a field is unknown or invalid.
        """
        try:
            fields = json.loads(text)
            fields.setdefault("residual_units", "image")  # before there was a choice
            fields["levels"] = tuple(Level(**level) for level in fields["levels"])
            if fields.get("search"):
                fields["search"] = Search(**fields["search"])
            fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
            return cls(**fields)
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"config: not a config of this version of rtn_jax: {error}") from error


_CHOICES: dict[str, Any] = {
    "backbone": BackboneName,
    "normalization": Normalization,
    "upsampling": Border,
    "residual_units": ResidualUnits,
    "compute_dtype": DtypeName,
    "resnet_stride": ResNetStride,
    "stride_in": StrideIn,
}

_LAYERS: dict[BackboneName, tuple[str, str, str, str]] = {
    "vgg": ("conv5_1", "conv4_1", "conv4_4", "conv4_4"),
    "vgg16": ("conv5_1", "conv4_1", "conv4_3", "conv4_3"),
    "resnet": ("conv4_23", "conv3_4", "conv3_4", "conv4_23"),
    "resnet50": ("conv4_6", "conv3_4", "conv3_4", "conv4_6"),
    "resnet152": ("conv4_36", "conv3_8", "conv3_8", "conv4_36"),
    "fcss": ("stride16", "stride8", "stride8", "stride8"),
    "cat-fcss": ("stride16", "stride8", "stride8", "stride8"),
}
"""Layers of the two default levels, at 16 and 8 pixels per cell; the last layer of the second grid, which tells more
of objects and less of texture than the release's first one (`wide`); and the one of `paper`: conv4_4, conv4_23 and
CAT-FCSS are the paper's. Those of the other backbones stand where these do."""


def _levels(backbone: BackboneName) -> tuple[Level, ...]:
    """The released schedule on a backbone's layers."""
    coarse, fine, _, _ = _LAYERS[backbone]
    return Level(layer=coarse, iterations=2), Level(layer=fine, iterations=3)


def default(backbone: BackboneName = "vgg") -> Config:
    """The released schedule with one consistent coordinate convention and no shrinking at the border."""
    return Config(backbone=backbone)


def paper(backbone: BackboneName = "vgg") -> Config:
    """One level, as the paper describes (conv4_4, conv4_23 or CAT-FCSS), five iterations."""
    return Config(backbone=backbone, levels=(Level(layer=_LAYERS[backbone][3], iterations=5),))


def released(backbone: BackboneName = "vgg") -> Config:
    """The released network, its conventions included: with its weights it gives its output.

    Raises:
        ValueError: for another backbone than VGG-19, the only one that was released.
    """
    if backbone != "vgg":
        raise ValueError(f"backbone: the released network has vgg, got {backbone!r}; see the presets default and paper")
    return Config(normalization="corners", upsampling="zero", residual_units="image", final_correlation=False)


def wide(backbone: BackboneName = "vgg") -> Config:
    """Three levels: a first look at images of half the size, where the window reaches half the image, then two more."""
    coarse, _, fine, _ = _LAYERS[backbone]
    levels = (
        Level(layer=coarse, iterations=2, downscale=2),
        Level(layer=coarse, iterations=2),
        Level(layer=fine, iterations=3),
    )
    return Config(backbone=backbone, levels=levels)


def joint(backbone: BackboneName = "vgg") -> Config:
    """`wide` whose first levels compare conv5_1 and conv5_3 at once: one tells places apart, the other parts.

    Raises:
        ValueError: for another backbone than VGG, of which nothing has been measured.
    """
    if backbone not in ("vgg", "vgg16"):
        raise ValueError(f"backbone: joint has been tried with vgg and vgg16, got {backbone!r}; see the preset wide")
    config = wide(backbone)
    *coarse, fine = config.levels
    joined = (dataclasses.replace(level, layer="conv5_1+conv5_3") for level in coarse)
    return config.replace(levels=(*joined, fine))


PRESETS = {"default": default, "paper": paper, "released": released, "wide": wide, "joint": joint}
