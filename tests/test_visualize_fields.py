"""Frames, heat maps, iterations, keys and marks: what is drawn where, found again in the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rtn_jax.affine import identity_field
from rtn_jax.coordinates import cells_to_pixels, pixel_grid, resize_points
from rtn_jax.images import save_animation
from rtn_jax.visualize import (
    color_wheel,
    confidence_to_color,
    draw_affine,
    draw_correlation,
    draw_matches,
    flow_key,
    flow_picture,
    flow_to_color,
    grey_out,
    iteration_frames,
    iteration_strip,
    mask_overlay,
    match_figure,
    usual_maximum,
)
from rtn_jax.visualize import fields as fields_module
from rtn_jax.visualize.colors import HOLE
from rtn_jax.visualize.drawing import PALETTE, SYMBOLS, Layer, Panel, mark

GREY = np.full((96, 96, 3), 120, np.uint8)


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def contains(picture, part):
    """Whether a picture shows another, pixel by pixel."""
    h, w = part.shape[:2]
    starts = np.argwhere((picture[: picture.shape[0] - h + 1, : picture.shape[1] - w + 1] == part[0, 0]).all(axis=-1))
    return any((picture[y : y + h, x : x + w] == part).all() for y, x in starts)


# Colours


def test_what_is_not_kept_is_pale_and_colourless():
    image, keep = noise((20, 30)), np.zeros((20, 30), bool)
    keep[:, :10] = True
    greyed = grey_out(image, keep).astype(int)
    np.testing.assert_array_equal(greyed[:, :10], image[:, :10])
    np.testing.assert_array_equal(np.ptp(greyed[:, 10:], axis=-1), 0)
    assert np.corrcoef(greyed[:, 10:, 0].ravel(), image[:, 10:].mean(-1).ravel())[0, 1] > 0.99
    assert greyed[:, 10:].std() < 0.5 * image[:, 10:].mean(-1).std()
    with pytest.raises(ValueError, match=r"keep: expected shape \(20, 30\), got \(30, 20\)"):
        grey_out(image, keep.T)


def test_a_masks_object_is_lighter_than_the_rest_and_outlined():
    mask = np.zeros((96, 96), bool)
    mask[30:60, 20:70] = True
    shown = mask_overlay(GREY, mask).astype(int)
    assert (shown[40:50, 30:60] == shown[45, 45]).all()
    assert shown[45, 45].sum() > shown[10, 10].sum() + 100
    np.testing.assert_array_equal(shown[10, 10], 66)
    np.testing.assert_array_equal(shown[30, 20:70], 255)
    np.testing.assert_array_equal(shown[29, 21:69], 255)
    np.testing.assert_array_equal(mask_overlay(GREY, np.ones((96, 96), bool))[0, 0], shown[45, 45])
    with pytest.raises(ValueError, match="mask: expected shape"):
        mask_overlay(GREY, mask[1:])


def test_confidence_is_lighter_the_surer_it_is():
    shown = confidence_to_color(np.asarray([[0, 0.25, 0.5, 0.75, 1, np.nan]]))[0].astype(int)
    assert (np.diff(shown[:5] @ [0.2, 0.7, 0.1]) > 20).all()
    np.testing.assert_array_equal(shown[5], HOLE)
    with pytest.raises(ValueError, match=r"confidence: expected \[H, W\], got shape \(3,\)"):
        confidence_to_color(np.zeros(3))


def test_a_few_wild_motions_do_not_make_the_others_pale():
    flow = np.ones((20, 50, 2)) * [3.0, 4.0]
    flow[0, :9] = 900, 0
    assert usual_maximum(flow) == pytest.approx(5)
    flow[:] = np.nan
    assert usual_maximum(flow) == 1


# Keys


@pytest.mark.parametrize("size", [48, 160, 300])
def test_the_key_holds_the_wheel_and_words_around_it(size):
    key = flow_key(37.5, size=size)
    assert abs(key.shape[1] - size) <= size / 3
    sides = [side for side in range(8, size) if contains(key, color_wheel(side))] if size == 48 else []
    dark = (key < 90).all(axis=-1)
    assert dark.any()
    middle = key.shape[1] // 2
    assert dark[:, : middle // 2].any() and dark[:, -middle // 2 :].any(), "left and right"
    assert dark[: key.shape[0] // 4].any() and dark[-key.shape[0] // 4 :].any(), "up, down and the rim"
    assert size != 48 or sides, "the wheel itself is in it"
    assert not np.array_equal(key, flow_key(38.5, size=size)), "the rim's length is said"


def test_a_flow_stands_beside_its_key():
    flow = pixel_grid((60, 80), np.float64) - [40, 30]
    picture = flow_picture(flow, 50)
    np.testing.assert_array_equal(picture[:60, :80], flow_to_color(flow, 50))
    key = flow_key(50, size=48)
    np.testing.assert_array_equal(picture[: key.shape[0], -key.shape[1] :], key)
    assert contains(flow_picture(flow), flow_to_color(flow, usual_maximum(flow)))
    assert flow_picture(np.zeros((2, 3, 2))).shape[0] > 40
    for call, words in [(lambda: flow_key(0), "max_norm"), (lambda: flow_key(1, size=20), "size")]:
        with pytest.raises(ValueError, match=words):
            call()


# Marks


def test_fifty_points_differ_in_colour_or_shape():
    points = np.stack([np.arange(60) % 10 * 80 + 40, np.arange(60) // 10 * 80 + 40], -1).astype(float)
    canvas = np.full((480, 800, 3), 120, np.uint8)
    layer = Layer((480, 800))
    mark(layer, Panel((480, 800), (480, 800)), points, 24)  # sixty have no numbers that would tell them apart
    points = points[:50]
    drawn = layer.over(canvas)
    seen = {drawn[y - 10 : y + 11, x - 10 : x + 11].tobytes() for x, y in points.astype(int)}
    assert len(seen) == 50
    for (x, y), color in zip(points.astype(int), PALETTE * 5, strict=True):
        np.testing.assert_allclose(drawn[y, x].astype(int), color, atol=3)
    assert len(SYMBOLS) == 5


def test_what_is_not_reliable_is_hollow():
    points = np.asarray([[30.0, 30.0], [60.0, 60.0]] * 8) + np.repeat(np.arange(8), 2)[:, None] * 3
    pictures = [
        draw_matches(GREY, GREY, points[:2], points[:2], reliable=reliable, height=96)
        for reliable in (None, [True, True], [True, False])
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_allclose(pictures[2][30, 30].astype(int), PALETTE[0], atol=3)
    assert np.abs(pictures[2][60, 60].astype(int) - PALETTE[1]).max() > 20
    squares = draw_matches(GREY, GREY, points, points, reliable=[True] * 10 + [False] * 6, height=96)
    assert squares.shape == pictures[0].shape
    with pytest.raises(ValueError, match="reliable: expected a truth value for each of 2 points"):
        draw_matches(GREY, GREY, points[:2], points[:2], reliable=[True])


def test_the_figure_greys_out_what_is_not_reliable():
    src, tgt = noise((40, 60)), noise((40, 60), seed=1)
    keep = np.zeros((40, 60), bool)
    keep[:, :30] = True
    identity = pixel_grid((40, 60), np.float64)
    figure = match_figure(src, tgt, identity, reliable=keep, points=np.zeros((0, 2)), height=40)
    assert contains(figure, src)
    assert contains(figure, tgt)
    assert contains(figure, grey_out(tgt, keep))
    assert contains(figure, grey_out(src, keep))
    with pytest.raises(ValueError, match=r"reliable: expected shape \(40, 60\), got \(60, 40\)"):
        match_figure(src, tgt, identity, reliable=keep.T)


# Fields


@pytest.fixture
def drawn_frames(monkeypatch):
    """The corners of every frame that is drawn."""
    frames = []

    class Recorded(Layer):
        def polygon(self, corners, color, width):
            frames.append((np.array(corners), color))
            super().polygon(corners, color, width)

    monkeypatch.setattr(fields_module, "Layer", Recorded)
    return frames


def test_the_identity_draws_the_same_squares_on_both(drawn_frames):
    field = np.asarray(identity_field(1, (8, 12)))[0]
    src, tgt = np.full((80, 120, 3), 90, np.uint8), np.full((160, 240, 3), 160, np.uint8)
    picture = draw_affine(src, tgt, field, per_side=6, height=80)
    assert picture.dtype == np.uint8
    assert len(drawn_frames) == 2 * 3 * 5  # a fourth row and sixth column would be cut off
    for (left, left_color), (right, right_color) in zip(drawn_frames[:15], drawn_frames[15:], strict=True):
        assert left.min() >= 0 and (left.max(axis=0) <= [119, 79]).all()
        np.testing.assert_allclose(left, right, atol=1e-3)  # both pictures are shown 80 pixels high
        assert left_color == right_color
        np.testing.assert_allclose(np.ptp(left, axis=0), 14.4, atol=1e-3)  # 0.72 of two cells of 10 pixels
    assert len({color for _, color in drawn_frames}) == 15


def test_frames_are_turned_and_moved_by_the_field(drawn_frames):
    """Against each corner computed alone: with padding, in a target of another shape, in `corners` units."""
    rng = np.random.default_rng(0)
    field = rng.normal(0, 0.2, (4, 6, 2, 3)).astype(np.float32)
    field[..., :2] += np.eye(2, dtype=np.float32)
    src, tgt = np.full((64, 90, 3), 90, np.uint8), np.full((100, 50, 3), 160, np.uint8)
    draw_affine(src, tgt, field, image_shape=(60, 90), stride=16, normalization="corners", per_side=6, height=100)
    assert len(drawn_frames) == 48
    frames = iter([corners for corners, _ in drawn_frames[24:]])
    for y in range(4):
        for x in range(6):
            matrix, (tx, ty) = field[y, x, :, :2].astype(float), field[y, x, :, 2].astype(float)
            for found, (ox, oy) in zip(next(frames), [(-1, -1), (1, -1), (1, 1), (-1, 1)], strict=True):
                ax, ay = matrix @ [0.36 * ox, 0.36 * oy]
                cell = x + tx * 2.5 + ax, y + ty * 1.5 + ay  # one unit of `corners` is (n - 1) / 2 cells
                expected = [((cell[0] + 0.5) * 16) * 50 / 90 - 0.5, ((cell[1] + 0.5) * 16) * 100 / 60 - 0.5]
                np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_heat_map_is_hot_where_the_window_peaks():
    grid = (12, 12)
    field = np.asarray(identity_field(1, grid)).copy()[0]
    field[..., 0, 2] = 2 * 2 / 12  # two cells to the right
    volume = np.full((*grid, 25), 0.1, np.float32)
    window = np.full((5, 5), 0.1)
    window[:3, 2:], window[1, 3] = 0.89, 0.9  # highest one row up and one column to the right of its middle
    volume[6, 5] = window.ravel()  # of cell (5, 6)
    src, tgt = np.full((96, 96, 3), 90, np.uint8), np.full((96, 96, 3), 30, np.uint8)
    picture = draw_correlation(src, tgt, [44.0, 52.0], volume, field, height=192)
    elsewhere = draw_correlation(src, tgt, [12.0, 52.0], volume, field, height=192)
    margin = 192 // 30
    left, top = picture.shape[1] - margin - 192, picture.shape[0] - margin - 192
    peak = cells_to_pixels(np.asarray([8.0, 5.0]), 16)  # 5 + 2 + 1, 6 - 1; twice the target's pixels
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    yellow = (red > 120) & (green > 0.85 * red) & (blue < 120)  # the marks are orange
    y, x = (at.mean() for at in np.nonzero(yellow[top : top + 192, left : left + 192]))
    assert yellow.sum() > 300
    np.testing.assert_allclose([x, y], peak, atol=6)
    assert np.hypot(*(np.argwhere(yellow)[:, ::-1] - peak - [left, top]).T).max() < 40
    assert not np.array_equal(picture, elsewhere)


def test_windows_at_the_border_and_flat_ones_are_drawn():
    field = np.asarray(identity_field(1, (4, 4)))[0]
    for volume in (np.zeros((4, 4, 9)), np.full((4, 4, 9), np.nan), np.random.default_rng(0).random((4, 4, 9))):
        for point in ([0.0, 0.0], [95.0, 95.0], [-30.0, 500.0]):
            assert draw_correlation(GREY, GREY, point, volume, field, height=64).shape[0] > 64
    for changes, words in [
        ({"correlation": np.zeros((4, 4, 8))}, r"correlation: expected \[4, 4\] windows"),
        ({"correlation": np.zeros((5, 4, 9))}, r"correlation: expected \[4, 4\] windows"),
        ({"point": [np.nan, 1]}, r"point: expected a finite \(x, y\)"),
        ({"affine": np.zeros((4, 4, 6))}, r"affine: expected a field \[h, w, 2, 3\]"),
    ]:
        given = {"point": [1.0, 1.0], "correlation": np.zeros((4, 4, 9)), "affine": field} | changes
        with pytest.raises(ValueError, match=words):
            draw_correlation(GREY, GREY, given["point"], given["correlation"], given["affine"])
    with pytest.raises(ValueError, match="per_side: expected at least 1, got 0"):
        draw_affine(GREY, GREY, field, per_side=0)


# Iterations


def test_every_iteration_shows_the_target_pulled_back(tmp_path):
    src, tgt = noise((40, 60)), noise((40, 60), seed=1)
    identity = pixel_grid((40, 60), np.float64)
    mappings = [identity, identity + np.asarray([7, 0])]
    pulled = [tgt, np.where(np.arange(60)[None, :, None] < 53, np.roll(tgt, -7, axis=1), HOLE)]
    strip = iteration_strip(src, tgt, mappings, ["before", "1 of 1"], height=40)
    frames = iteration_frames(src, tgt, mappings, ["before", "a caption much longer than its picture"], height=40)
    assert frames[0].shape == frames[1].shape
    for picture, frame in zip(pulled, frames, strict=True):
        assert contains(strip, picture)
        assert contains(frame, picture)
        assert contains(frame, src)
    assert not contains(frames[0], pulled[1])
    np.testing.assert_array_equal(np.argwhere((frames[0] != frames[1]).any(-1)).min(axis=0)[1] > 60, True)
    save_animation(tmp_path / "a.gif", frames, milliseconds=[100, 300])
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 2
        assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - frames[0]).mean() < 30
        animation.seek(1)
        assert animation.info["duration"] == 300
        assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - frames[1]).mean() < 30
    with pytest.raises(ValueError, match="captions: expected one for each of 2 mappings, got 1"):
        iteration_strip(src, tgt, mappings, ["one"])
    with pytest.raises(ValueError, match=r"frames: expected images of one shape"):
        save_animation(tmp_path / "b.gif", [src, src[1:]])
    with pytest.raises(ValueError, match=r"b\.png: expected a name that ends in \.gif"):
        save_animation(tmp_path / "b.png", [src])


def test_pictures_of_other_sizes_are_shown_at_the_same_places():
    """The mapping is of the photos as given, which are shown at half their size."""
    src = np.zeros((80, 120, 3), np.uint8)
    src[20:40, 40:60] = 250
    moved = np.zeros((160, 120, 3), np.uint8)
    moved[40:80, 40:60] = 250
    mapping = resize_points(pixel_grid((80, 120), np.float64), (80, 120), (160, 120))
    frame = iteration_frames(src, moved, [mapping], ["1 of 1"], height=40)[0]
    half = np.zeros((40, 60, 3), np.uint8)
    half[11:19, 21:29] = 250
    bright = (frame > 200).all(axis=-1) & (frame < 253).all(axis=-1)
    assert bright.sum() >= 2 * half[..., 0].astype(bool).sum(), "in the source and in the pulled-back target"
    panel = Panel((80, 120), (40, 60))
    assert replace(panel, x=3).at(np.asarray([[0.0, 0.0]]))[0, 0] == pytest.approx(2.75)
