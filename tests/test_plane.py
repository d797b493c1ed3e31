"""Planes through real networks: every PyTree, exact inner products, bounded memory, and the directions' promises."""

import inspect
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from kernels import longest_kernel

from rxjax.landscapes import PlaneLandscape, evaluate, plane, plane_through, random_directions

KEY = jax.random.key(3)
RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=(12, 3))


class Network(eqx.Module):
    """Two layers, with everything in it that must pass through: an integer, a float, a function, `None`."""

    first: jax.Array
    second: jax.Array
    bias: jax.Array
    steps: jax.Array
    rate: float
    activation: Callable[..., jax.Array]
    extra: object = None

    def __call__(self, x):
        return self.second @ self.activation(self.first @ x) + self.bias


def network(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    first, second, bias = rng.normal(size=(5, 3)), rng.normal(size=(1, 5)), rng.normal(size=1)
    first, second, bias = (jnp.asarray(x, dtype) for x in (first, second, bias))
    return Network(first, second, bias, jnp.array(7), 0.1, jnp.tanh)


def network_loss(model):
    outputs = jax.vmap(model)(jnp.asarray(INPUTS, model.first.dtype))
    return jnp.mean(outputs**2)


def flax_like(seed=0):
    rng = np.random.default_rng(seed)
    dense = lambda m, n: {"kernel": jnp.asarray(rng.normal(size=(m, n))), "bias": jnp.asarray(rng.normal(size=n))}
    return {"params": {"dense_0": dense(3, 4), "dense_1": dense(4, 2)}}


def flax_loss(variables):
    p = variables["params"]
    inputs = jnp.asarray(INPUTS, p["dense_0"]["kernel"].dtype)
    hidden = jnp.tanh(inputs @ p["dense_0"]["kernel"] + p["dense_0"]["bias"][None])
    return jnp.mean((hidden @ p["dense_1"]["kernel"] + p["dense_1"]["bias"][None]) ** 2)


CASES = {
    "equinox": (network_loss, network),
    "flax": (flax_loss, flax_like),
    "array": (lambda p: jnp.sum(jnp.sin(p)), lambda seed=0: jnp.asarray(np.random.default_rng(seed).normal(size=9))),
    "list": (
        lambda p: jnp.sum(p[0] ** 2) * p[1] ** 2,
        lambda seed=0: [np.arange(3.0) + seed, jnp.array(1.0 + seed**2), None, "label"],
    ),
}


def anchors(surface):
    assert surface.anchors is not None
    return np.asarray(surface.anchors)


def flat(tree):
    leaves = jax.tree_util.tree_leaves(eqx.filter(tree, eqx.is_inexact_array))
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves])


