"""README and docs are true: every code block is run or, where that takes minutes, read by the program it is for.

Python blocks are executed. Command lines are parsed by the real parsers; with RTN_JAX_DOCUMENTS=run, as in `.ci/run`,
they are run as well, on small stand-ins for photos and networks. What can be neither stands below with the reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tyro
import yaml

import rtn_jax
from rtn_jax import trained
from rtn_jax.__main__ import COMMANDS, command
from rtn_jax.data.json_pairs import json_pairs
from rtn_jax.images import save_image
from rtn_jax.weights.tensors import open_tensors
from tests.networks import moving_params, photos, write_two_classes

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
LANGUAGES = ("sh", "python", "diff", "json", "text", "matlab")

NOT_RUN = {
    ("docs/export.md", "saved = load('net-epoch.mat'); net = init_RTNs(false);"): "no MATLAB, as the page says",
    ("docs/examples.md", "import io, urllib.request"): "test_examples.py runs it beside a server",
    ("docs/scaling.md", "t(n) = max(reading, slowest(n) + all_reduce(n)) + pause"): "a formula",
}
"""Blocks, by document and first line, that are no commands or need what is not here."""

ONLY_PARSED = {
    "docs/backbones.md: python train.py --backbone=cat-fcss": "compiles for minutes; training/test_features_stage.py",
    "docs/backbones.md: python train.py --init=runs/features": "the network of the command before",
    "docs/training.md: srun ": "needs a cluster; training/test_hosts.py starts two processes",
    "docs/training.md: python train.py --data=photos --coordinator": "waits for another; training/test_hosts.py",
    "docs/training.md: python train.py --recipe=released": "the published PF-PASCAL; data/test_pf_pascal.py",
    "docs/results.md: python train.py --stage=both": "an hour, of published data",
    "docs/scaling.md: python -m benchmarks.": "an hour; benchmarks/test_train_step.py, test_scaling.py",
    "docs/weights.md: python -m rtn_jax weights fetch": "hundreds of MB; weights/test_fetch.py",
    "docs/weights.md: python -m rtn_jax weights verify": "a ResNet-101; weights/test_command.py",
    "docs/weights.md: python -m rtn_jax weights convert": "a ResNet-101; weights/test_command.py",
    "docs/examples.md: python examples/serve_exported.py": "serves for ever; test_examples.py",
    "docs/adding_a_backbone.md: pytest": "in a copy of the library, below",
    "README.md: python -m rtn_jax demo": "serves for ever; demo/test_page.py",
    "docs/demo.md: python -m rtn_jax demo": "serves for ever; demo/test_page.py",
    "docs/model_card.md: python train.py": "three quarters of an hour, of published photos",
    "docs/model_card.md: python -m rtn_jax pack": "the run before; test_trained.py",
    "docs/demo.md: pip install": "test_packaging.py",
    "README.md: pip install": "test_packaging.py, and .ci/run installs",
    "README.md: pytest": "this is it",
    "README.md: ruff": ".ci/run",
    "README.md: mypy": ".ci/run",
    "README.md: python evaluate.py --predictions=my_answers": "all of TSS; evaluation/test_tss_protocol.py",
    "README.md: python -m rtn_jax prepare": "PF-WILLOW; data/test_prepare.py and reporting/test_published.py",
    "README.md: python evaluate.py --ckpt=runs/vgg --dataset=pf_willow": "needs what `prepare` leaves",
}
"""Beginnings of command lines that are parsed and not run, with the reason or the test that runs the like."""


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    document: str
    language: str
    note: str  # what follows the language: the file that the block is, or is a change of
    body: str

    @property
    def name(self) -> tuple[str, str]:
        return self.document, self.body.splitlines()[0]


def blocks(document: str) -> list[Block]:
    found = re.findall(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", (ROOT / document).read_text(), re.M | re.S)
    return [Block(document, *parts) for parts in found]


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def commands(body: str) -> list[list[str]]:
    """The words of every command of a shell block."""
    found = []
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|")), len(words))
            found.append(words[:end])
            words = words[end + 1 :]
    return found


LINES = [(b.document, words) for b in BLOCKS if b.language == "sh" for words in commands(b.body)]


def line_id(line: tuple[str, list[str]]) -> str:
    return f"{line[0]}: {' '.join(line[1])}"


def test_every_block_is_fenced_and_says_what_it_is():
    for document in DOCUMENTS:
        prose = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.M | re.S)
        assert "```" not in prose, document
        assert not re.search(r"\n\n    \S", prose), f"{document}: an indented block, which no test would see"
    assert {block.language for block in BLOCKS} <= set(LANGUAGES)
    unrun = {b.name for b in BLOCKS if b.language in ("text", "matlab") or (b.language == "python" and " " in b.note)}
    assert unrun == set(NOT_RUN), "blocks that no test runs are listed, with the reason, and no others"
    noted = {b.document for b in BLOCKS if b.language == "diff" or (b.note and b.name not in NOT_RUN)}
    assert noted == {"docs/adding_a_backbone.md"}, "the only page whose blocks are files and changes of files"


def test_what_is_listed_as_only_parsed_is_there():
    assert LINES
    for start in ONLY_PARSED:
        assert any(line_id(line).startswith(start) for line in LINES), start


def expanded(folder: Path, word: str) -> list[str]:
    """As a shell would."""
    found = sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else []
    return found or [word]


def furnish(folder: Path) -> None:
    """What the documents' commands and code take for granted, in small; not a run that they would make themselves."""
    rng = np.random.default_rng(0)
    rtn_jax.save(folder / "vgg", moving_params())  # which comes before the package's network of that name
    (folder / "cats").mkdir()
    names = ("cat.jpg", "lion.jpg", "cats/one.jpg", "cats/two.jpg", "painted.png")
    for name, photo in zip(names, photos(rng, len(names), 100, 140), strict=True):
        save_image(folder / name, photo)
    for name in ("cat_mask.png", "mask.png"):
        save_image(folder / name, 255 * (photos(rng, 1, 100, 140)[0] > 128).astype(np.uint8))
    for name in ("photos", "held_out_photos", "classes"):
        (folder / name).mkdir()
        write_two_classes(folder / name, 40, 48)
    rows = [f"photos/class{i % 2}/{i}.png,class{i % 2},4,4,40,36" for i in range(7)]
    (folder / "photos.csv").write_text("\n".join(["image,class,xmin,ymin,xmax,ymax", *rows]) + "\n")
    pair = {"src": "cat.jpg", "tgt": "lion.jpg", "src_points": [[3, 4], [20, 9]], "tgt_points": [[5, 6], [30, 8]]}
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if any(b.language == "python" for b in blocks(name))])
def test_python_blocks_run_one_after_another(document, tmp_path, monkeypatch, unchecked):
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    rtn_jax.save(tmp_path / "runs" / "vgg", moving_params())
    src, tgt = photos(np.random.default_rng(1), 2, 256, 256)[:, None]
    names = {"src": src, "tgt": tgt}  # what the prose around a block speaks of
    for block in blocks(document):
        if block.language == "python":
            code = compile(block.body, document, "exec")
            if not block.note:
                exec(code, names)


