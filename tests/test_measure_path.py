"""Barriers between two points: a known surface, a network and the same network with its units in another order."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rxjax as rx

M = rx.measure
SURFACE = rx.landscapes.MullerBrown()


def height(params, scale):
    return scale * SURFACE(jnp.stack([params["x"], params["y"]]))


def at(point):
    return {"x": jnp.asarray(point[0]), "y": jnp.asarray(point[1]), "name": "walker"}


def test_saddles_of_a_known_surface():
    """Minima and saddles to five digits from the literature; the force at the top is that of a saddle."""
    minima = [(-0.55822, 1.44173), (0.62350, 0.02804), (-0.05001, 0.46669)]
    energies, passes = np.array([-146.6995, -108.1667, -80.7678]), {(0, 2): -40.6648, (1, 2): -72.2489}
    scale = jnp.asarray(1.0)
    for (i, j), top in passes.items():
        path = M.barrier_between(height, at(minima[i]), at(minima[j]), scale)
        np.testing.assert_allclose(path.heights, top - energies[[i, j]], atol=0.02)
        saddle = jnp.stack([path.params["x"], path.params["y"]], axis=1)[path.highest]
        assert jnp.linalg.norm(jax.jit(jax.grad(SURFACE))(saddle)) < 30 and 0 < path.highest < 15
        assert path.residual <= 0.01 and path.params["name"] is None
        assert np.all(np.diff(path.lengths) > 0) and np.max(path.between) < top + 3
    # Over two passes with a minimum between them, the higher one counts.
    path = M.barrier_between(height, at(minima[0]), at(minima[1]), scale)
    np.testing.assert_allclose(path.heights, -40.6648 - energies[:2], atol=0.02)
    # The height has the units of the loss; the path does not depend on them.
    for unit in (1e-6, 1e-200, 1e200):
        rescaled = M.barrier_between(height, at(minima[0]), at(minima[1]), jnp.asarray(unit))
        np.testing.assert_allclose(rescaled.heights, unit * path.heights, rtol=1e-3)

    early = lambda **more: M.barrier_between(height, at(minima[0]), at(minima[1]), scale, steps=3, **more)
    path, result = early(throw=False)
    assert result == M.RESULTS.still_moving and path.residual > 0.01 and np.all(np.isfinite(path.losses))
    with pytest.raises(RuntimeError, match="has not come to rest"):
        early()


def test_the_highest_image_climbs_before_the_band_is_at_rest():
    """On a line no force acts across the path, and no image lies at the top; between equal networks there is none."""
    loss = lambda x, _: (x**2 - 1) ** 2 + 0.3 * x
    ends = jnp.asarray(-1.03557), jnp.asarray(0.96017)
    for images in (3, 16):
        path = M.barrier_between(loss, *ends, None, images=images)
        np.testing.assert_allclose(path.heights, [1.316710, 0.717136], rtol=1e-4)
    same = M.barrier_between(loss, ends[0], ends[0], None)
    np.testing.assert_array_equal(same.heights, [0, 0])


def test_between_two_orders_of_the_same_units(float32):
    """An Equinox module: equal heights from both ends, far below that of the straight line."""
    model = eqx.nn.MLP(1, 1, 6, 1, activation=jnp.tanh, key=jax.random.key(1))
    x = jnp.linspace(-1.0, 1.0, 32)[:, None]
    data = (x, jnp.sin(4 * x))
    loss = lambda m, batch: jnp.mean((jax.vmap(m)(batch[0]) - batch[1]) ** 2)
    flat, unravel = ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
    fixed = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    @jax.jit
    def trained(flat):
        slope = jax.grad(lambda v: loss(eqx.combine(unravel(v), fixed), data))
        return jax.lax.fori_loop(0, 3000, lambda _, v: v - 0.2 * slope(v), flat)

    a = eqx.combine(unravel(trained(flat)), fixed)
    where = lambda m: (m.layers[0].weight, m.layers[0].bias, m.layers[1].weight)
    w, b, v = where(a)
    turned = eqx.tree_at(where, a, (w[::-1], b[::-1], v[:, ::-1]))
    path, result = M.barrier_between(loss, a, turned, data, throw=False)
    assert result == M.RESULTS.successful
    np.testing.assert_allclose(path.heights[0], path.heights[1], rtol=1e-3, atol=1e-6)
    assert float(path.heights[0]) < 0.5 * float(jnp.max(path.straight) - path.straight[0])


def test_refusals():
    a = at((0.0, 0.0))
    for call, words in [
        (lambda: M.barrier_between(height, a, a, 1.0, images=2), "`images` must be at least 3"),
        (lambda: M.barrier_between(height, a, a, 1.0, steps=0), "`steps` must be at least 1"),
        (lambda: M.barrier_between(height, a, a, 1.0, tolerance=1.5), "`tolerance` must lie between 0 and 1"),
        (lambda: M.barrier_between(height, a, {"x": a["x"]}, 1.0), "`params_b` must have a floating array wherever"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    # A network that is lost is not a band at rest.
    lost = M.barrier_between(height, a, at((np.nan, 0.0)), 1.0, steps=3, throw=False)[1]
    assert lost == rx.measure.RESULTS.still_moving