@pytest.mark.parametrize(("name", "k"), [("equinox", 2), ("flax", 3), ("array", 1), ("list", 3)])
def test_against_flat_vectors(name, k):
    """Value, gradient, embedding and projection equal plain linear algebra on the flattened parameters."""
    loss, make = CASES[name]
    params = make(0)
    directions = [make(seed) for seed in range(1, k + 1)]
    surface = plane(loss, params, directions)
    assert isinstance(surface, PlaneLandscape) and surface.dim == k and surface.minima is None
    theta = jnp.asarray(RNG.uniform(-0.5, 0.5, k))
    origin, columns = flat(params), np.stack([flat(d) for d in directions], axis=1)
    there = surface.embed(theta)
    assert jax.tree_util.tree_structure(there) == jax.tree_util.tree_structure(params)
    np.testing.assert_allclose(flat(there), origin + columns @ np.asarray(theta), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(surface(theta), loss(there), rtol=1e-13)
    np.testing.assert_allclose(surface(jnp.zeros(k)), loss(surface.params), rtol=1e-13)
    gradient = flat(eqx.filter_grad(loss)(there)) @ columns
    np.testing.assert_allclose(surface.gradient(theta), gradient, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(surface.gram, columns.T @ columns, rtol=1e-13)
    np.testing.assert_allclose(surface.project(there), theta, rtol=1e-12, atol=1e-14)
    assert surface.residual(there) < 1e-14 * np.linalg.norm(origin) * 10
    off = make(9)
    exact, *_ = np.linalg.lstsq(columns, flat(off) - origin, rcond=None)
    np.testing.assert_allclose(surface.project(off), exact, rtol=1e-10, atol=1e-12)
    distance = np.linalg.norm(flat(off) - origin - columns @ exact)
    np.testing.assert_allclose(surface.residual(off), distance, rtol=1e-10, atol=1e-12)


def test_almost_dependent_directions():
    """Allowed, and still solved well: the Gram matrix alone, of condition number 1e10, would leave an error of 4e-7."""
    origin, first, change = RNG.normal(size=(3, 50))
    surface = plane(jnp.sum, origin, [first, first + 1e-5 * change])
    np.testing.assert_allclose(surface.project(surface.embed([0.3, -0.2])), [0.3, -0.2], rtol=0, atol=1e-10)


def test_everything_else_passes_through():
    model = network()
    surface = plane(network_loss, model, [network(1)])
    there = surface.embed(jnp.array([0.5]))
    assert there.activation is model.activation and there.rate == 0.1 and there.extra is None
    assert there.steps.dtype == model.steps.dtype and there.steps == 7
    # Directions as a gradient has them: None wherever nothing moves.
    gradient = eqx.filter_grad(network_loss)(model)
    downhill = plane(network_loss, model, [gradient])
    np.testing.assert_allclose(downhill.gradient([0.0])[0], np.sum(flat(gradient) ** 2), rtol=1e-12)


def test_mixed_dtypes_are_kept():
    params = {
        "half": jnp.ones(3, jnp.bfloat16),
        "single": jnp.ones(2, jnp.float32),
        "double": jnp.ones((), jnp.float64),
        "phase": jnp.ones(2, jnp.complex64),
    }
    cast = lambda x: x.astype(jnp.float64)
    loss = lambda p: (
        cast(jnp.sum(p["half"])) + cast(jnp.sum(p["single"])) + p["double"] + cast(jnp.sum(p["phase"].imag))
    )
    direction = dict(params, phase=jnp.array([1j, 1.0 + 0j], jnp.complex64))
    surface = plane(loss, params, [direction])
    for theta in (jnp.array([0.5]), jnp.array([0.5], jnp.float32)):
        there = surface.embed(theta)
        assert jax.tree_util.tree_map(lambda x: x.dtype, there) == jax.tree_util.tree_map(lambda x: x.dtype, params)
        assert surface(theta).dtype == theta.dtype == surface.gradient(theta).dtype
        np.testing.assert_allclose(surface(theta), 4.5 + 3.0 + 1.5 + 0.5, rtol=1e-6)
    # The real inner product: |1j|^2 + |1|^2 for the complex leaf, summed beyond bfloat16.
    np.testing.assert_allclose(surface.gram, [[3 + 2 + 1 + 2]])
    wide = {"half": jnp.full(100_000, 1.001, jnp.bfloat16)}
    line = plane(lambda p: jnp.sum(p["half"].astype(jnp.float32)), wide, [wide])
    np.testing.assert_allclose(line.gram, [[1e5]], rtol=1e-5)


def test_float32(float32):
    a, b, c = (jnp.asarray(np.random.default_rng(i).normal(size=9), jnp.float32) for i in range(3))
    surface = plane_through(lambda p: jnp.sum(jnp.sin(p)), a, b, c)
    theta = np.array([0.3, -0.2], np.float32)
    assert surface(theta).dtype == surface.gradient(theta).dtype == jnp.float32
    np.testing.assert_allclose(surface.project(surface.embed(theta)), theta, rtol=1e-5)
    assert surface.residual(surface.embed(theta)) < 1e-5
    np.testing.assert_allclose(flat(surface.embed(anchors(surface)[2])), flat(c), atol=1e-5)


def test_evaluate_in_chunks():
    loss, make = CASES["flax"]
    points = RNG.uniform(-1.0, 1.0, (3, 7, 2))
    direct = jax.jit(jax.vmap(jax.vmap(plane(loss, make(), [make(1), make(2)]))))(points)
    for batch_size in (4, 100):
        surface = plane(loss, make(), [make(1), make(2)], batch_size=batch_size)
        values = surface.evaluate(points)
        assert values.shape == (3, 7)
        np.testing.assert_allclose(values, direct, rtol=1e-12)
    np.testing.assert_allclose(evaluate(surface, points, batch_size=2), direct, rtol=1e-12)
    # Memory: of 200 points never more than one batch of parameters lives at a time.
    big = jnp.zeros((300, 300))
    line = plane(lambda p: jnp.sum(p @ p), big, [jnp.ones((300, 300))], batch_size=2)
    compiled = jax.jit(lambda x: line.evaluate(x)).lower(jax.ShapeDtypeStruct((200, 1), jnp.float64)).compile()
    memory = compiled.memory_analysis()
    if memory is not None:
        assert memory.temp_size_in_bytes < 10 * big.nbytes


def test_transformations():
    """The plane itself is a PyTree: jit, vmap and grad reach the parameters."""
    params, direction = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0])
    loss = lambda p: jnp.sum(p**3)
    value = lambda p: plane(loss, p, [direction])(jnp.array([0.2]))
    np.testing.assert_allclose(jax.jit(jax.grad(value))(params), 3 * (params + 0.2 * direction) ** 2, rtol=1e-12)
    many = jax.jit(jax.vmap(value))(jnp.stack([params, 2 * params]))
    np.testing.assert_allclose(many, [value(params), value(2 * params)], rtol=1e-13)
    surface = plane(loss, params, [direction])
    assert jax.jit(lambda s: s(jnp.array([0.2])))(surface) == value(params)
    batch = jax.vmap(surface)(jnp.array([[0.0], [0.2]]))
    np.testing.assert_allclose(batch, np.array([9.0, value(params)]), rtol=1e-13)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(-3.0, 3.0))
