"""What every test may use; shapes and types in the library's signatures are checked while tests run."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import signal
import sys
from pathlib import Path

# Most of a test's time goes into compiling programs that run once: the same programs, less optimised. Set before jax.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] += " --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know it, and would end the process
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# The slow oracles multiply small matrices: two threads of each of two processes wait for each other a hundred times
# longer than they compute. NumPy is here already; this is for the processes that are started from here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxtyping
import numpy as np
import pytest

from tests import typecheck  # noqa: F401  (the hook below looks it up by name)

# Before anything imports the library: modules imported earlier would stay unchecked.
jaxtyping.install_import_hook("rtn_jax", "tests.typecheck.check")

# Tests send it, to themselves and to commands; a shell that starts the suite in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Traced programs are millions of objects that live on: looking through them at every turn takes a tenth of the time.
gc.set_threshold(200_000, 20, 100)

_LONG = ("test_survival.py", "test_commands.py", "test_devices.py", "test_overfit.py", "test_features_stage.py")

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    """Files of few, long tests come first: last, one of them would run while the other process has nothing to do."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture
def unchecked():
    """Wrong input as users send it: annotations are not checked, so the library's own error is what is seen."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True)
def own_programs():
    """A command that is run inside the test's process has programs kept, which others are not to find."""
    yield
    if "rtn_jax.programs" in sys.modules:
        sys.modules["rtn_jax.programs"].keep_in(None)


@pytest.fixture
def x64():
    """Double precision inside JAX, for this test alone."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the benchmarks' files: $RTN_JAX_DATA, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("RTN_JAX_DATA", _DATA))
    if not folder.is_dir():
        pytest.skip(f"no benchmark data: set RTN_JAX_DATA to their folder (looked for {folder})")
    return folder
