from __future__ import annotations

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.coordinates import pixel_grid, resize_points
from rtn_jax.visualize import (
    checkerboard,
    color_wheel,
    draw_matches,
    flow_to_color,
    forward_warp,
    match_figure,
    pull_back,
    sample_grid_points,
    warp_overlay,
)
from rtn_jax.visualize.colors import HOLE
from rtn_jax.visualize.drawing import PALETTE, place_labels

SHAPE = (20, 30)


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def identity(shape=SHAPE):
    return pixel_grid(shape, np.float64)


# Colours of a flow


def test_zero_flow_is_white_and_unknown_flow_is_grey():
    flow = np.zeros((3, 4, 2))
    flow[0, 0] = np.nan
    flow[0, 1] = 1e9, 1e9  # as the benchmarks' files mark it
    flow[0, 2] = 0, np.inf
    color = flow_to_color(flow)
    assert color.dtype == np.uint8
    np.testing.assert_array_equal(color[0, :3], HOLE)
    np.testing.assert_array_equal(color[1:], 255)
    np.testing.assert_array_equal(color[0, 3], 255)


def test_right_is_red_and_opposite_directions_differ():
    theta = np.deg2rad(np.arange(0, 360, 5))
    color = flow_to_color(np.stack([np.cos(theta), np.sin(theta)], axis=-1)[None])[0].astype(int)
    assert color[0, 0] > 200
    assert color[0, 1:].max() < 60
    assert color[18, 0] > 200  # down is yellow
    assert color[18, 2] < 80
    assert color[54, 2] > color[54, 1] + 80  # up is violet
    difference = np.abs(color - np.roll(color, len(color) // 2, axis=0)).max(axis=-1)
    assert difference.min() > 80
    assert np.abs(color - np.roll(color, 1, axis=0)).max() < 30  # no edge where there is none in the flow


def test_a_direction_can_be_told_without_telling_red_from_green():
    theta = np.deg2rad(np.arange(0, 360, 10))
    red, green, blue = flow_to_color(np.stack([np.cos(theta), np.sin(theta)], axis=-1)[None])[0].T.astype(float)
    seen = np.stack([0.3 * red + 0.7 * green, blue], axis=-1)  # what remains: yellow against blue, light against dark
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert apart[np.arange(36), (np.arange(36) + 18) % 36].min() > 60


def test_the_saturation_is_the_length():
    color = flow_to_color(np.asarray([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [9.0, 0.0]]]), max_norm=2)[0].astype(int)
    np.testing.assert_allclose(255 - color[1], (255 - color[2]) / 2, atol=1)
    np.testing.assert_array_equal(color[2], color[3])  # beyond the rim: the rim's colour
    np.testing.assert_array_equal(flow_to_color(np.asarray([[[2.0, 0.0]]])), flow_to_color(np.asarray([[[7.0, 0.0]]])))


def test_the_key_shows_each_direction_where_it_points():
    wheel = color_wheel(101)
    assert wheel.shape == (101, 101, 3)
    np.testing.assert_array_equal(wheel[50, 50], 255)
    np.testing.assert_array_equal(wheel[0, 0], 255)
    for x, y in [(40, 0), (-40, 0), (0, 40), (0, -40), (28, -28)]:
        expected = flow_to_color(np.asarray([[[x, y]]], np.float64), max_norm=50.5)[0, 0]
        np.testing.assert_allclose(wheel[50 + y, 50 + x].astype(int), expected, atol=1)
    with pytest.raises(ValueError, match="size: expected at least 1 pixel, got 0"):
        color_wheel(0)


def test_wrong_flows_are_refused():
    with pytest.raises(ValueError, match=r"flow: .* \[H, W, 2\], got shape \(4, 5, 3\)"):
        flow_to_color(np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="max_norm: expected a length above 0, got -1"):
        flow_to_color(np.zeros((4, 5, 2)), max_norm=-1)


# Two images in one


def test_overlay_is_the_mean():
    a, b = noise(), noise(seed=1)
    np.testing.assert_allclose(warp_overlay(a, b), (a.astype(float) + b) / 2, atol=0.5)
    np.testing.assert_array_equal(warp_overlay(a, a.astype(np.float32)), a)
    with pytest.raises(ValueError, match=r"tgt: expected the shape of warped, \(20, 30, 3\), got \(20, 29, 3\)"):
        warp_overlay(a, a[:, 1:])


def test_checkerboard_takes_cells_in_turn():
    a, b = np.zeros((40, 80, 3), np.uint8), np.full((40, 80, 3), 255, np.uint8)
    board = checkerboard(a, b, cells=8)
    y, x = np.mgrid[:40, :80]
    np.testing.assert_array_equal(board[..., 0], np.where((x // 10 + y // 10) % 2 == 0, 0, 255))
    np.testing.assert_array_equal(checkerboard(a, b, cells=1), a)
    with pytest.raises(ValueError, match="cells: expected at least 1, got 0"):
        checkerboard(a, b, cells=0)


# Warping


def test_both_warps_under_the_identity_are_the_image():
    image = noise()
    for warped, coverage in (forward_warp(image, identity(), SHAPE), pull_back(image, identity())):
        assert warped.dtype == np.float32
        assert coverage.dtype == bool
        assert coverage.all()
        np.testing.assert_allclose(warped, image, atol=1e-3)


@pytest.mark.parametrize(("dx", "dy"), [(5, 3), (-4, 2), (7, -6)])
def test_a_translation_moves_the_picture_and_leaves_holes(dx, dy):
    image = noise()
    expected, covered = np.zeros((*SHAPE, 3)), np.zeros(SHAPE, bool)
    for y in range(SHAPE[0]):
        for x in range(SHAPE[1]):
            if 0 <= y + dy < SHAPE[0] and 0 <= x + dx < SHAPE[1]:
                expected[y + dy, x + dx], covered[y + dy, x + dx] = image[y, x], True
    warped, coverage = forward_warp(image, identity() + np.asarray([dx, dy]), SHAPE)
    np.testing.assert_array_equal(coverage, covered)
    np.testing.assert_allclose(warped, expected, atol=1e-3)
    pulled, coverage = pull_back(image, identity() - np.asarray([dx, dy]))
    np.testing.assert_array_equal(coverage, covered)
    np.testing.assert_allclose(pulled, expected, atol=1e-3)


def test_forward_warp_inverts_an_affine_mapping_into_another_size():
    matrix, offset = np.asarray([[1.6, -0.5], [0.4, 1.8]]), np.asarray([9.0, -3.0])
    image = identity() @ np.asarray([[3.0, 1.0, 0.0], [2.0, 0.0, 5.0]]) + 20  # linear: interpolation is exact
    shape = (50, 60)
    warped, coverage = forward_warp(image, identity() @ matrix.T + offset, shape)
    origin = (pixel_grid(shape, np.float64) - offset) @ np.linalg.inv(matrix).T  # source position of each target pixel
    inside = ((origin >= -1e-9) & (origin <= np.asarray([SHAPE[1] - 1, SHAPE[0] - 1]) + 1e-9)).all(axis=-1)
    np.testing.assert_array_equal(coverage, inside)
    expected = origin @ np.asarray([[3.0, 1.0, 0.0], [2.0, 0.0, 5.0]]) + 20
    np.testing.assert_allclose(warped[inside], expected[inside], atol=1e-3)


def test_a_mirrored_mapping_mirrors():
    image = noise()
    warped, coverage = forward_warp(image, identity() * [-1, 1] + [SHAPE[1] - 1, 0], SHAPE)
    assert coverage.all()
    np.testing.assert_allclose(warped, image[:, ::-1], atol=1e-3)


def test_masked_and_unknown_source_pixels_leave_holes():
    mask = np.ones(SHAPE, bool)
    mask[5:9, 10:20] = False
    unknown = identity()
    unknown[5:9, 10:20] = np.nan
    for mapping, given in ((identity(), mask), (unknown, None)):
        warped, coverage = forward_warp(noise(), mapping, SHAPE, given)
        np.testing.assert_array_equal(coverage, mask)
        np.testing.assert_array_equal(warped[~mask], 0)


def test_a_torn_mapping_is_not_smeared_over_the_tear():
    mapping = identity()
    mapping[:, 15:, 0] += 30
    _, coverage = forward_warp(noise(), mapping, (20, 60))
    np.testing.assert_array_equal(coverage.all(axis=0), [x < 15 or x >= 45 for x in range(60)])
    assert not coverage[:, 15:45].any()


def test_where_a_mapping_folds_the_larger_orientation_is_on_top():
    image = np.zeros((4, 30, 3))
    image[..., 0] = np.arange(30)
    mapping = identity((4, 30))
    mapping[:, 20:, 0] = 38 - mapping[:, 20:, 0]  # the last ten columns turn back over 9..18
    warped, coverage = forward_warp(image, mapping, (4, 30))
    np.testing.assert_allclose(warped[:, :20, 0], np.broadcast_to(np.arange(20.0), (4, 20)), atol=1e-3)
    assert not coverage[:, 20:].any()


def test_a_mapping_to_one_point_covers_nothing():
    assert not forward_warp(noise(), np.full((*SHAPE, 2), 7.0), SHAPE)[1].any()
    assert not forward_warp(noise(), np.full((*SHAPE, 2), np.nan), SHAPE)[1].any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"mapping: .* \[20, 30, 2\], got shape \(30, 20, 2\)"):
        forward_warp(noise(), np.zeros((30, 20, 2)), SHAPE)
    with pytest.raises(ValueError, match=r"mask: expected shape \(20, 30\), got \(30, 20\)"):
        forward_warp(noise(), identity(), SHAPE, np.ones((30, 20)))
    with pytest.raises(ValueError, match=r"tgt: expected an RGB image"):
        pull_back(np.zeros((20, 30)), identity())


# Points


@pytest.mark.parametrize("n", [1, 6, 12, 40, 100])
@pytest.mark.parametrize("shape", [(200, 300), (300, 100), (50, 50)])
def test_grid_points_are_spread_over_the_picture(n, shape):
    points = sample_grid_points(shape, n)
    assert 0.7 * n <= len(points) <= n
    assert (points >= 0).all()
    assert (points <= [shape[1] - 1, shape[0] - 1]).all()
    np.testing.assert_allclose(points.mean(axis=0), [(shape[1] - 1) / 2, (shape[0] - 1) / 2], atol=1e-3)
    if n > 1:
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(len(points))
        assert apart.min() > 0.6 * np.sqrt(shape[0] * shape[1] / n)


def test_grid_points_lie_in_the_mask():
    y, x = np.mgrid[:80, :120]
    disc = (x - 90) ** 2 + (y - 30) ** 2 < 20**2
    points = sample_grid_points(disc, 20)
    assert 14 <= len(points) <= 20
    assert (np.hypot(points[:, 0] - 90, points[:, 1] - 30) < 21).all()
    line = np.eye(60, dtype=bool)[:, ::-1]
    points = sample_grid_points(line, 7)
    assert len(points) >= 1
    nearest = np.rint(points).astype(int)
    assert line[nearest[:, 1], nearest[:, 0]].all()


def test_reliable_points_are_preferred_and_stay_spread():
    confidence = np.full((100, 200), 0.01)
    confidence[:, 120:] = 0.9
    confidence[:, :20] = np.nan
    points = sample_grid_points((100, 200), 12, confidence=confidence)
    assert len(points) == 12
    assert (points[:, 0] > 119).all()
    assert np.ptp(points, axis=0).min() > 50
    even = sample_grid_points((100, 200), 12, confidence=np.ones((100, 200)))
    assert len(np.unique(even, axis=0)) == 12
    assert (np.ptp(even, axis=0) > [140, 65]).all()


def test_impossible_requests_for_points_are_refused():
    for given, words in [
        (np.zeros((4, 5)), "the mask is empty"),
        (np.zeros((4, 5, 3)), "an array of shape"),
        ((0, 5), r"\[0, 5\]"),
    ]:
        with pytest.raises(ValueError, match=f"mask_or_shape: .*{words}"):
            sample_grid_points(given, 3)
    with pytest.raises(ValueError, match="n: expected at least 1 point, got 0"):
        sample_grid_points((4, 5), 0)
    with pytest.raises(ValueError, match=r"confidence: expected shape \(4, 5\), got \(5, 4\)"):
        sample_grid_points((4, 5), 3, confidence=np.ones((5, 4)))


# Drawings


def test_matches_are_drawn_at_their_pixels_in_their_colour():
    src, tgt = np.full((100, 150, 3), 90, np.uint8), np.full((60, 80, 3), 160, np.uint8)
    src_points, tgt_points = np.asarray([[20.0, 30.0], [120.0, 70.0]]), np.asarray([[10.0, 20.0], [60.0, 45.0]])
    picture = draw_matches(src, tgt, src_points, tgt_points, height=200)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 200
    in_src = resize_points(src_points, (100, 150), (200, 300))
    in_tgt = resize_points(tgt_points, (60, 80), (200, 267)) + np.asarray([picture.shape[1] - 267, 0])
    for points in (in_src, in_tgt):
        for (x, y), color in zip(np.rint(points).astype(int), PALETTE, strict=False):
            np.testing.assert_allclose(picture[y, x].astype(int), color, atol=3)
    halfway = np.rint((in_src + in_tgt) / 2).astype(int)
    for (x, y), color in zip(halfway, PALETTE, strict=False):  # the line between them
        near = picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(int)
        assert np.abs(near - color).sum(axis=-1).min() < 60
    np.testing.assert_array_equal(picture[-1, 0], 90)
    np.testing.assert_array_equal(picture[-1, -1], 160)


def test_the_truth_is_marked():
    src, points = np.full((100, 150, 3), 90, np.uint8), np.asarray([[75.0, 20.0]])
    plain = draw_matches(src, src, points, points)
    marked = draw_matches(src, src, points, points, true_points=[[75.0, 70.0]])
    corner = np.asarray([plain.shape[1] - 720, 0])
    x, y = np.rint(resize_points(np.asarray([75.0, 70.0]), (100, 150), (480, 720)) + corner).astype(int)
    np.testing.assert_array_equal(plain[y, x], 90)
    np.testing.assert_allclose(marked[y, x].astype(int), PALETTE[0], atol=3)
    changed = (plain != marked).any(axis=-1)
    assert changed[y - 120 : y - 60, x - 3 : x + 4].any(axis=1).all()  # the error's line
    assert not changed[:, :720].any()


def test_unknown_points_are_left_out_and_outside_ones_stay_in_their_picture():
    grey = np.full((100, 150, 3), 90, np.uint8)
    blank = draw_matches(grey, grey, np.zeros((0, 2)), np.zeros((0, 2)))
    points, unknown = np.asarray([[70.0, 50.0]]), np.asarray([[np.nan, 3.0]])
    np.testing.assert_array_equal(draw_matches(grey, grey, points, unknown), blank)
    np.testing.assert_array_equal(draw_matches(grey, grey, unknown, points), blank)
    outside = draw_matches(grey, grey, points, [[-60.0, 50.0]])
    right = blank.shape[1] - 720
    drawn = (outside != blank).any(axis=-1)[:, right:]
    assert drawn.any()
    assert not drawn[:, 60:].any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (900, 3)])
def test_pictures_of_odd_shapes_are_drawn(shape):
    picture = draw_matches(noise(shape), noise(), [[0.0, 0.0]], [[3.0, 4.0]], height=64)
    assert picture.shape[0] == 64
    assert picture.shape[1] < 64 * 4 + 64 * 2
    mapping = resize_points(identity(shape), shape, SHAPE)
    figure = match_figure(noise(shape), noise(), mapping, height=64)
    assert figure.shape[1] < 2000


def test_wrong_points_are_refused():
    with pytest.raises(ValueError, match=r"tgt_points: expected points \[2, 2\], got shape \(3, 2\)"):
        draw_matches(noise(), noise(), np.zeros((2, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"src_points: expected points \[n, 2\], got shape \(2, 3\)"):
        draw_matches(noise(), noise(), np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="height: expected at least 32 pixels, got 5"):
        draw_matches(noise(), noise(), np.zeros((2, 2)), np.zeros((2, 2)), height=5)


def test_labels_do_not_cover_each_other():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 480, (20, 2))
    middles = place_labels(points, [str(i) for i in range(20)], (np.zeros(2), np.full(2, 480.0)), 16.0)
    apart = np.abs(middles[:, None] - middles[None])
    touching = (apart[..., 0] < 8) & (apart[..., 1] < 8) & ~np.eye(20, dtype=bool)
    assert not touching.any()
    assert ((middles > 0) & (middles < 480)).all()
    assert (np.linalg.norm(middles - points, axis=1) < 40).all()


def test_the_figure_shows_the_warped_pictures():
    height = 40  # of the source itself: nothing is resized
    src, tgt = noise((40, 60)), noise((40, 50), seed=1)
    mapping = resize_points(identity((40, 60)), (40, 60), (40, 50)) + np.asarray([4, 3])
    figure = match_figure(src, tgt, mapping, confidence=np.full((40, 60), 1.0), points=np.zeros((0, 2)), height=height)

    def shows(panel):
        rows, columns = figure.shape[0] - panel.shape[0] + 1, figure.shape[1] - panel.shape[1] + 1
        return any((figure[y : y + len(panel), x : x + panel.shape[1]] == panel).all()
                   for y in range(rows) for x in range(columns) if (figure[y, x] == panel[0, 0]).all())  # fmt: skip

    pulled, inside = pull_back(tgt, mapping)
    warped, covered = forward_warp(src, mapping, (40, 50))
    assert not inside.all()
    assert not covered.all()
    assert shows(src)
    assert shows(tgt)
    assert shows(np.where(inside[..., None], np.rint(pulled), HOLE).astype(np.uint8))
    assert shows(np.where(covered[..., None], np.rint(warped), HOLE).astype(np.uint8))
    flow = np.broadcast_to(np.asarray([4.0, 3.0]), (40, 60, 2))
    assert shows(flow_to_color(flow))
    assert not shows(noise((5, 5), seed=2))


def test_the_key_of_the_confidence_names_both_ends():
    figure = match_figure(noise(), noise(), identity(), confidence=np.ones(SHAPE), height=360)
    key = figure[-372:-12, -90:]  # the panels' lower row: the key is half as high, then white but for its words
    assert (key[190:215] < 100).any(), "what the dark end means"
    assert (key[230:] == 255).all()


def test_the_figure_takes_jax_arrays_and_unknown_mappings():
    mapping = jnp.asarray(identity((40, 60)))
    given = match_figure(jnp.asarray(noise((40, 60))), noise((40, 60)), mapping, points=[[3.0, 4.0]])
    assert given.dtype == np.uint8
    assert given.ndim == 3
    unknown = match_figure(noise((40, 60)), noise((40, 60)), np.full((40, 60, 2), np.nan), height=80)
    assert (unknown == HOLE).all(axis=-1).sum() > 3 * 80 * 100
    with pytest.raises(ValueError, match=r"confidence: expected shape \(40, 60\), got \(60, 40\)"):
        match_figure(noise((40, 60)), noise((40, 60)), mapping, confidence=np.ones((60, 40)))
    with pytest.raises(ValueError, match=r"mapping: .* \[40, 60, 2\], got shape \(60, 40, 2\)"):
        match_figure(noise((40, 60)), noise((40, 60)), np.zeros((60, 40, 2)))


def test_drawing_does_not_depend_on_or_change_its_inputs():
    src, points, mapping = noise((40, 60)), np.asarray([[3.0, 4.0], [np.nan, 1.0]]), identity((40, 60))
    before = src.copy(), points.copy(), mapping.copy()
    first = draw_matches(src, src, points, points, true_points=points), match_figure(src, src, mapping, points=points)
    second = draw_matches(src, src, points, points, true_points=points), match_figure(src, src, mapping, points=points)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip((src, points, mapping), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_importing_the_pictures_does_not_import_matplotlib():
    code = "import sys, rtn_jax.visualize; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