def test_plane_through(seed, exponent):
    """Orthonormal directions, the three solutions at their anchors, at any scale of the parameters."""
    scale = 10.0**exponent
    loss = lambda p: jnp.sum(p["w"] ** 2) + p["b"] ** 2
    rng = np.random.default_rng(seed)
    a, b, c = ({"w": jnp.asarray(scale * rng.normal(size=(2, 3))), "b": jnp.asarray(scale)} for _ in range(3))
    surface = plane_through(loss, a, b, c)
    np.testing.assert_allclose(surface.gram, np.eye(2), atol=1e-13)
    for anchor, solution in zip(anchors(surface), (a, b, c), strict=True):
        np.testing.assert_allclose(flat(surface.embed(anchor)), flat(solution), atol=1e-13 * scale)
        assert np.all((anchor > surface.bounds[:, 0]) & (anchor < surface.bounds[:, 1]))
    assert np.all(anchors(surface)[0] == 0) and anchors(surface)[1, 1] == 0 and anchors(surface)[2, 1] > 0
    # Almost on the line: the second direction is still at a right angle.
    beside = {"w": a["w"] + 0.7 * (b["w"] - a["w"]) + 1e-7 * c["w"], "b": a["b"]}
    np.testing.assert_allclose(plane_through(loss, a, b, beside).gram, np.eye(2), atol=1e-13)
    separation = np.linalg.norm(flat(b) - flat(a))
    np.testing.assert_allclose(anchors(surface)[1, 0], separation, rtol=1e-13)


def test_line_through():
    a, b = network(0), network(1)
    line = plane_through(network_loss, a, b, margin=0.25, names=("from a to b",), batch_size=3)
    assert line.dim == 1 and line.names == ("from a to b",) and line.batch_size == 3
    length = np.linalg.norm(flat(b) - flat(a))
    np.testing.assert_allclose(anchors(line).ravel(), np.array([0.0, length]), rtol=1e-13)
    np.testing.assert_allclose(np.ravel(line.bounds), np.array([-0.25, 1.25]) * length, rtol=1e-13)
    np.testing.assert_allclose(line(anchors(line)[1]), network_loss(b), rtol=1e-12)
    with pytest.raises(ValueError, match="Argument `params_b` must differ from `params_a`, but it does not"):
        plane_through(network_loss, a, a)
    with pytest.raises(ValueError, match="Argument `params_c` must lie off the line .* Leave it out for a line"):
        middle = jax.tree_util.tree_map(lambda x, y: 0.5 * (x + y) if eqx.is_inexact_array(x) else x, a, b)
        plane_through(network_loss, a, b, middle)
    with pytest.raises(ValueError, match="Argument `margin` must be finite and not negative, but it is -1"):
        plane_through(network_loss, a, b, margin=-1.0)
    with pytest.raises(ValueError, match="Argument `params_c` must have a floating array wherever `params_a` has one"):
        plane_through(network_loss, a, b, {"w": jnp.ones(3)})