def parse(parser: object, arguments: list[str]) -> None:
    """By a program's own parser, which says what is wrong and ends the process."""
    if isinstance(parser, argparse.ArgumentParser):
        parser.parse_args(arguments)
    elif dataclasses.is_dataclass(parser):
        tyro.cli(parser, args=arguments)
    else:
        tyro.cli(functools.wraps(parser)(lambda *_, **__: None), args=arguments)  # with its flags, and nothing done


def parser_of(words: list[str], monkeypatch) -> tuple[object, list[str]]:
    """Of a command that Python runs, with the words that are its arguments."""
    if words[0] == "rtn-jax":
        words = ["python", "-m", "rtn_jax", *words[1:]]
    if words[1:3] == ["-m", "rtn_jax"]:
        return command(words[3])[0], words[4:]
    if words[1] in ("train.py", "evaluate.py"):
        return command(words[1].removesuffix(".py"))[0], words[2:]
    if words[1] == "-m" and words[2].startswith("benchmarks."):
        return importlib.import_module(words[2]).main, words[3:]
    path = ROOT / words[1]
    assert path.parent.name == "examples", words
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(f"examples_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "ARGUMENTS", None) or module.main, words[2:]


@pytest.mark.parametrize("line", LINES, ids=line_id)
def test_command_lines_are_what_the_programs_take(line, unchecked, tmp_path, monkeypatch, capsys):
    _, words = line
    monkeypatch.chdir(tmp_path)
    words = words[1:] if words[0] == "srun" else words
    if words[0] in ("python", "rtn-jax"):
        try:
            parse(*parser_of(words, monkeypatch))
        except SystemExit:
            pytest.fail(f"{line_id(line)}: {capsys.readouterr().err}")
    elif words[:2] == ["pip", "install"]:
        check_install(words[2:])
    elif words[0] == "pytest":
        assert all((ROOT / word).exists() for word in words if word.endswith(".py"))
    else:
        assert f"\n{' '.join(words)}\n" in (ROOT / ".ci" / "run").read_text(), (
            "a tool that .ci/run runs in the same way"
        )


def check_install(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        what = re.fullmatch(r"\.(?:\[(.+)\])?", word)
        if what is None:
            assert word == "-r" or (ROOT / word).is_file(), word
        else:
            assert set(filter(None, (what[1] or "").split(","))) <= set(extras), word


def test_examples_of_the_protocols_are_read(tmp_path):
    """The JSON lines of one's own pairs."""
    furnish(tmp_path)
    (block,) = [block for block in BLOCKS if block.language == "json"]
    (tmp_path / "documented.jsonl").write_text(block.body)
    pairs = json_pairs(tmp_path / "documented.jsonl").pairs
    assert [pair.id for pair in pairs] == ["cat-lion", "cat/a-b"]


def change(text: str, difference: str) -> str:
    """Applies a difference whose lines occur once."""
    lines = difference.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[0] in keep) for keep in (" -", " +"))
    assert text.count(before) == 1, f"docs/adding_a_backbone.md changes what is not there:\n{before}"
    return text.replace(before, after)


