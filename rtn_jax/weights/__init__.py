"""Pretrained weights: fetching with checksums, and readers of several formats that execute nothing."""

from __future__ import annotations

from pathlib import Path

from rtn_jax.backbones import Pretrained
from rtn_jax.weights.architectures import title
from rtn_jax.weights.assets import PUBLISHED
from rtn_jax.weights.fetch import WeightsUnavailable, fetch_asset
from rtn_jax.weights.formats import Contents
from rtn_jax.weights.reading import read, read_backbone

__all__ = ["Contents", "WeightsUnavailable", "pretrained", "read", "read_backbone"]


def pretrained(backbone: str, source: str = "pretrained") -> Pretrained:
    """Weights of a backbone for `rtn_jax.init(..., backbone_weights=)`.

    Args:
        backbone: `vgg`, `vgg16`, `resnet`, `resnet50`, `resnet152`, `fcss` or `cat-fcss`.
        source: `pretrained` fetches the published file on first use (for `fcss` and `cat-fcss` VGG-19's, of which they
            take the convolutions up to conv3_4); anything else is the path of a file.

    Raises:
        ValueError: if the backbone is unknown, or the file is missing or is not of this backbone.
        WeightsUnavailable: (a `ValueError`) if the file is to be fetched and no source answers.
    """
    title(backbone)
    path = fetch_asset(PUBLISHED[backbone]) if source == "pretrained" else Path(source).expanduser()
    return read(path, backbone).pretrained