def test_filter_normalisation():
    """Each filter of a direction is as long as that of the network; vectors stay where they are (Li et al. 2018)."""
    model = network()
    first, second = random_directions(KEY, model, 2)
    assert first.activation is None and first.steps is None
    for direction in (first, second):
        for leaf in ("first", "second"):
            lengths = [np.linalg.norm(getattr(tree, leaf), axis=1) for tree in (direction, model)]
            np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-12)
        assert np.all(np.asarray(direction.bias) == 0)
    assert abs(np.vdot(flat(first), flat(second))) < 0.9 * np.linalg.norm(flat(first)) * np.linalg.norm(flat(second))
    # Flax kernels have the outputs last; a convolution's filter is all but one axis; vectors count as one filter.
    variables = {
        "kernel": jnp.asarray(RNG.normal(size=(3, 3, 2, 4))),
        "bias": jnp.arange(4.0),
        "off": jnp.zeros((2, 4)),
    }
    (direction,) = random_directions(KEY, variables, 1, filter_axis=-1, vectors=True)
    for i in range(4):
        np.testing.assert_allclose(
            np.linalg.norm(direction["kernel"][..., i]), np.linalg.norm(variables["kernel"][..., i]), rtol=1e-12
        )
    np.testing.assert_allclose(np.linalg.norm(direction["bias"]), np.linalg.norm(variables["bias"]), rtol=1e-12)
    assert np.all(np.asarray(direction["off"]) == 0)
    # Plain Gaussian entries, each leaf in its dtype, float32 at least.
    plain = {
        "w": jnp.zeros((200, 100), jnp.float32),
        "z": jnp.zeros(5000, jnp.complex64),
        "h": jnp.zeros(9, jnp.bfloat16),
    }
    (noise,) = random_directions(KEY, plain, 1, filter_normalised=False)
    assert [noise[x].dtype for x in "wzh"] == [jnp.float32, jnp.complex64, jnp.float32]
    np.testing.assert_allclose([np.std(noise["w"]), np.std(noise["z"])], 1.0, atol=0.03)
    np.testing.assert_allclose(np.mean(noise["z"] ** 2), 0.0, atol=0.06)


