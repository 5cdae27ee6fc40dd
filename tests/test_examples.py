"""The scripts of examples/, each as a user starts it, on sizes that take seconds; their numbers are looked at."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import jax.export
import numpy as np
import pytest

import rtn_jax
from rtn_jax import Level
from rtn_jax.images import read_image, save_image
from tests.networks import moving_params, photos, small_config

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "stand_ins.py")
RANDOM = "no --ckpt: RANDOM WEIGHTS. The numbers show that the script runs; they are no result.\n"


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    """The scripts begin alike: what one has compiled the others need not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}


def example(folder: Path, script: str, *arguments: str) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(text: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_they_are_short_and_documented():
    documented = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    for script in SCRIPTS:
        assert len((EXAMPLES / script).read_text().splitlines()) < 60, script
        assert f"python examples/{script}" in documented, script


def test_an_image_is_optimised(tmp_path):
    said = example(tmp_path, "optimise_image.py", "--steps=6", "--out=found.png")
    assert said.startswith(RANDOM)
    first, last = numbers(said, r"confidence ([\d.]+)")
    assert last > first + 0.02
    assert read_image(tmp_path / "found.png").shape == (32, 32, 3)


def test_labels_are_transferred_to_a_folder(tmp_path):
    """With a checkpoint and photos of one's own; the identity leaves a mask where it is."""
    rtn_jax.save(
        tmp_path / "still", moving_params(small_config(levels=(Level(layer="conv2_1", iterations=1),)), scale=0)
    )
    (tmp_path / "targets").mkdir()
    mask = np.zeros((40, 56, 3), np.uint8)
    mask[:, :28] = 255
    save_image(tmp_path / "mask.png", mask)
    for i, photo in enumerate(photos(np.random.default_rng(0), 3, 40, 56)):
        save_image(tmp_path / "targets" / f"{i}.png", photo)
    files = ["--ckpt=still", "--src=targets/0.png", "--mask=mask.png", "--targets=targets", "--out=masks", "--batch=2"]
    said = example(tmp_path, "transfer_labels.py", *files)
    assert "RANDOM" not in said
    assert numbers(said, r"\d\.png: ([\d.]+) %") == [50.0] * 3
    sure = numbers(said, r"confidence ([\d.]+)")
    assert sure[0] > 0.99 > max(sure[1:]), "the source is among the targets"
    for i in range(3):
        found = read_image(tmp_path / "masks" / f"{i}.png")
        assert (found == np.repeat([255, 0], 16)[None, :, None]).all()


def test_a_model_is_trained_through_the_matcher_on_two_devices(tmp_path):
    said = example(tmp_path, "train_through_it.py", "--devices=2", "--batch=2", "--steps=4")
    assert said.startswith(RANDOM)
    assert numbers(said, r"(\d) device") == [1, 2]
    (alone, after), (shared, shared_after) = np.reshape(numbers(said, r"(?:loss|->) ([\d.]+)"), (2, 2))
    assert after < alone - 1
    np.testing.assert_allclose([shared, shared_after], [alone, after], rtol=1e-4)


def test_targets_are_ranked(tmp_path):
    said = example(tmp_path, "rank_targets.py", "--count=7", "--batch=3", "--show=3")
    assert said.startswith(RANDOM)
    assert "\n1. drawn 2: confidence " in said, "where the source with some noise is"
    sure = numbers(said, r"confidence ([\d.]+)")
    assert sure == sorted(sure, reverse=True)
    assert len(sure) == 3
    seconds = numbers(said, r"\n7 targets in ([\d.]+) s, compiling included")[0]
    rate = numbers(said, r": ([\d.]+) per second")[0]
    assert rate * (seconds - 0.06) < 7 < rate * (seconds + 0.06), "seconds are rounded to tenths"


def test_what_cannot_be_read_is_one_line(tmp_path):
    for script, flag in [("rank_targets.py", "--src"), ("optimise_image.py", "--src"), ("export_network.py", "--ckpt")]:
        done = subprocess.run(
            [sys.executable, EXAMPLES / script, f"{flag}=nosuch.jpg"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith("error: nosuch.jpg: no such ")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    said = example(folder, "export_network.py", "--out=rtn.stablehlo")
    assert said.startswith(RANDOM)
    assert numbers(said, r"([\d.]+) MB") == [round((folder / "rtn.stablehlo").stat().st_size / 1e6, 2)]
    return folder


def test_an_exported_network_is_served_without_the_library(exported):
    fake = exported / "fake" / "rtn_jax"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise RuntimeError('the server must not import it')\n")
    command = [sys.executable, EXAMPLES / "serve_exported.py", "rtn.stablehlo", "--port=0"]
    own = environment() | {"PYTHONPATH": str(fake.parent)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=exported, env=own, **pipes) as server:
        try:
            ask(exported, server.stdout.readline())
        finally:
            server.terminate()


def ask(exported: Path, said: str) -> None:
    """As documented, then wrongly, and it goes on; `said` is the server's first line."""
    assert said.startswith("rtn.stablehlo: images [32, 32, 3] on http://127.0.0.1:")
    address = said.split()[-1]
    src, tgt = photos(np.random.default_rng(0), 2)
    network = jax.export.deserialize(bytearray((exported / "rtn.stablehlo").read_bytes()))
    expected = network.call(src[None], tgt[None])
    names = {"src": src, "tgt": tgt}
    exec(documented_client().replace("http://127.0.0.1:8000", address), names)
    np.testing.assert_allclose(names["mapping"], expected["mapping"][0], atol=1e-4)
    np.testing.assert_allclose(names["confidence"], expected["confidence"][0], atol=1e-5)
    for body, message in ((npy(src), "expected uint8 of shape"), (b"words", ""), (b"", "")):
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(address, body)
        with refused.value as answer:
            assert message in answer.read().decode()
    with urllib.request.urlopen(address, npy(np.stack([tgt, src]))) as answer:
        assert np.load(io.BytesIO(answer.read())).shape == (32, 32, 3)


def test_the_server_can_ask_itself(exported):
    said = example(exported, "serve_exported.py", "rtn.stablehlo", "--port=0", "--ask=2")
    assert len(numbers(said, r"\(32, 32, 3\) after ([\d.]+) s, mean confidence \d")) == 2


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def documented_client() -> str:
    """The block of docs/examples.md."""
    return re.search(r"^```python [^\n]*\n(.*?)^```", (EXAMPLES.parent / "docs/examples.md").read_text(), re.M | re.S)[
        1
    ]
