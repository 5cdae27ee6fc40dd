"""Flow files against bytes written by hand, every bit back, and every damage named."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from rtn_jax.flow_files import read_flow, write_flow
from rtn_jax.metrics import known_flow

SPECIAL = np.array([0.0, -0.0, 1e-45, -1e-42, 1e10, -1e10, 1e9, np.inf, -np.inf, 3.4e38, -1.5, 1 / 3], np.float32)


def bits(array):
    return np.ascontiguousarray(array).view(np.uint32)


def flo_bytes(width, height, values=()):
    return struct.pack("<fii", 202021.25, width, height) + struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize("suffix", [".flo", ".npy", ".FLO"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (13, 17)])
def test_every_bit_comes_back(tmp_path, rng, suffix, shape):
    path = tmp_path / f"flow{suffix}"
    flow = rng.normal(0, 30, (*shape, 2)).astype(np.float32)
    places = rng.integers(0, flow.size, min(len(SPECIAL), flow.size))
    flow.reshape(-1)[places] = SPECIAL[: len(places)]
    write_flow(path, flow)
    back = read_flow(path)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(bits(back), bits(flow))
    back[0, 0] = 1  # the caller's own
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".flo", ".npy"])
def test_every_special_number_comes_back(tmp_path, suffix):
    path = tmp_path / f"flow{suffix}"
    flow = SPECIAL.reshape(2, 3, 2)
    write_flow(path, flow)
    np.testing.assert_array_equal(bits(read_flow(path)), bits(flow))


def test_flo_is_the_published_format(tmp_path):
    """Three wide, two high: u and v alternate along the rows."""
    path = tmp_path / "a.flo"
    values = [float(k) for k in range(12)]
    path.write_bytes(flo_bytes(3, 2, values))
    assert path.read_bytes()[:4] == b"PIEH"
    flow = read_flow(str(path))
    assert flow.shape == (2, 3, 2)
    np.testing.assert_array_equal(flow[1, 2], [10, 11])
    np.testing.assert_array_equal(flow[0, 1], [2, 3])
    write_flow(tmp_path / "b.flo", flow)
    assert (tmp_path / "b.flo").read_bytes() == path.read_bytes()


def test_nan_becomes_the_mark_of_unknown_in_flo_alone(tmp_path):
    flow = np.array([[[np.nan, 2.0], [np.nan, np.nan]]])
    for suffix, expected in ((".flo", [[[1e10, 2], [1e10, 1e10]]]), (".npy", flow)):
        write_flow(tmp_path / f"a{suffix}", flow)
        np.testing.assert_array_equal(read_flow(tmp_path / f"a{suffix}"), np.asarray(expected, np.float32))
    assert not known_flow(read_flow(tmp_path / "a.flo")).any()


def test_known_means_finite_and_below_the_mark():
    flow = np.array(
        [[0, 0], [-5, 1e8], [1e9, 0], [0, -1e9], [np.nan, 0], [0, np.inf], [-np.inf, 0], [999_999_936, -999_999_936]],
        np.float32,
    )
    expected = [True, True, False, False, False, False, False, True]
    np.testing.assert_array_equal(known_flow(flow.reshape(2, 4, 2)), np.reshape(expected, (2, 4)))
    np.testing.assert_array_equal(known_flow(flow.reshape(2, 1, 4, 2)), np.reshape(expected, (2, 1, 4)))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
def test_npy_of_other_precisions(tmp_path, dtype):
    flow = np.arange(12.0).reshape(2, 3, 2).astype(dtype)
    np.save(tmp_path / "a.npy", flow)
    back = read_flow(tmp_path / "a.npy")
    assert back.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(back, np.arange(12.0).reshape(2, 3, 2))


def test_npy_in_another_order_of_axes(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(np.arange(12.0).reshape(2, 3, 2)))
    np.testing.assert_array_equal(read_flow(tmp_path / "a.npy"), np.arange(12.0).reshape(2, 3, 2))


def test_what_is_too_large_for_float32_is_unknown(tmp_path):
    write_flow(tmp_path / "a.flo", np.full((1, 1, 2), 1e300))
    assert not known_flow(read_flow(tmp_path / "a.flo")).any()


def test_writes_whole_numbers_and_keeps_the_old_file_until_then(tmp_path, monkeypatch):
    path = tmp_path / "a.flo"
    write_flow(path, np.arange(4).reshape(1, 2, 2))
    before = path.read_bytes()
    np.testing.assert_array_equal(read_flow(path), [[[0, 1], [2, 3]]])

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(ValueError, match=r"a\.flo: cannot be written, No space left"):
        write_flow(path, np.zeros((1, 2, 2)))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"expected a \.flo file, which begins with b'PIEH', got b''"),
        (b"PIEG" + flo_bytes(1, 1, (0, 0))[4:], r"begins with b'PIEH', got b'PIEG'"),
        (flo_bytes(2, 2)[::-1], r"begins with b'PIEH'"),
        (flo_bytes(2, 2)[:9], r"expected a header of 12 bytes, got 9"),
        (flo_bytes(2, 1, (0, 0, 0)), r"expected 28 bytes for 2 x 1 pixels, got 24"),
        (flo_bytes(2, 1, (0, 0, 0, 0, 0)), r"expected 28 bytes for 2 x 1 pixels, got 32"),
        (flo_bytes(0, 5), r"expected 1 to 100,000,000 pixels, got 0 x 5"),
        (flo_bytes(5, -3), r"expected 1 to 100,000,000 pixels, got 5 x -3"),
        (flo_bytes(-5, -3, [0.0] * 30), r"expected 1 to 100,000,000 pixels, got -5 x -3"),
        (flo_bytes(10_001, 10_000), r"expected 1 to 100,000,000 pixels, got 10001 x 10000"),
        (flo_bytes(2**31 - 1, 2**31 - 1), r"expected 1 to 100,000,000 pixels, got 2147483647 x 2147483647"),
    ],
)
def test_names_a_damaged_flo(tmp_path, content, match):
    path = tmp_path / "a.flo"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        read_flow(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def npy_bytes(shape, descr="'<f4'"):
    """A file's header alone."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"PIEH", flo_bytes(1, 1, (0, 0)), npy_bytes("(2, 2, 2)"), npy_bytes("(2, 2, 2)")[:40]),
        *(npy_bytes("(1000000, 1000000, 2)"), npy_bytes("(10**9, 2)"), npy_bytes("((")),
        npy_bytes("(1, 1, 2)", "'|O'") + bytes(16),
    ],
)
def test_names_a_damaged_npy(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a \.npy file with a flow \[H, W, 2\] \(") as caught:
        read_flow(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((4, 5, 3)), r"expected a flow \[H, W, 2\] of floats, got shape \[4, 5, 3\] float64"),
        (np.zeros((5, 2)), r"got shape \[5, 2\]"),
        (np.zeros((4, 5, 2), np.int32), r"got shape \[4, 5, 2\] int32"),
        (np.zeros((4, 5, 2), np.complex64), r"got shape \[4, 5, 2\] complex64"),
    ],
)
def test_names_an_array_that_is_no_flow(tmp_path, array, match):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=rf"a\.npy: .*{match}"):
        read_flow(tmp_path / "a.npy")


