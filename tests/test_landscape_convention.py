"""What all landscapes share: the calling convention, plain callables, refusals, and the examples of docstrings."""

import doctest
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax.landscapes as landscapes
from rxjax.landscapes import (
    DoubleWell,
    GaussianWells,
    Himmelblau,
    MullerBrown,
    Quadratic,
    RandomField,
    Rastrigin,
    Rosenbrock,
    StyblinskiTang,
    as_landscape,
    check_landscape,
    evaluate,
    require_finite_values,
)

KEY = jax.random.key(7)

# One landscape of every kind, built under the precision of the moment.
ZOO = {
    "quadratic": lambda: Quadratic([[2.0, 0.5], [0.5, 1.0]], center=[0.3, -0.2]),
    "quadratic-diagonal": lambda: Quadratic([1.0, 3.0, 0.2]),
    "double-well": lambda: DoubleWell(barrier=1.3, tilt=0.4, dim=2),
    "muller-brown": MullerBrown,
    "styblinski-tang": lambda: StyblinskiTang(3),
    "himmelblau": Himmelblau,
    "rastrigin": lambda: Rastrigin(2),
    "rosenbrock": lambda: Rosenbrock(4),
    "gaussian-wells": lambda: GaussianWells([[-1.0, 0.0], [1.0, 0.5]], [1, 2], 0.5, 0.1),
    "random-field": lambda: RandomField(KEY, 2, length_scale=0.7, std=2.0, confinement=0.1, num_features=64),
    "random-field-5": lambda: RandomField(KEY, 5, num_features=32),
    "callable": lambda: as_landscape(lambda theta: jnp.sum(jnp.cos(theta)), dim=2, bounds=[-1, 1]),
}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_calling_convention(name):
    landscape = ZOO[name]()
    dim = landscape.dim
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (6, dim))
    both = jax.jit(lambda x, y: (jax.vmap(landscape)(x), jax.vmap(landscape)(y)))
    values, single = both(points, points.astype(np.float32))
    assert values.shape == (6,) and values.dtype == jnp.float64 and single.dtype == jnp.float32
    np.testing.assert_allclose(single, values, rtol=1e-4, atol=1e-4)
    shape_of = lambda shape, dtype: jax.eval_shape(landscape, jax.ShapeDtypeStruct(shape, dtype))
    assert shape_of((dim,), jnp.bfloat16).dtype == jnp.bfloat16
    # Whole numbers are a legal point; a batch, a scalar and a complex point are not.
    assert shape_of((dim,), jnp.int32).dtype == jnp.float64
    for wrong in ((6, dim), (), (dim + 1,)):
        with pytest.raises(ValueError, match="Argument `theta` must have shape .*use jax.vmap for a batch"):
            shape_of(wrong, jnp.float64)
    with pytest.raises(TypeError, match="Argument `theta` must be real"):
        shape_of((dim,), jnp.complex128)
    bounds = np.asarray(landscape.bounds)
    assert bounds.shape == (dim, 2) and np.all(bounds[:, 0] < bounds[:, 1])
    assert isinstance(landscape.name, str) and isinstance(dim, int)
    assert check_landscape(landscape, dim) is landscape


@pytest.mark.parametrize("name", sorted(ZOO))
def test_float32(name, float32):
    landscape = ZOO[name]()
    theta = jax.ShapeDtypeStruct((landscape.dim,), jnp.float32)
    value, gradient = jax.eval_shape(jax.value_and_grad(landscape), theta)
    assert value.dtype == gradient.dtype == jnp.float32
    for points in (landscape.minima, landscape.saddles, landscape.bounds):
        assert points is None or points.dtype == jnp.float32


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (lambda x: 2 * x, ValueError, r"return one number, an array of shape \(\), but it returns shape \(2,\)"),
        (lambda x: x[:1], ValueError, r"returns shape \(1,\). Sum or average"),
        (lambda x: None, TypeError, "but it returns None. Is a `return` missing"),
        (lambda x: jnp.sum(x > 0), TypeError, "real floating number, but it returns dtype int"),
        (lambda x: jnp.all(x > 0), TypeError, "returns dtype bool"),
        (lambda x: jnp.sum(x).astype(complex), TypeError, "returns dtype complex"),
        (lambda x: 3, TypeError, "returns dtype int"),
        (lambda x: (jnp.sum(x), x), TypeError, "but it returns a tuple. Return the loss alone"),
        (lambda x: "low", TypeError, "but it returns a str"),
        (lambda x: float(x[0]), TypeError, "must be written with jax.numpy"),
        (lambda x: np.sin(x)[0], TypeError, "must be written with jax.numpy"),
        (lambda x: x[0] if x[0] > 0 else x[1], TypeError, "jnp.where instead of if"),
        (Rastrigin(3), ValueError, "must take 2 coordinates, but it takes 3"),
    ],
)
def test_bad_landscapes(fn, error, message):
    with pytest.raises(error, match=f"Argument `landscape` .*{message}"):
        check_landscape(fn, 2)


