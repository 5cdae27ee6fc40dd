"""Published folders and lists are found at two levels, and MATLAB arrays are what they should be."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from rtn_jax.data.published import matlab_numbers, published_list, top_folder
from tests.weights.released_files import write_v73


def test_the_top_folder_is_found_from_above_and_from_inside(tmp_path, monkeypatch):
    top = tmp_path / "Top"
    top.mkdir()
    assert top_folder(tmp_path, "Top", "Set") == top
    assert top_folder(str(top), "Top", "Set") == top
    monkeypatch.chdir(top)
    assert top_folder(".", "Top", "Set").resolve() == top


def test_a_wrong_level_says_what_was_looked_for(tmp_path):
    deep = tmp_path / "Top" / "deep"
    deep.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^data_dir: Set needs the folder 'Top', not found: ") as caught:
        top_folder(deep, "Top", "Set")
    assert str(caught.value).endswith(f"not found: {deep / 'Top'}")


def test_a_data_dir_that_is_no_folder_says_so(tmp_path):
    (tmp_path / "afile").touch()
    for name, state in (("afile", "is a file"), ("none", "does not exist")):
        with pytest.raises(ValueError, match=rf"{name} {state}, expected a folder that holds Top \(Set\)$"):
            top_folder(tmp_path / name, "Top", "Set")


def test_lists_lie_beside_or_inside_under_one_of_their_names(tmp_path):
    top = tmp_path / "Top"
    top.mkdir()
    with pytest.raises(ValueError, match=r"^data_dir: Set needs the list 'a\.csv' or 'b\.csv', not found: ") as caught:
        published_list(top, ("a.csv", "b.csv"), "Set")
    for path in (top / "b.csv", tmp_path / "b.csv", top / "a.csv", tmp_path / "a.csv"):  # from last to first choice
        assert str(path) in str(caught.value)
        path.touch()
        assert published_list(top, ("a.csv", "b.csv"), "Set") == path


NUMBERS = np.array([[1.5, 2.0, 3.0], [4.0, 5.0, 6.25]])


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["f8", "f4", "u2", "i4"])
def test_matlab_numbers(tmp_path, compressed, dtype):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"before": "text", "x": NUMBERS.astype(dtype)}, do_compression=compressed)
    for shape in ((2, 3), (None, 3), (None, None)):
        numbers = matlab_numbers(path, "x", shape)
        assert numbers.dtype == np.float64
        np.testing.assert_array_equal(numbers, NUMBERS.astype(dtype))


def test_matlab_numbers_of_version_7_3(tmp_path):
    write_v73(tmp_path / "a.mat", {"x": NUMBERS})
    np.testing.assert_array_equal(matlab_numbers(tmp_path / "a.mat", "x", (2, 3)), NUMBERS)


@pytest.mark.parametrize(
    ("content", "shape", "match"),
    [
        ({"y": NUMBERS}, (2, 3), "expected a variable 'x', which is not there"),
        ({"x": NUMBERS}, (3, 2), r"expected 'x' of \[3, 2\] numbers, got \[2, 3\]"),
        ({"x": NUMBERS}, (None, 4), r"expected 'x' of \[n, 4\] numbers, got \[2, 3\]"),
        ({"x": NUMBERS}, (2, 3, 1), r"expected 'x' of \[2, 3, 1\] numbers, got \[2, 3\]"),
        ({"x": np.zeros((0, 4))}, (None, 4), r"expected 'x' of \[n, 4\] numbers, got \[0, 4\]"),
        ({"x": "abc"}, (1, 3), r"expected 'x' of \[1, 3\] numbers, got no numbers"),
        ({"x": {"y": 1.0}}, (1, 1), "got no numbers"),
        ({"x": 1j * NUMBERS}, (2, 3), "got no numbers"),
        ({"x": np.array([[1.0, np.nan]])}, (1, 2), "expected finite numbers in 'x', got nan"),
        ({"x": np.array([[1.0, -np.inf]])}, (1, 2), "expected finite numbers in 'x', got -inf"),
    ],
)
def test_matlab_numbers_refuse(tmp_path, content, shape, match):
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=rf"a\.mat: .*{match}"):
        matlab_numbers(tmp_path / "a.mat", "x", shape)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("keep", [0, 60, 127, 130, 180, -3])
def test_cut_off_files_are_named(tmp_path, compressed, keep):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": NUMBERS}, do_compression=compressed)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.mat: "):
        matlab_numbers(path, "x", (2, 3))


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "folder.mat").mkdir()
    for name in ("none.mat", "folder.mat", "x" * 300):
        with pytest.raises(ValueError, match=rf"{name}: "):
            matlab_numbers(tmp_path / name, "x", (2, 3))
    (tmp_path / "empty.mat").touch()
    for name, match in (("folder.mat", "it is a folder$"), ("empty.mat", "found an empty file$")):
        with pytest.raises(ValueError, match=match) as caught:
            matlab_numbers(tmp_path / name, "x", (2, 3))
        assert "Keras" not in str(caught.value)