def test_adding_a_backbone(tmp_path):
    """The page, as it stands, applied to a copy of the library, where what holds for every backbone is tested of it."""
    for folder in ("rtn_jax", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for block in blocks("docs/adding_a_backbone.md"):
        if block.note:
            path = tmp_path / block.note
            path.write_text(block.body if block.language == "python" else change(path.read_text(), block.body))
    lint = subprocess.run(["ruff", "check", "rtn_jax"], cwd=tmp_path, capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout
    chosen = "plain and (is_a_backbone or identity or translation or mix or exist or presets)"
    ours = ["-m", "pytest", "-q", "-n0", "tests/backbones/test_every_backbone.py", "-k", chosen]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run([sys.executable, *ours], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert re.search(r"^6 passed", done.stdout, re.M), done.stdout


def test_flags_that_the_prose_names_exist():
    # Of benchmarks and other programs.
    known = {"--help", "--quick", "--compile_peer", "--update", "--gpu", "--pairs", "--logdir"}
    for name in COMMANDS:
        config = command(name)[0]
        known |= {f"--{field.name}" for field in dataclasses.fields(config)}
    for document in DOCUMENTS:
        prose = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.M | re.S)
        quoted = " ".join(re.findall(r"`([^`]+)`", prose))
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", quoted):
            assert flag in known or flag.startswith("--xla"), f"{document}: {flag}"


def test_iterations_that_are_named_are_as_many_as_the_network_that_ships_has_levels():
    """What users copy goes to `vgg`; the stand-in of that name above has other levels."""
    with open_tensors(trained.FOLDER / "vgg.safetensors") as file:
        levels = len(json.loads(file.metadata[trained.KEY])["config"]["levels"])
    for document in ("README.md", "docs/matching.md"):
        text = (ROOT / document).read_text()
        named = re.findall(r"--iterations((?: \d+)+)|iterations=\(([\d, ]+)\)", text)
        assert named, document
        for flag, argument in named:
            assert len(re.findall(r"\d+", flag or argument)) == levels, f"{document}: {flag or argument}"


def test_documents_link_to_what_is_there():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert (ROOT / document).parent.joinpath(target).exists(), f"{document}: {target}"


def test_the_readme_is_short_and_names_real_functions():
    words = (ROOT / "README.md").read_text()
    assert len(words.splitlines()) <= 120
    for module, function in re.findall(r"`(rtn_jax(?:\.\w+)+)\.(\w+)`", words):
        assert hasattr(importlib.import_module(module), function), f"{module}.{function}"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert str(citation["version"]) == rtn_jax.__version__
    (paper,) = citation["references"]
    assert "Recurrent Transformer Networks" in paper["title"]
    assert [author["family-names"] for author in paper["authors"]] == ["Kim", "Lin", "Jeon", "Min", "Sohn"]


SMALL_NETWORK = ["--preset=paper", "--iterations", "1", "--image_size=32", "--geometry_width=4"]
SHORT = ["--weights=random", "--steps=1", "--batch_size=2", "--eval_every=1", "--val_pairs=2"]


def shortened(words: list[str]) -> list[str]:
    """The same command, but for what makes it long: later flags replace those before them."""
    if words[:2] != ["python", "train.py"]:
        return words
    return words + SHORT + ([] if any(word.startswith("--init") for word in words) else SMALL_NETWORK)


@pytest.mark.skipif(
    os.environ.get("RTN_JAX_DOCUMENTS") != "run", reason="minutes: RTN_JAX_DOCUMENTS=run, as .ci/run does"
)
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if any(line[0] == name for line in LINES)])
def test_command_lines_run(document, tmp_path):
    """In order, in a folder of the document's own."""
    home = tmp_path / "home"
    home.mkdir()
    furnish(home)
    for name in ("train.py", "evaluate.py", "examples", "benchmarks"):
        (home / name).symlink_to(ROOT / name)
    if "PF-WILLOW" in (text := (ROOT / document).read_text()) and "RTN_JAX_DATA" in os.environ:
        (tmp_path / "PF-WILLOW").symlink_to(Path(os.environ["RTN_JAX_DATA"]) / "PF-WILLOW")
    if "python train.py" not in text:
        rtn_jax.save(home / "runs" / "vgg", moving_params())
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | cache | {"PYTHONPATH": str(ROOT), "RTN_JAX_CACHE": str(tmp_path / "cache")}
    for line in (line for line in LINES if line[0] == document):
        if any(line_id(line).startswith(start) for start in ONLY_PARSED):
            continue
        if "PF-WILLOW" in line_id(line) and not (tmp_path / "PF-WILLOW").exists():
            continue
        words = [found for word in shortened(line[1]) for found in expanded(home, word)]
        words = [sys.executable, *words[1:]] if words[0] == "python" else words
        done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line_id(line)}\n{done.stdout}{done.stderr}"