def test_a_npy_file_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 2)))
    monkeypatch.setattr("rtn_jax.flow_files.MAX_PIXELS", 19)
    with pytest.raises(ValueError, match=r"a\.npy: expected 1 to 19 pixels, got 5 x 4"):
        read_flow(tmp_path / "a.npy")


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy: expected a \.npy file"):
        read_flow(tmp_path / "a.npy")


def test_names_a_path_that_is_no_flow_file(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png: expected a name that ends in one of \.flo, \.npy, got '\.png'"):
        read_flow(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.flo: no such file"):
        read_flow(tmp_path / "a.flo")
    (tmp_path / "b.npy").mkdir()
    with pytest.raises(ValueError, match=r"b\.npy: not an ordinary file"):
        read_flow(tmp_path / "b.npy")


@pytest.mark.parametrize(
    "flow",
    [
        *(np.zeros((4, 5)), np.zeros((4, 5, 3)), np.zeros((0, 5, 2)), np.zeros((4, 0, 2))),
        *(np.zeros((4, 5, 2), bool), np.zeros((4, 5, 2), complex), np.full((1, 1, 2), "a")),
    ],
)
def test_refuses_to_write_what_is_no_flow(tmp_path, unchecked, flow):
    with pytest.raises(ValueError, match=r"^flow: expected numbers \[H, W, 2\], got shape"):
        write_flow(tmp_path / "a.flo", flow)
    assert not list(tmp_path.iterdir())


def test_names_where_it_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt: expected a name that ends in one of"):
        write_flow(tmp_path / "a.txt", np.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match=r"nowhere/a\.npy: cannot be written"):
        write_flow(tmp_path / "nowhere" / "a.npy", np.zeros((1, 1, 2)))
