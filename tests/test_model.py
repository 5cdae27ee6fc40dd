"""The network as a whole: against the oracle, under every transformation, and with input it must refuse."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rtn_jax
from rtn_jax import Config, Level, Params, model
from rtn_jax.config import released
from rtn_jax.coordinates import pixel_grid, resize_points
from rtn_jax.data.photos import builtin_photos
from rtn_jax.images import resize
from rtn_jax.model import grids
from rtn_jax.sampling import average_pool
from tests import oracle
from tests.networks import moving_params, photos, small_config


@pytest.fixture(scope="module")
def params():
    return moving_params()


@pytest.fixture(scope="module")
def pair():
    both = photos(np.random.default_rng(1), 4)
    return both[:2], both[2:]


def test_released_preset_equals_an_independent_implementation_on_photos(rng):
    weights = oracle.random_weights(rng, dtype=np.float32)
    weights["geometry"]["conv10"]["kernel"] *= 0.05  # fields of a few cells, as trained ones have
    shown = builtin_photos()
    src, tgt = (np.rint(resize(shown[name], (256, 256))).astype(np.uint8) for name in ("astronaut", "chelsea"))
    params = Params(jax.tree.map(jnp.asarray, weights), released())
    out = rtn_jax.apply(params, src, tgt)
    fields, volumes, flow = oracle.released_network(weights, src, tgt)
    assert np.abs(fields[-1] - oracle.identity_field((32, 32))).max() > 0.05
    np.testing.assert_allclose(out.affine[0], fields[-1], atol=1e-4)
    np.testing.assert_allclose(np.concatenate([h[:, 0] for h in out.history[:1]]), fields[:2], atol=1e-4)
    np.testing.assert_allclose(out.history[1][:, 0], fields[2:], atol=1e-4)
    np.testing.assert_allclose(out.correlation[0], volumes[-1], atol=1e-4)
    np.testing.assert_allclose(out.flow[0], flow, atol=1e-2)  # pixels


def test_default_conventions_equal_the_oracle_with_theirs(rng):
    weights = oracle.random_weights(rng, dtype=np.float32, window=25, last_layer="conv3_1")
    geometry = oracle.random_weights(rng, dtype=np.float32, window=25, divisor=16)["geometry"]
    weights["geometry"] = geometry
    config = small_config()
    src, tgt = photos(rng, 2)
    out = rtn_jax.apply(Params(jax.tree.map(jnp.asarray, weights), config), src, tgt)
    fields, _, flow = oracle.released_network(
        weights,
        src,
        tgt,
        levels=[(level.layer, level.iterations) for level in config.levels],
        radius=2,
        normalization="centers",
        upsample=oracle.upsample_edge,
        in_windows=True,
    )
    np.testing.assert_allclose(out.affine[0], fields[-1], atol=1e-4)
    # The dense flow is interpolated from the grid in one go; the oracle doubles it, which agrees for one doubling.
    np.testing.assert_allclose(out.flow[0], flow, atol=1e-3)


def test_a_reduced_level_sees_smaller_images(rng):
    """A network with one level of images reduced by two does what the same network does with images half the size."""
    src, tgt = jnp.asarray(photos(rng, 2, 64, 64), jnp.float32)[:, None]
    reduced = moving_params(small_config(levels=(Level(layer="conv2_1", iterations=2, downscale=2),), image_size=64))
    plain = reduced.configure(levels=(Level(layer="conv2_1", iterations=2),), image_size=32)
    small = rtn_jax.apply(plain, *(average_pool(image, 2) for image in (src, tgt)))
    out = rtn_jax.apply(reduced, src, tgt)
    assert np.abs(small.affine - oracle.identity_field((16, 16))).max() > 0.05
    np.testing.assert_allclose(out.affine, small.affine, atol=1e-5)
    both = reduced.configure(levels=(*reduced.config.levels, Level(layer="conv2_1", iterations=1)))
    assert set(rtn_jax.encode(both, src).taps) == {"conv2_1/2", "conv2_1"}
    finer = rtn_jax.apply(both, src, tgt)
    assert [h.shape[2:4] for h in finer.history] == [(16, 16), (32, 32)]
    np.testing.assert_allclose(finer.history[0], out.history[0], atol=1e-5)


def test_an_untrained_network_maps_every_pixel_to_itself():
    params = rtn_jax.init(jax.random.key(0), small_config())
    src, tgt = photos(np.random.default_rng(0), 2)
    out = rtn_jax.apply(params, src, tgt)
    np.testing.assert_allclose(out.mapping[0], pixel_grid((32, 32)), atol=1e-5)
    np.testing.assert_allclose(out.flow, 0, atol=1e-5)


def test_shapes_are_what_the_output_promises(params, pair):
    out = rtn_jax.apply(params, *pair)
    assert out.mapping.shape == out.flow.shape == (2, 32, 32, 2)
    assert out.affine.shape == (2, 16, 16, 2, 3)
    assert [h.shape for h in out.history] == [(1, 2, 8, 8, 2, 3), (2, 2, 16, 16, 2, 3)]
    assert out.correlation.shape == (2, 16, 16, 25)
    assert out.confidence.shape == (2, 32, 32)
    assert (np.asarray(out.confidence) >= 0).all()
    assert (np.asarray(out.confidence) <= 1 + 1e-6).all()
    np.testing.assert_array_equal(out.history[-1][-1], out.affine)


def test_jit_equals_no_jit(pair):
    params = moving_params(small_config(levels=(Level(layer="conv2_1", iterations=2),)))
    with jax.disable_jit():
        plain = rtn_jax.apply(params, pair[0][0], pair[1][0])
    jitted = jax.jit(rtn_jax.apply)(params, pair[0][0], pair[1][0])
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_apply_is_encode_and_match(params, pair):
    out = rtn_jax.apply(params, *pair)
    halves = rtn_jax.match(params, rtn_jax.encode(params, pair[0]), rtn_jax.encode(params, pair[1]))
    np.testing.assert_allclose(out.mapping, halves.mapping, atol=1e-4)


def test_a_pair_does_not_depend_on_its_batch(params, pair):
    together = rtn_jax.apply(params, *pair)
    alone = rtn_jax.apply(params, pair[0][1], pair[1][1])
    np.testing.assert_allclose(together.mapping[1:], alone.mapping, atol=1e-3)


def test_vmap_over_pairs_and_pmap_over_devices(params, pair):
    expected = rtn_jax.apply(params, *pair).mapping
    mapped = jax.vmap(lambda a, b: rtn_jax.apply(params, a, b).mapping)(*pair)
    np.testing.assert_allclose(mapped[:, 0], expected, atol=1e-3)
    devices = jax.local_device_count()
    spread = jax.pmap(rtn_jax.apply, in_axes=(None, 0, 0))(params, *(x[None].repeat(devices, 0) for x in pair))
    np.testing.assert_allclose(spread.mapping[0], expected, atol=1e-3)


def test_scanned_iterations_equal_steps_by_hand(pair):
    config = small_config(levels=(Level(layer="conv3_1", iterations=3),))
    scanned = rtn_jax.apply(moving_params(config), *pair)
    for k in (1, 2):
        fewer = rtn_jax.apply(moving_params(config).configure(iterations=(k,)), *pair)
        np.testing.assert_allclose(scanned.history[0][k - 1], fewer.affine, atol=1e-5)


def test_how_the_recurrence_is_compiled_changes_nothing(pair):
    params = moving_params(small_config(levels=(Level(layer="conv2_1", iterations=2),)))

    def value_and_gradient(**changes):
        def loss(weights):
            return (
                rtn_jax.apply(Params(weights, params.config.replace(**changes)), pair[0][:1], pair[1][:1]).affine ** 2
            ).sum()

        return jax.jit(jax.value_and_grad(loss))(params.weights)

    value, gradient = value_and_gradient(unroll=False)
    for changes in ({"unroll": True}, {"remat": True}):
        other, other_gradient = value_and_gradient(**changes)
        np.testing.assert_allclose(value, other, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * (1 + np.abs(a).max()))


def test_gradients_of_apply_by_weights_and_images_in_float64(x64):
    params = moving_params(small_config(compute_dtype="float64"), dtype=jnp.float64)
    rng = np.random.default_rng(2)
    # Resized inside; kept away from 0 and 255, where the resized image is clipped.
    src, tgt = (jnp.asarray(photos(rng, 1, 24, 40), jnp.float64) / 2 + 60 for _ in range(2))

    def loss(weights, src, tgt):
        out = rtn_jax.apply(Params(weights, params.config), src, tgt)
        return jnp.sin(out.mapping / 7).sum() + (out.correlation**2).sum() + out.affine.sum()

    arguments = (params.weights, src, tgt)
    value_and_gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    _, gradient = value_and_gradient(*arguments)
    leaves, structure = jax.tree.flatten(arguments)
    for part in ("weights", "src", "tgt"):
        start, stop = {"weights": (0, len(leaves) - 2), "src": (-2, -1), "tgt": (-1, None)}[part]
        chosen = set(range(len(leaves))[start:stop])
        direction = [
            jnp.asarray(rng.standard_normal(x.shape) * (x.std() + 1e-3) if i in chosen else np.zeros(x.shape))
            for i, x in enumerate(leaves)
        ]
        exact = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), direction, strict=True))
        step = 1e-7
        there, back = (
            value_and_gradient(
                *jax.tree.unflatten(structure, [x + sign * step * d for x, d in zip(leaves, direction, strict=True)])
            )[0]
            for sign in (1, -1)
        )
        assert abs(exact) > 1e-3, part
        np.testing.assert_allclose((there - back) / (2 * step), exact, rtol=1e-4, err_msg=part)


def test_images_of_two_sizes_and_answers_in_their_own_pixels(params, rng):
    src, tgt = photos(rng, 1, 48, 64), photos(rng, 1, 40, 24)
    out = rtn_jax.apply(params, src, tgt)
    assert out.mapping.shape == (1, 48, 64, 2)
    still = rtn_jax.apply(rtn_jax.init(jax.random.key(0), small_config()), src, tgt)
    np.testing.assert_allclose(still.mapping[0], resize_points(pixel_grid((48, 64)), (48, 64), (40, 24)), atol=1e-4)
    small = [
        np.asarray(jax.image.resize(x.astype(np.float32), (1, 32, 32, 3), "cubic").clip(0, 255)) for x in (src, tgt)
    ]
    inner = rtn_jax.apply(params, *small)
    # A source pixel that the resizing maps onto a pixel of the network's image moves to the same place there.
    y, x = 16, 16
    there = resize_points(np.asarray([x, y], np.float64), (32, 32), (48, 64))
    moved = rtn_jax.transfer_keypoints(out, there[None].astype(np.float32))
    np.testing.assert_allclose(
        moved[0], resize_points(np.asarray(inner.mapping[0, y, x]), (32, 32), (40, 24)), atol=0.1
    )


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (50, 38)])
def test_image_size_is_free_at_test_time(params, pair, size):
    out = rtn_jax.apply(params.configure(image_size=size), *pair)
    assert out.mapping.shape == (2, 32, 32, 2)
    (stride, grid), (fine_stride, fine_grid) = grids(params.config.replace(image_size=size))
    assert (stride, fine_stride) == (4, 2)
    assert fine_grid == (2 * grid[0], 2 * grid[1])
    assert grid[0] * stride >= size[0] > (grid[0] - 1) * stride
    assert np.isfinite(out.mapping).all()


def test_iterations_are_free_at_test_time_and_weights_untouched(params, pair):
    more = params.configure(iterations=(2, 4))
    assert more.weights is params.weights
    assert [len(h) for h in rtn_jax.apply(more, *pair).history] == [2, 4]


def test_final_correlation_is_the_volume_at_the_final_field(pair):
    config = small_config(levels=(Level(layer="conv3_1", iterations=2),))
    ends = rtn_jax.apply(moving_params(config), *pair).correlation
    # The volume a third iteration would start from is the one at the field the second ended with.
    third = moving_params(config.replace(iterations=(3,), final_correlation=False))
    np.testing.assert_allclose(ends, rtn_jax.apply(third, *pair).correlation, atol=1e-4)


def test_bfloat16_stays_close_and_keeps_coordinates_in_float32(params, pair):
    exact, half = rtn_jax.apply(params, *pair), rtn_jax.apply(params.configure(compute_dtype="bfloat16"), *pair)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half))
    assert np.abs(half.mapping - exact.mapping).mean() < 0.25 * np.abs(exact.flow).mean()


def test_transfer_keypoints_reads_the_mapping(params, pair):
    out = rtn_jax.apply(params, *pair)
    points = np.asarray([[[3.0, 5.0], [31.0, 0.0], [7.5, 9.0]]] * 2, np.float32)
    moved = rtn_jax.transfer_keypoints(out, points)
    np.testing.assert_allclose(moved[0, 0], out.mapping[0, 5, 3], atol=1e-5)
    np.testing.assert_allclose(moved[1, 1], out.mapping[1, 0, 31], atol=1e-5)
    np.testing.assert_allclose(moved[0, 2], (out.mapping[0, 9, 7] + out.mapping[0, 9, 8]) / 2, atol=1e-4)
    single = jax.tree.map(lambda x: x[:1], dataclasses.replace(out, history=()))
    np.testing.assert_allclose(rtn_jax.transfer_keypoints(single, points[0]), moved[0], atol=1e-5)
    outside = rtn_jax.transfer_keypoints(single, np.asarray([[-4.0, 5.0]]))
    np.testing.assert_allclose(outside[0], np.add(out.mapping[0, 5, 0], [-4, 0]), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((32, 32), np.uint8), r"src: .*\[b, H, W, 3\].*\(32, 32\)"),
        (np.zeros((2, 2, 32, 32, 3), np.uint8), "src: .*shape"),
        (np.zeros((32, 32, 4), np.uint8), r"src: .*\(32, 32, 4\)"),
        (np.zeros((1, 0, 32, 3), np.uint8), "src: .*pixels"),
        (np.zeros((32, 32, 3), np.int32), "src: .*uint8 or float.*int32"),
        (np.zeros((32, 32, 3), bool), "src: .*bool"),
        (np.full((32, 32, 3), np.nan, np.float32), "src: .*NaN"),
        (np.full((32, 32, 3), np.inf, np.float32), "src: .*infinity"),
        (np.zeros((3, 32, 32, 3), np.uint8), "src, tgt: .*3 and 2"),
    ],
)
def test_wrong_images_are_named(params, pair, unchecked, image, message):
    with pytest.raises(ValueError, match=message):
        rtn_jax.apply(params, image, pair[1])


def test_images_in_0_to_1_are_warned_about(params, pair):
    with pytest.warns(UserWarning, match="0..255"):
        rtn_jax.apply(params, pair[0] / np.float32(255), pair[1])


def test_features_of_another_network_or_batch_are_refused(params, pair, unchecked):
    src = rtn_jax.encode(params, pair[0])
    with pytest.raises(ValueError, match="one shape"):
        rtn_jax.match(params, src, rtn_jax.encode(params, pair[1][:1]))
    other = moving_params(small_config(levels=(Level(layer="conv1_1", iterations=1),)))
    with pytest.raises(ValueError, match="tgt: features lack the layers"):
        rtn_jax.match(params, src, rtn_jax.encode(other, pair[1]))


@pytest.mark.parametrize("points", [np.zeros((3,)), np.zeros((3, 3)), np.zeros((3, 4, 2)), np.zeros((4, 2))])
def test_wrong_points_are_named(params, pair, unchecked, points):
    with pytest.raises(ValueError, match="src_points: expected"):
        rtn_jax.transfer_keypoints(rtn_jax.apply(params, *pair), points)


def test_configure_refuses_what_needs_other_weights(params):
    with pytest.raises(ValueError, match="radius"):
        params.configure(radius=3)
    with pytest.raises(ValueError, match="no such field: imagesize"):
        params.configure(imagesize=3)
    with pytest.raises(ValueError, match="lack conv3_2"):
        params.configure(levels=(Level(layer="conv3_2", iterations=1),))
    with pytest.raises(ValueError, match="coarse to fine"):
        rtn_jax.init(jax.random.key(0), Config(levels=tuple(reversed(Config().levels))))


def test_init_takes_pretrained_weights_and_names_what_does_not_fit():
    config = small_config()
    good = rtn_jax.init(jax.random.key(3), config).weights["backbone"]
    extra = good | {"conv5_4": {"kernel": np.zeros((3, 3, 512, 512), np.float32)}}
    made = rtn_jax.init(jax.random.key(0), config, backbone_weights=extra)
    assert set(made.weights["backbone"]) == set(good)
    np.testing.assert_array_equal(made.weights["backbone"]["conv2_1"]["kernel"], good["conv2_1"]["kernel"])
    broken = {name: dict(layer) for name, layer in good.items()}
    del broken["conv1_2"]
    broken["conv2_2"]["bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"conv1_2/bias is missing.*conv2_2/bias has shape \(3,\), expected \(128,\)"):
        rtn_jax.init(jax.random.key(0), config, backbone_weights=broken)


def test_joined_layers_are_compared_by_the_mean_of_their_cosines(pair, rng):
    shape = pair[0].shape[0], 16, 16
    field = jnp.asarray(np.eye(2, 3) + 0.2 * rng.standard_normal((*shape, 2, 3)), jnp.float32)
    both = rtn_jax.init(jax.random.key(0), small_config(levels=(Level(layer="conv2_1+conv2_2", iterations=1),)))
    volumes, similar = {}, {}
    for layer in ("conv2_1", "conv2_2", "conv2_1+conv2_2"):
        params = both.configure(levels=(Level(layer=layer, iterations=1),))
        src, tgt = (rtn_jax.encode(params, image).taps for image in pair)
        level = params.config.levels[0]
        volumes[layer] = model._correlation_under(params, level, src, tgt)(field)
        similar[layer] = jnp.sum(model.unit_features(level, src) * model.unit_features(level, tgt), -1)
    for found in (volumes, similar):
        joined = found.pop("conv2_1+conv2_2")
        assert np.abs(found["conv2_1"] - found["conv2_2"]).max() > 0.1
        np.testing.assert_allclose(joined, (found["conv2_1"] + found["conv2_2"]) / 2, atol=1e-6)


def test_layers_of_different_grids_cannot_be_joined(params):
    with pytest.raises(ValueError, match=r"^levels: expected layers of one grid .* conv2_1 2, conv3_1 4$"):
        params.configure(levels=(Level(layer="conv2_1+conv3_1", iterations=1),))
