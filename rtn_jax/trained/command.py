"""`python -m rtn_jax pack RUN FILE.safetensors`: makes of a checkpoint what the package ships."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from rtn_jax import checkpoints
from rtn_jax.config import PRESETS, PresetName, Start
from rtn_jax.trained import on_levels, write_trained


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Writes a checkpoint's geometry network and config as one small file."""

    ckpt: Positional[Path]
    """Checkpoint or run folder."""
    out: Positional[Path]
    """File to write, .safetensors."""
    image_size: int | None = None
    """The size the network is to be used at; the one it was trained at unless given."""
    starts: tuple[Start, ...] | None = None
    """Where its recurrence is to be begun (`Config.starts`); where training began it unless given."""
    preset: PresetName | None = None
    """Whose levels it is to be used on; those it was trained on unless given."""
    search: bool | None = None
    """Whether every cell is to look around at the end (`Config.search`); as the checkpoint has it unless given."""


def pack(config: PackConfig) -> None:
    """Writes the file.

    Raises:
        ValueError: if the checkpoint cannot be read, its backbone was trained, or the file cannot be written.
    """
    if config.out.suffix != ".safetensors":
        raise ValueError(f"out: expected a name that ends in .safetensors, got {config.out}")
    params = checkpoints.load(config.ckpt)
    if config.preset is not None:
        params = on_levels(params, PRESETS[config.preset](params.config.backbone).levels)
    write_trained(
        config.out,
        params.configure_given(image_size=config.image_size, starts=config.starts, search=config.search),
    )
    sys.stdout.write(f"{config.out}: {config.out.stat().st_size:,} bytes\n")