def test_plain_callables():
    quartic = lambda theta: jnp.sum(theta**4)
    assert check_landscape(quartic, 3) is quartic and check_landscape(lambda x: 1.0, 3)(None) == 1.0
    landscape = as_landscape(quartic, dim=2)
    assert landscape.bounds is None and landscape.dim == 2 and landscape(jnp.ones(2)) == 2.0
    assert as_landscape(landscape) is landscape and as_landscape(landscape, 2) is landscape
    renamed = as_landscape(MullerBrown(), bounds=jnp.array([[-1.0, 1.0], [0.0, 1.0]]), name="window")
    assert renamed.dim == 2 and renamed.name == "window"
    assert renamed.bounds is not None and renamed.bounds[1, 0] == 0.0
    np.testing.assert_allclose(renamed(jnp.zeros(2)), MullerBrown()(jnp.zeros(2)))
    # No array, no leaf: the landscape is an ordinary argument of jit, vmap and grad.
    assert jax.tree_util.tree_leaves(landscape) == []
    assert jax.jit(lambda f, x: f(x))(landscape, jnp.ones(2)) == 2.0
    # A module's arrays stay differentiable.
    well = as_landscape(DoubleWell(2.0), bounds=np.array([-1.0, 1.0]))
    slope = eqx.filter_grad(lambda f: f(jnp.zeros(1)))(well)
    assert slope.fn.barrier == 1.0
    with pytest.raises(ValueError, match="Argument `dim` must be given for a plain callable"):
        as_landscape(quartic)
    with pytest.raises(ValueError, match=r"Argument `bounds` must have shape \(2, 2\).*has shape \(3, 2\)"):
        as_landscape(quartic, 2, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="lower end before upper end, but it does not ascend"):
        as_landscape(quartic, 1, jnp.array([[1.0, -1.0]]))
    with pytest.raises(ValueError, match="Argument `landscape` must take 3 coordinates, but it takes 2"):
        as_landscape(MullerBrown(), 3, name="cube")


def test_require_finite_values():
    values = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(require_finite_values(values), values)
    with pytest.raises(
        ValueError, match="Argument `landscape` must return finite .* returns NaN: got 2 such values of 4"
    ):
        require_finite_values(values.at[0].set(jnp.nan))
    with pytest.raises(ValueError, match="Argument `loss` .* returns infinity: got 1 such value of 4"):
        require_finite_values(values.at[0, 0].set(jnp.inf), "loss")
    inside = jax.jit(lambda x: require_finite_values(jnp.log(x)).sum())
    assert jnp.isfinite(inside(values))
    with pytest.raises(Exception, match="Argument `landscape` must return finite values, but it returns NaN"):
        jax.block_until_ready(inside(-values))


def test_evaluate_shapes():
    bowl = Quadratic(jnp.ones(3))
    points = jax.random.normal(KEY, (3, 5, 3))
    exact = 0.5 * np.sum(np.asarray(points) ** 2, axis=-1)
    for batch in (None, 1, 4):
        np.testing.assert_allclose(evaluate(bowl, points, batch), exact, rtol=1e-14)
    np.testing.assert_allclose(evaluate(bowl, points[0, 0]), exact[0, 0], rtol=1e-14)
    with pytest.raises(ValueError, match="Argument `batch_size` must be at least 1"):
        evaluate(bowl, points, 0)
    with pytest.raises(ValueError, match=r"Argument `points` must have shape \(\*shape, d\)"):
        evaluate(bowl, 1.0)


def _public():
    return {name: value for name, value in vars(landscapes).items() if not name.startswith("_") and callable(value)}


def _documented(name, value):
    """The object and, for a class, those of its own methods that have a docstring with an example."""
    yield name, value
    if inspect.isclass(value):
        for method, body in vars(value).items():
            if not method.startswith("_") and callable(body) and ">>>" in (body.__doc__ or ""):
                yield f"{name}.{method}", body


@pytest.mark.parametrize("name", sorted(_public()))
def test_docstring_examples(name):
    """Each public name has an example that runs; `rx` is imported by the examples themselves."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for label, value in _documented(name, _public()[name]):
        examples = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, label, None, None)
        assert examples.examples, f"{label} has no example"
        report = []
        runner.run(examples, out=report.append)
        assert not report, "".join(report)
