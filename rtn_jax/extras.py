"""Optional packages: which command needs which, and what to say where one is missing."""

from __future__ import annotations

MODULES = {
    "match": ("matplotlib",),
    "evaluate": ("array_record", "matplotlib", "skimage", "tensorflow_datasets"),
    "train": ("grain", "matplotlib", "optax", "skimage", "tensorboardX"),
    "demo": ("gradio", "matplotlib"),
}
"""Per extra of `pip install rtn_jax[...]`, the modules of its packages. Extras have the names of commands."""


def advice(error: ModuleNotFoundError, command: str) -> str | None:
    """One line that says what to install; None if what is missing belongs to no extra, and so is a defect.

    Args:
        error: of the import.
        command: that was running; of several extras with the module, its own is named.
    """
    module = (error.name or "").split(".")[0]
    extras = sorted((extra for extra in MODULES if module in MODULES[extra]), key=lambda extra: extra != command)
    return f"{module} is not installed; run: pip install 'rtn_jax[{extras[0]}]'" if extras else None
