"""In which order the CPU does what a step consists of."""

from __future__ import annotations

import os

_FLAG = "xla_cpu_enable_concurrency_optimized_scheduler"


def save_memory() -> None:
    """Has XLA order the CPU's programs by memory: to be called before JAX compiles anything, or it has no effect.

    Left to itself it orders them so that whatever can run, runs at once, and then what `--remat` or `--accumulate` do
    not keep is not given back before the next part begins: they save nothing. The user's own choice in `XLA_FLAGS`
    stays. Known to every version of jaxlib that `requirements.txt` allows; one that does not know it would end the
    process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_FLAG}=false".strip()
