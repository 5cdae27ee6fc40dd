"""House rules: which module may import which, and what the public names promise."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rtn_jax

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "rtn_jax").rglob("*.py"))

LAYERS = (  # a module may import those of its own layer and of the layers above it
    {"coordinates", "version", "locks", "atomic", "extras", "allocator"},
    {"sampling", "metrics"},
    {"affine", "correlation", "convolution", "config", "consistency", "images"},
    {"flow_files", "programs"},
    {"backbones", "consensus", "geometry", "losses", "search", "visualize", "data", "weights"},
    {"params"},
    {"model", "checkpoints", "trained"},
    {"artefact", "evaluation", "matching", "pictures"},
    {"training", "reporting", "commands"},
    {"demo"},
)


def room(name: str) -> str:
    """`rtn_jax.data.pairs` -> `data`."""
    return name.split(".")[1] if "." in name else "rtn_jax"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "rtn_jax":
            found |= {f"rtn_jax.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rtn_jax."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("rtn_jax")}
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", LIBRARY, ids=module_of)
def test_arrows_point_one_way(path):
    own = room(module_of(path))
    if own in ("rtn_jax", "__main__"):
        return
    level = next(i for i, layer in enumerate(LAYERS) if own in layer)
    allowed = set().union(*LAYERS[: level + 1])
    assert {room(name) for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", LIBRARY, ids=module_of)
def test_flax_and_orbax_stay_in_their_rooms(path):
    words = path.read_text()
    if room(module_of(path)) not in ("backbones", "geometry"):
        assert not re.search(r"^\s*(import|from) flax", words, re.M)
    if room(module_of(path)) != "checkpoints":
        assert not re.search(r"^\s*(import|from) orbax", words, re.M)


def test_pmap_is_called_in_one_place():
    uses = [path.name for path in LIBRARY for _ in re.findall(r"jax\.pmap\(", path.read_text())]
    assert uses == ["step.py"]


def test_the_library_does_not_import_the_commands_or_print():
    for path in LIBRARY:
        tree = ast.parse(path.read_text())
        calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        assert "print" not in calls, path
        assert not re.search(r"^\s*(import|from) (train|evaluate)\b", path.read_text(), re.M), path


@pytest.mark.parametrize("name", rtn_jax.__all__)
def test_public_names_are_documented_and_take_options_by_keyword(name):
    public = getattr(rtn_jax, name)
    assert public.__doc__
    assert not public.__doc__.startswith(f"{name}("), "the dataclass's own signature is no docstring"
    if inspect.isfunction(public):
        kinds = [
            p.kind for p in inspect.signature(public).parameters.values() if p.default is not inspect.Parameter.empty
        ]
        positional = [kind for kind in kinds if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        assert len(positional) <= 1, "options are keyword-only; one obvious argument may be left out"
        assert "Raises:" in public.__doc__ or "takes what `apply` takes" in public.__doc__


def test_importing_does_no_work_and_stays_light():
    code = (
        "import sys, rtn_jax; heavy = {'matplotlib', 'scipy', 'skimage', 'tyro', 'keras', 'torch', 'tensorflow',"
        " 'orbax', 'h5py', 'optax', 'grain', 'tensorflow_datasets'} & set(sys.modules); print(sorted(heavy));"
        "import jax;"
        "print(jax._src.xla_bridge._backends)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, backends = run.stdout.splitlines()
    assert loaded == "[]"
    assert backends == "{}", "importing the library must not start a backend"
