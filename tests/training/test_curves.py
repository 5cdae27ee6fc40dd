"""The picture of a run's curves: what is drawn is what the lines of `metrics.jsonl` say."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from rtn_jax.training import curves, panels
from rtn_jax.training.curves import curve, curves_figure, curves_picture, headlines, stage_changes

NAMES = ("loss", "gradient_norm", "learning_rate", "pairs_per_second", "mean_axx", "mean_axy", "mean_ayx", "mean_ayy")


def train(step, stage="synthetic", **changes):
    numbers = {name: (number + 1) * (1 + 0.01 * step) for number, name in enumerate(NAMES)}
    return {"step": step, "stage": stage, "train": numbers | {"mean_determinant": 0.9, "folded": 0.02} | changes}


def validated(step, stage="synthetic", **sets):
    field = {
        "mean_axx": 0.8,
        "mean_axy": -0.2,
        "mean_ayx": 0.3,
        "mean_ayy": 0.7,
        "mean_determinant": 0.6,
        "folded": 0.1,
    }
    found = {
        key: figures | {name: n + value for name, value in field.items()}
        for n, (key, figures) in enumerate(sets.items())
    }
    return {"step": step, "stage": stage, "validation": found}


RUN = [
    validated(0, held_out={"PCK@0.10 (img)": 40.0, "PCK@0.05 (img)": 10.0}, tss={"mean": 30.0}),
    *(train(step) for step in (10, 20, 30)),
    validated(30, held_out={"PCK@0.10 (img)": 70.0, "PCK@0.05 (img)": 20.0}, tss={"mean": 25.0}),
    *(train(step, "weak") for step in (40, 50, 60)),
    validated(60, "weak", held_out={"PCK@0.10 (img)": 65.0, "PCK@0.05 (img)": 30.0}, tss={"mean": 45.5}),
]
RUN = json.loads(json.dumps(RUN))


def drawn(axes, color=None):
    """Points of every line but the dashed ones and those between stages, [[x, y], ...], of a colour."""
    return [
        one.get_xydata().tolist()
        for one in axes.lines
        if one.get_linestyle() != "--" and one.get_color() != panels.GREY and color in (None, one.get_color())
    ]


def titled(figure):
    return {axes.get_title(loc="left").split(" (")[0]: axes for axes in figure.axes if axes.get_title(loc="left")}


def twin(figure, words):
    (found,) = (axes for axes in figure.axes if axes.get_ylabel() == words)
    return found


class TestRows:
    def test_a_curve_is_one_quantity_by_step(self):
        steps, values = curve(RUN, "train", "gradient_norm")
        assert steps.tolist() == [10, 20, 30, 40, 50, 60]
        np.testing.assert_allclose(values, [2 * (1 + 0.01 * step) for step in steps])
        steps, values = curve(RUN, "validation", "tss", "mean")
        assert (steps.tolist(), values.tolist()) == ([0, 30, 60], [30.0, 25.0, 45.5])
        assert [len(part) for part in curve(RUN, "train", "nothing")] == [0, 0]
        assert [len(part) for part in curve([], "train", "loss")] == [0, 0]

    def test_what_was_done_again_counts_the_last_time(self):
        rows = [train(10, loss=1.0), train(20, loss=2.0), train(30, loss=3.0), train(20, loss=4.0), train(25, loss=5.0)]
        steps, values = curve(rows, "train", "loss")
        assert (steps.tolist(), values.tolist()) == ([10, 20, 25, 30], [1.0, 4.0, 5.0, 3.0])

    @pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_a_gap(self, value):
        steps, values = curve([train(10), train(20, loss=value), {"step": 30, "train": None}], "train", "loss")
        assert steps.tolist() == [10, 20]
        assert np.isnan(values).tolist() == [False, True]

    def test_stages(self):
        assert stage_changes(RUN) == [(40, "weak")]
        assert stage_changes(RUN[::-1]) == [(40, "weak")]
        assert stage_changes(RUN[:4]) == stage_changes([]) == stage_changes([{"step": 3}]) == []
        assert stage_changes([train(1, "a"), {"step": 2}, train(3, "b"), train(4, "a")]) == [(3, "b"), (4, "a")]

    def test_the_first_figure_is_the_headline(self):
        assert headlines(RUN) == {"held_out": "PCK@0.10 (img)", "tss": "mean"}
        assert headlines([{"step": 1, "validation": None}, {"step": 2, "validation": {"a": {}}}]) == {}


@pytest.fixture(scope="module")
def figure():
    return curves_figure(RUN)


class TestPanels:
    def test_loss(self, figure):
        axes = titled(figure)["training loss"]
        (line,) = drawn(axes)
        np.testing.assert_allclose(line, [[s, 1 + 0.01 * s] for s in (10, 20, 30, 40, 50, 60)])
        assert axes.get_yscale() == "log"

    def test_headlines_with_the_best_ringed_and_named(self, figure):
        axes = titled(figure)["validation, per cent"]
        ring, line, other_ring, other = drawn(axes)
        assert line == [[0, 40], [30, 70], [60, 65]]
        assert other == [[0, 30], [30, 25], [60, 45.5]]
        assert (ring, other_ring) == ([[30, 70]], [[60, 45.5]])
        assert [words.get_text() for words in axes.get_legend().get_texts()] == [
            "held_out: PCK@0.10 (img), best 70.0 at 30",
            "tss: mean, best 45.5 at 60",
        ]

    @pytest.mark.parametrize("values", [(96.8, 96.9), (96.8, 96.8), (20.0, 70.0)])
    def test_a_tenth_of_a_point_does_not_look_like_progress(self, values):
        rows = [validated(step, a={"x": value}) for step, value in enumerate(values)]
        low, high = titled(curves_figure(rows))["validation, per cent"].get_ylim()
        assert low < min(values) and max(values) < high
        assert high - low > 5

    def test_of_equal_figures_the_last_is_the_best(self):
        rows = [
            validated(step, a={"x": value}) for step, value in ((1000, 5.0), (2000, 7.0), (3000, 7.0), (4000, None))
        ]
        (words,) = titled(curves_figure(rows))["validation, per cent"].get_legend().get_texts()
        assert words.get_text() == "a: x, best 7.0 at 3,000"

    def test_the_2x2_part(self, figure):
        axes = titled(figure)["mean 2×2 part of the field"]
        assert axes.get_title(loc="left").endswith("(line: training, ring: held_out)")
        field = RUN[0]["validation"]["held_out"]
        for name, color in curves.MATRIX.items():
            line, rings = drawn(axes, color)
            np.testing.assert_allclose(line, [[row["step"], row["train"][name]] for row in RUN if "train" in row])
            np.testing.assert_allclose(rings, [[step, field[name]] for step in (0, 30, 60)])
        assert sorted(line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--") == [0, 1]
        assert [words.get_text() for words in axes.get_legend().get_texts()] == ["axx", "ayy", "axy", "ayx"]

    def test_determinant_and_folds_in_per_cent(self, figure):
        line, rings = drawn(titled(figure)["determinant and folds"])
        assert {y for _, y in line} == {0.9} and {y for _, y in rings} == {0.6}
        line, rings = drawn(twin(figure, "folded cells, per cent"))
        np.testing.assert_allclose([y for _, y in line], 2)
        np.testing.assert_allclose([y for _, y in rings], 10)
        low, high = twin(figure, "folded cells, per cent").get_ylim()
        assert low < 0 and high > 10, "rings at zero are seen whole"

    def test_gradient_learning_rate_and_speed(self, figure):
        for axes, name in (
            (twin(figure, "gradient norm"), "gradient_norm"),
            (twin(figure, "learning rate"), "learning_rate"),
            (titled(figure)["pairs per second"], "pairs_per_second"),
        ):
            (line,) = drawn(axes)
            np.testing.assert_allclose(line, [[row["step"], row["train"][name]] for row in RUN if "train" in row])
        assert twin(figure, "gradient norm").get_yscale() == "log"
        assert twin(figure, "learning rate").get_ylim()[0] == titled(figure)["pairs per second"].get_ylim()[0] == 0

    def test_the_learning_rate_keeps_its_peak(self):
        rows = [{"step": step, "train": {"learning_rate": min(step, 7) / (1 + step)}} for step in range(500)]
        figure = curves_figure(rows)
        (line,) = drawn(twin(figure, "learning rate"))
        np.testing.assert_allclose(line, [[step, min(step, 7) / (1 + step)] for step in range(500)])
        empty = [name for name, axes in titled(figure).items() if axes.texts]
        assert len(empty) == 5 and "gradient and learning rate" not in empty, "one of the two is there"

    def test_every_panel_marks_the_stage_and_has_the_same_steps(self, figure):
        for axes in titled(figure).values():
            (line,) = (one for one in axes.lines if one.get_color() == panels.GREY and one.get_linestyle() == "-")
            assert line.get_xdata() == [40, 40]
            assert [words.get_text() for words in axes.texts] == ["weak"]
            assert axes.get_xlim() == (pytest.approx(-1.2), pytest.approx(61.2))

    def test_a_loss_that_is_not_finite_is_a_cross(self):
        rows = [train(10), train(20, loss=None), train(30, loss=math.nan), train(40)]
        axes = titled(curves_figure(rows))["training loss"]
        assert axes.get_title(loc="left") == "training loss (cross: not finite, 2 times)"
        line, crosses = drawn(axes)
        assert [x for x, _ in crosses] == [20, 30]
        assert np.isnan(line).tolist() == [[False, False], [False, True], [False, True], [False, False]]

    def test_without_anything_the_panels_say_so(self):
        for rows, empty in ((RUN[:1], 3), (RUN[1:4], 1)):
            figure = curves_figure(rows)
            assert [words.get_text() for axes in figure.axes for words in axes.texts] == ["no values yet"] * empty
            assert figure.axes[0].get_xlim()[1] > max(1, rows[-1]["step"])

    def test_names_are_not_too_long(self):
        axes = titled(curves_figure([validated(3, **{"abcdefghi " * 4: {"x": 1.0}})]))["validation, per cent"]
        (words,) = axes.get_legend().get_texts()
        assert words.get_text() == "abcdefghi abcdefghi abc…: x, best 1.0 at 3"

    @pytest.mark.parametrize(("key", "figure"), [("$\\frac$", "x"), ("x", "$\\frac$")])
    def test_names_are_no_formulas(self, key, figure):
        curves_picture([validated(3, **{key: {figure: 1.0}})])  # as formulas they could not be drawn


class TestLines:
    @pytest.fixture
    def axes(self):
        return Figure().subplots()

    def test_a_long_noisy_line_is_pale_under_its_means(self, rng, axes):
        values = rng.uniform(1, 2, 1234)
        values[100:140] = np.nan
        panels.line(axes, (np.arange(1234.0), values), panels.BLUE)
        raw, means = drawn(axes)
        np.testing.assert_array_equal(np.array(raw)[:, 1], values)
        assert axes.lines[0].get_alpha() < 1 and axes.lines[1].get_alpha() is None
        assert len(means) == panels.PARTS
        sizes = [21] * 34 + [20] * 26  # 1234 = 60 * 20 + 34
        start = 0
        for (x, y), size in zip(means, sizes, strict=True):
            part = [value for value in values[start : start + size] if value == value]
            assert x == pytest.approx(start + (size - 1) / 2)
            assert y == pytest.approx(sum(part) / len(part)) if part else math.isnan(y)
            start += size
        assert start == 1234 and math.isnan(means[5][1])

    def test_others_are_themselves(self, rng, axes):
        for count, noisy in ((2 * panels.PARTS, True), (500, False)):
            points = np.arange(float(count)), rng.uniform(1, 2, count)
            panels.line(axes, points, panels.BLUE, noisy=noisy)
            np.testing.assert_array_equal(drawn(axes)[-1], np.stack(points, axis=-1))
        assert len(axes.lines) == 2
        panels.line(axes, (np.arange(3.0), np.full(3, np.nan)), panels.BLUE)
        assert len(axes.lines) == 2

    @pytest.mark.parametrize(
        ("values", "scale"),
        [
            ((1.0, 2.0), "log"),
            ((0.0, 2.0), "log"),
            ((-1.0, 2.0), "linear"),
            ((0.0, 0.0), "linear"),
            ((1e-9, 1e9), "log"),
        ],
    )
    def test_a_logarithm_only_of_what_has_one(self, axes, values, scale):
        panels.line(axes, (np.arange(2.0), np.array(values)), panels.BLUE)
        panels.logarithmic(axes, np.array(values))
        assert axes.get_yscale() == scale
        low, high = sorted(axes.get_ylim())
        assert 2 <= sum(low <= tick <= high for tick in axes.get_yticks()) <= 12


class TestPicture:
    def test_every_line_is_seen_and_the_same_again(self):
        picture = curves_picture(RUN)
        assert (picture.shape, picture.dtype) == ((1080, 1200, 3), np.uint8)
        assert picture.flags.c_contiguous and picture.flags.writeable
        colors = {tuple(color) for color in picture.reshape(-1, 3)}
        wanted = {panels.BLUE, panels.VERMILLION, *curves.MATRIX.values(), panels.GREY, "#ffffff"}
        assert {tuple(bytes.fromhex(color[1:])) for color in wanted} <= colors
        np.testing.assert_array_equal(curves_picture(RUN), picture)

    @pytest.mark.parametrize(
        "rows",
        [
            [],
            RUN[:1],
            [train(0)],
            [{"step": 5}],
            [
                train(step, **dict.fromkeys((*NAMES, "folded", "mean_determinant"), bad))
                for step, bad in ((5, None), (6, math.nan))
            ]
            + [validated(5, a={"x": None})],
            [train(step, loss=1e38 * step, mean_axx=-1e30, learning_rate=0.0, pairs_per_second=0.0) for step in (1, 2)],
        ],
        ids=["nothing", "validated", "trained", "bare", "no numbers", "huge"],
    )
    def test_whatever_there_is_has_a_picture(self, rows):
        assert curves_picture(rows).shape == (1080, 1200, 3)

    def test_many_sets_have_a_line_each(self):
        rows = [validated(1, **{f"set {n}": {"x": float(n)} for n in range(9)})]
        axes = titled(curves_figure(rows))["validation, per cent"]
        assert sorted(line[0][1] for line in drawn(axes)) == sorted([*range(9), *range(9)])  # each with its ring

    def test_a_row_without_a_step_is_named(self):
        with pytest.raises(ValueError, match=r"^rows: expected a step in each, got none in row 2: \{'train': 3\}$"):
            curves_picture([{"step": 1}, {"train": 3}])

    def test_pyplot_has_no_part_in_it(self):
        code = (
            "import sys, rtn_jax.training.curves as c; assert 'matplotlib' not in sys.modules; c.curves_picture([]);"
            "sys.exit('matplotlib.pyplot' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What a colour becomes to the eye without red, green or blue cones: Machado, Oliveira and Fernandes, "A
# physiologically-based model for simulation of color vision deficiency" (2009), severity 1, on linear RGB.
SEEN = {
    "usual": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("eye", SEEN)
@pytest.mark.parametrize("chosen", [(panels.BLUE, panels.VERMILLION), tuple(curves.MATRIX.values()), panels.COLORS])
def test_colours_are_told_apart_by_every_eye(eye, chosen):
    """Of the colours of one panel, any two differ by far more than the 2.3 that can just be noticed."""
    from skimage.color import rgb2lab

    rgb = np.array([list(bytes.fromhex(color[1:])) for color in chosen]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(SEEN[eye]).T).clip(0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[~np.eye(len(lab), dtype=bool)]
    assert distances.min() > 10


def test_colours_are_seen_on_white():
    """Relative luminance and contrast as the W3C defines them; the palette's yellow has 1.3."""
    rgb = np.array([list(bytes.fromhex(color[1:])) for color in panels.COLORS]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    assert (1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)).min() > 2


def test_sets_of_one_colour_have_different_marks():
    looks = [
        (panels.COLORS[n % len(panels.COLORS)], curves.MARKERS[n % len(curves.MARKERS)])
        for n in range(len(panels.COLORS) * len(curves.MARKERS))
    ]
    assert len(set(looks)) == len(looks) == 30
