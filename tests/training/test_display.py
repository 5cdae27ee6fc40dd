"""What a run shows: lines, and curves that no full disk can hold up."""

from __future__ import annotations

import contextlib
import resource
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from rtn_jax.training.display import Curves, Display


def events(folder):
    """Everything in TensorBoard's files, in their order: (step, points by name, whether a session starts)."""
    found = []
    for file in sorted(folder.iterdir(), key=lambda path: int(path.suffix[1:])):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            for part, at in ((content[:8], 8), (content[12 : 12 + length], 12 + length)):
                assert struct.unpack("<I", content[at : at + 4]) == (masked_crc32c(part),)
            content = content[16 + length :]
            points = {value.tag: value.simple_value for value in event.summary.value}
            if points or event.HasField("session_log"):
                found.append((event.step, points, event.session_log.status == SessionLog.START))
    return found


class TestCurves:
    def test_are_there_at_once_after_the_mark_that_hides_what_comes_again(self, tmp_path):
        curves = Curves(tmp_path / "tensorboard", 8)
        assert not (tmp_path / "tensorboard").exists()
        curves.add(10, {"train/loss": 0.5, "train/gradient_norm": 2.0})
        curves.add(20, {"train/loss": 0.25})
        assert events(tmp_path / "tensorboard") == [
            (8, {}, True),
            (10, {"train/loss": 0.5, "train/gradient_norm": 2.0}, False),
            (20, {"train/loss": 0.25}, False),
        ]
        curves.close()
        curves.close()

    def test_a_full_disk_is_said_once_and_a_new_file_begun_when_there_is_room(self, tmp_path, caplog):
        """A real one, as far as a process can make it: its files may not get larger."""
        curves = Curves(tmp_path, 1)
        curves.add(1, {"a": 1.0})
        (file,) = tmp_path.iterdir()
        with files_of_at_most(file.stat().st_size + 10):
            curves.add(2, {"a": 1.0})
        with files_of_at_most(0):
            for step in range(3, 40):  # more than tensorboardX has patience for
                curves.add(step, {"a": 1.0})
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith(f"{tmp_path}: curves cannot be written: ")
        curves.add(40, {"a": 2.0})
        with files_of_at_most(0):
            curves.add(41, {"a": 1.0})
        curves.close()
        assert len(caplog.messages) == 2, "it was well meanwhile"
        with file.open("r+b") as torn:
            torn.truncate(file.stat().st_size - 10)
        assert events(tmp_path) == [(1, {}, True), (1, {"a": 1.0}, False), (40, {"a": 2.0}, False)]


@contextlib.contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestDisplay:
    def test_a_line_per_validation_and_points_with_names_that_tensorboard_takes(self, tmp_path, capsys):
        with Display(tmp_path, 20, 0, True) as display:
            display.validated(0, {"held_out": ("PCK@0.10 (img)", 53.44)})
            display.step(1, {"loss": 0.25, "pairs_per_second": 3.0})
            display.validated(1, {"held_out": ("PCK@0.10 (img)", 60.0), "tss": ("mean", float("nan"))})
            display.curves(1, "held_out", {"PCK@0.10 (img)": 60.0})
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert lines[0] == "step      0  held_out PCK@0.10 (img) 53.4"
        assert lines[1] == "step      1  loss 0.2500  held_out PCK@0.10 (img) 60.0  tss mean nan"
        assert events(tmp_path / "tensorboard") == [(1, {}, True), (1, {"held_out/PCK_0.10_img": 60.0}, False)]

    def test_other_processes_show_and_write_nothing(self, tmp_path, capsys):
        with Display(tmp_path, 20, 0, False) as display:
            display.step(1, {"loss": 0.25, "pairs_per_second": 3.0})
            display.validated(1, {"held_out": ("PCK@0.10 (img)", 60.0)})
            display.curves(1, "held_out", {"PCK@0.10 (img)": 60.0})
        assert capsys.readouterr().out.strip() == ""
        assert list(tmp_path.iterdir()) == []

    def test_an_error_goes_through(self, tmp_path):
        with pytest.raises(ValueError, match=r"^ours$"), Display(tmp_path, 20, 3, True):
            raise ValueError("ours")
