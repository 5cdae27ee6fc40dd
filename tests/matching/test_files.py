"""What the files of several targets are called, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtn_jax.images import save_image
from rtn_jax.matching.files import check, planned

ALL = {"flow": Path("x.flo"), "gif": Path("x.gif"), "mask": True, "edit": True}
NONE = {"flow": None, "gif": None, "mask": False, "edit": False}


def names(targets, out, **asked):
    return [list(files.listed().values()) for files in planned([Path(t) for t in targets], out=Path(out), **asked)]


def test_one_target_has_the_names_given():
    assert names(["a/lion.jpg"], "match.webp", **NONE) == [["match.webp"]]
    written = ["match.webp", "x.flo", "x.gif", "match_mask.png", "match_overlay.webp", "match_edit.jpg"]
    assert names(["a/lion.jpg"], "match.webp", **ALL) == [written]
    assert names(["a/lion.bmp"], "m.png", **ALL)[0][-1] == "m_edit.png"


def test_several_targets_have_theirs_too():
    assert names(["a/lion.jpg", "a/puma.png", "b/lion.png"], "out/m.png", **{**NONE, "gif": Path("g/x.gif")}) == [
        ["out/m_lion.png", "g/x_lion.gif"],
        ["out/m_puma.png", "g/x_puma.gif"],
        ["out/m_lion-2.png", "g/x_lion-2.gif"],
    ]


def test_a_folder_holds_a_picture_per_target(tmp_path):
    assert names(["a/lion.jpg"], "found", **{**NONE, "edit": True}) == [["found/lion.png", "found/lion_edit.jpg"]]
    (tmp_path / "x.png").mkdir()
    assert names(["a.jpg", "b.jpg"], tmp_path / "x.png", **NONE) == [
        [str(tmp_path / "x.png" / "a.png")],
        [str(tmp_path / "x.png" / "b.png")],
    ]


@pytest.mark.parametrize(
    ("out", "asked", "words"),
    [
        ("src.png", {}, r"src\.png: would overwrite what is read from it"),
        ("m.png", {"json": "json.txt"}, r"json\.txt: expected a name that ends in \.json"),
        ("m.png", {"json": "no/x.json"}, r"no/x\.json: cannot be written, No such file"),
        ("m.png", {"flow": Path("x.png")}, r"x\.png: expected a name that ends in one of \.flo, \.npy"),
        ("m.png", {"gif": Path("x.png")}, r"x\.png: expected a name that ends in \.gif, got '\.png'"),
        ("m.png", {"gif": Path("no/x.gif")}, r"no/x\.gif: cannot be written"),
        ("m.txt", {}, r"m\.txt: expected a name that ends in one of \.png"),
        ("no/m.png", {}, r"no/m\.png: cannot be written"),
        ("no/found", {}, r"no/found: cannot be written"),
        ("m.json", {"json": "m.json"}, r"m\.json: would be written twice"),
    ],
)
def test_what_cannot_be_written_is_refused_before(tmp_path, monkeypatch, out, asked, words):
    monkeypatch.chdir(tmp_path)
    for name in ("src.png", "tgt.png"):
        save_image(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    wanted = {**NONE, **{k: v for k, v in asked.items() if k != "json"}}
    path = Path(out)
    plan = planned([Path("tgt.png")], out=path, **wanted)
    json = Path(asked["json"]) if "json" in asked else None
    with pytest.raises(ValueError, match=words):
        check(plan, json, [Path("src.png"), Path("tgt.png")], None if path.suffix else path)
    assert {file.name for file in tmp_path.iterdir()} == {"src.png", "tgt.png"}