def test_refused_directions():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    loss = lambda p: jnp.sum(p["w"]) + jnp.sum(p["b"])
    good = {"w": jnp.eye(2), "b": jnp.zeros(2)}
    twice = jax.tree_util.tree_map(lambda x: 2.0 * x, good)
    zero, nan = (jax.tree_util.tree_map(lambda x, s=s: s * x, good) for s in (0.0, jnp.nan))
    with pytest.raises(
        ValueError, match="Argument `directions` must be linearly independent.*a combination of the others"
    ):
        plane(loss, params, [good, twice])
    with pytest.raises(
        ValueError, match="Argument `directions` must be linearly independent.*zero everywhere.*lengths"
    ):
        plane(loss, params, [zero, good])
    with pytest.raises(ValueError, match="Argument `directions` .* not finite"):
        plane(loss, params, [good, nan])
    with pytest.raises(Exception, match="Argument `directions` must be linearly independent"):
        inside = jax.jit(lambda d: plane(loss, params, [good, d]).project(params))
        jax.block_until_ready(inside(twice))
    for number in (0, 4):
        with pytest.raises(
            ValueError, match=f"Argument `directions` must hold one to three PyTrees, but it holds {number}"
        ):
            plane(loss, params, [good] * number)
    with pytest.raises(ValueError, match=r"`directions\[1\]` must have a floating array .* it lacks one at \['b'\]"):
        plane(loss, params, [good, {"w": jnp.eye(2)}])
    with pytest.raises(ValueError, match=r"`directions\[0\]` .* has one that `params` lacks at \['c'\]"):
        plane(loss, params, [dict(good, c=jnp.ones(1))])
    with pytest.raises(ValueError, match=r"shapes of `params`, but at \['b'\] it has \(3,\) in place of \(2,\)"):
        plane(loss, params, [dict(good, b=jnp.ones(3))])
    with pytest.raises(TypeError, match=r"must be real where `params` is, but at \['b'\] it is complex"):
        plane(loss, params, [dict(good, b=jnp.ones(2, complex))])
    with pytest.raises(ValueError, match="Argument `params` must hold at least one floating array"):
        plane(lambda p: 1.0, {"w": jnp.arange(3)}, [{"w": jnp.arange(3)}])
    with pytest.raises(TypeError, match="Argument `directions` must be a list of PyTrees, but it is a dict"):
        inspect.unwrap(plane)(loss, params, good)
    surface = plane(loss, params, [good])
    with pytest.raises(ValueError, match=r"Argument `params` must have the shapes of `plane.params`, but at \['w'\]"):
        surface.project(dict(params, w=jnp.ones((3, 3))))
    with pytest.raises(ValueError, match="Argument `params` must have a leaf with two axes.*vectors=True"):
        random_directions(KEY, {"b": jnp.ones(3)})
    with pytest.raises(ValueError, match="Argument `k` must be at least 1"):
        random_directions(KEY, params, 0)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda p: p, ValueError, r"return one number, an array of shape \(\), but it returns shape \(3,\)"),
        (lambda p: None, TypeError, "returns None"),
        (lambda p: (jnp.sum(p), {}), TypeError, "returns a tuple. Return the loss alone"),
        (lambda p: jnp.argmax(p), TypeError, "returns dtype int"),
        (lambda p: float(jnp.sum(p)), TypeError, "must be written with jax.numpy .* in the parameters"),
    ],
)
def test_refused_losses(loss, error, message):
    with pytest.raises(error, match=f"Argument `loss_fn` .*{message}"):
        plane(loss, jnp.ones(3), [jnp.ones(3)])


def test_bounds_names_and_anchors():
    make = lambda **options: plane(jnp.sum, jnp.zeros(3), [jnp.array([1.0, 0, 0]), jnp.array([0, 1.0, 0])], **options)
    np.testing.assert_array_equal(make().bounds, [[-1, 1], [-1, 1]])
    np.testing.assert_array_equal(make(bounds=(-2, 3)).bounds, [[-2, 3], [-2, 3]])
    assert make().names == ("theta_1", "theta_2") and make().anchors is None and make().name == "plane"
    np.testing.assert_array_equal(make(anchors=[[0.0, 1.0]]).anchors, [[0.0, 1.0]])
    for options, message in (
        ({"bounds": [[0.0, 1.0]]}, r"Argument `bounds` must have shape \(2, 2\)"),
        (
            {"bounds": (1.0, -1.0)},
            "Argument `bounds` must be finite, lower end before upper end, but it does not ascend",
        ),
        ({"names": ("x",)}, "Argument `names` must hold 2 labels"),
        ({"batch_size": 0}, "Argument `batch_size` must be at least 1"),
        ({"anchors": [0.0, 1.0]}, r"Argument `anchors` must have shape \(n, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    with pytest.raises(ValueError, match="Argument `theta` must have shape .*use jax.vmap"):
        make()(jnp.zeros((4, 2)))


def test_no_kernel_grows_with_the_number_of_leaves():
    """Neither that of the nearest point of a plane: the time to compile one would grow faster still."""

    def longest(leaves):
        x = [jnp.ones((8, 16), jnp.float32)] * leaves
        surface = plane(lambda p: jnp.sum(p[0] ** 2), x, [x])
        return longest_kernel(lambda p: surface.project(p), x)

    assert longest(32) < 1.2 * longest(8)
