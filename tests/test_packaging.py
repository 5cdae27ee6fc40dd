"""What `pip install` brings: the wheel's files, what it depends on, and what is said where an extra is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import rtn_jax
from rtn_jax.commands import as_typed
from rtn_jax.extras import MODULES, advice

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULE_OF = {"scikit-image": "skimage", "tensorflow-datasets": "tensorflow_datasets"}


def names(requirements: list[str]) -> dict[str, str]:
    """Package to what is asked of it."""
    return {re.match(r"[\w.-]+", line)[0]: line for line in requirements}


CORE = names(PROJECT["dependencies"])


def test_the_wheel_holds_the_library_alone(tmp_path):
    copied = tmp_path / "source"  # setuptools leaves a folder `build` behind
    shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "results"))
    # pip makes it with the setuptools that pyproject.toml asks for; the environment's own may be older.
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, copied], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (file,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        listed = wheel.namelist()
        about = f"rtn_jax-{rtn_jax.__version__}.dist-info"
        metadata, scripts = (wheel.read(f"{about}/{file}").decode() for file in ("METADATA", "entry_points.txt"))
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "rtn_jax").rglob("*.py")}
    trained = {str(path.relative_to(ROOT)) for path in (ROOT / "rtn_jax" / "trained").glob("*.safetensors")}
    assert {file for file in listed if not file.startswith(about)} == code | trained | {"rtn_jax/py.typed"}
    assert {f"{about}/licenses/{file}" for file in ("LICENSE", "NOTICE")} <= set(listed)
    assert "rtn-jax = rtn_jax.__main__:main" in scripts
    assert set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.M)) == set(EXTRAS)


def test_requirements_install_everything():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    asked = names(lines)
    wanted = CORE | {name: line for extra in EXTRAS.values() for name, line in names(extra).items()}
    wanted.pop("rtn_jax")
    assert {name: asked.get(name) for name in wanted} == wanted


def test_the_table_of_extras_is_the_projects():
    modules = {extra: {MODULE_OF.get(name, name) for name in names(packages)} for extra, packages in EXTRAS.items()}
    assert modules.pop("all") == {"rtn_jax"}
    assert EXTRAS["all"] == [f"rtn_jax[{','.join(MODULES)}]"]
    assert {extra: set(listed) for extra, listed in MODULES.items()} == modules


def test_only_the_core_is_imported_without_extras():
    """Wherever the library imports a package at the top of a file, it is one of the core or of the file's own extra."""
    rooms = {"training": "train", "data/builders.py": "evaluate", "demo": "demo"}
    packages = {MODULE_OF.get(name, name) for name in CORE} | {"PIL", "orbax"}
    found = 0
    for path in (ROOT / "rtn_jax").rglob("*.py"):
        place = str(path.relative_to(ROOT / "rtn_jax"))
        own = {module for start, extra in rooms.items() if place.startswith(start) for module in MODULES[extra]}
        for module in re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.M):
            if module not in sys.stdlib_module_names and module not in ("rtn_jax", "__future__"):
                found += 1
                assert module in packages | own, f"{place} imports {module}"
    assert found > 100


@pytest.mark.parametrize(
    ("module", "running", "extra"),
    [
        ("matplotlib", "train", "train"),
        ("matplotlib.figure", "evaluate", "evaluate"),
        ("matplotlib", "weights", "match"),
        ("tensorflow_datasets", "train", "evaluate"),
        ("tensorflow_datasets", "prepare", "evaluate"),
        ("gradio", "demo", "demo"),
    ],
)
def test_the_extra_of_the_command_is_named(module, running, extra):
    line = f"{module.split('.')[0]} is not installed; run: pip install 'rtn_jax[{extra}]'"
    assert advice(ModuleNotFoundError(name=module), running) == line


def test_what_belongs_to_no_extra_is_a_defect():
    assert advice(ModuleNotFoundError(name="rtn_jax.mach"), "match") is None
    assert advice(ModuleNotFoundError("without a name"), "match") is None


WITHOUT_EXTRAS = """
import runpy, sys
from rtn_jax.extras import MODULES
for name in {name for modules in MODULES.values() for name in modules} - {"optax"}:  # which flax imports
    sys.modules[name] = None  # importing it fails
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def without_extras(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """A command where the core alone is installed."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_EXTRAS, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RTN_JAX_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "prog", "line"),
    [
        ([str(ROOT / "train.py"), "--weights=random", "--image_size=32"], "train.py", "skimage.*rtn_jax\\[train\\]"),
        (["rtn_jax", "evaluate", "--ckpt=identity"], "rtn_jax evaluate", "skimage.*rtn_jax\\[evaluate\\]"),
    ],
)
def test_a_missing_extra_is_one_line(tmp_path, words, prog, line):
    done = without_extras(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        rf"{prog}: error: {line}'\n", done.stderr.replace(" is not installed; run: pip install '", ".")
    ), done.stderr


def test_help_needs_no_extra(tmp_path):
    done = without_extras(tmp_path, "rtn_jax", "--help")
    assert done.returncode == 0, done.stderr
    assert {"train", "evaluate", "match"} <= set(done.stdout.split())


def test_how_a_command_was_typed():
    assert as_typed(["train.py", "--data=my photos"]) == "python train.py '--data=my photos'"
    assert as_typed(["/env/bin/rtn-jax", "train", "--steps=3"]) == "rtn-jax train --steps=3"
    assert as_typed(["/env/lib/rtn_jax/__main__.py", "train"]) == "python -m rtn_jax train"
