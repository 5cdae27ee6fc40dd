"""Folders that take their place whole, and what is left of those that do not."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from rtn_jax import atomic


def write(path, words):
    with atomic.replacing(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "words").write_text(words)


def read(path):
    return (path / "deep" / "words").read_text()


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_folder_appears_when_it_is_whole_and_takes_the_place_of_another(tmp_path):
    with atomic.replacing(tmp_path / "a") as folder:
        assert not (tmp_path / "a").exists()
        assert folder.parent == tmp_path
    write(tmp_path / "a", "first")
    write(tmp_path / "a", "second")
    assert read(tmp_path / "a") == "second"
    assert names(tmp_path) == ["a"]


def test_what_fails_while_it_is_written_leaves_what_was_there(tmp_path):
    write(tmp_path / "a", "first")
    with pytest.raises(FileNotFoundError), atomic.replacing(tmp_path / "a") as folder:
        (folder / "deep" / "words").write_text("there is no such folder")
    assert read(tmp_path / "a") == "first"
    assert names(tmp_path) == ["a"]


def test_what_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    write(tmp_path / "a", "first")
    replace = os.replace

    def refuse(source, target):
        if str(source).endswith(".partial"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a", "second")
    assert read(tmp_path / "a") == "first"
    assert names(tmp_path) == ["a"]


def test_files_reach_the_disk_before_their_folder_gets_its_name(tmp_path, monkeypatch):
    done = []
    flush, replace = atomic._flush, os.replace
    monkeypatch.setattr(atomic, "_flush", lambda path: (done.append(path.name), flush(path)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("moved"), replace(*paths)))
    write(tmp_path / "a", "words")
    moved = done.index("moved")
    assert {"words", "deep"} <= set(done[:moved])
    assert done[moved - 1].endswith(".partial")
    assert done[moved + 1 :] == [tmp_path.name]


def test_a_kill_between_the_two_moves_is_undone(tmp_path, monkeypatch):
    write(tmp_path / "a", "first")
    replace = os.replace

    def killed(source, target):
        if str(source).endswith(".partial"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a", "second")
    assert sorted(name.split(".")[-1] for name in names(tmp_path)) == ["old", "partial"]
    atomic.put_back(tmp_path)
    assert read(tmp_path / "a") == "first"
    atomic.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a"]


def test_only_leftovers_are_removed(tmp_path):
    write(tmp_path / "a", "first")
    left = (".a.0123abcd.partial", ".b.b.0123abcd.partial", ".a.89abcdef.old")
    kept = (".partial", ".a.partial", "a.0123abcd.partial", ".a.0123abcd.old2", ".notes")
    for name in (*left, *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    atomic.remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(["a", *kept])
    atomic.remove_leftovers(tmp_path / "nowhere")


def test_an_older_folder_is_not_put_back_over_a_newer_one(tmp_path):
    write(tmp_path / "a", "second")
    write(tmp_path / ".a.0123abcd.old", "first")
    atomic.put_back(tmp_path)
    assert read(tmp_path / "a") == "second"


def test_a_removed_folder_is_never_seen_in_half(tmp_path, monkeypatch):
    write(tmp_path / "a", "first")
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)  # killed
    atomic.remove(tmp_path / "a")
    monkeypatch.undo()
    assert not (tmp_path / "a").exists()
    atomic.remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_room_is_asked_for_and_given_back(tmp_path):
    atomic.reserve(tmp_path, 0)
    atomic.reserve(tmp_path, 1_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            atomic.reserve(tmp_path, 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []
