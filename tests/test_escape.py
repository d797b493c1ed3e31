"""Escape times: exact first-passage integrals, the models of the noise, SGD itself, derivatives and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from jaxtyping import Array
from refusals import assert_refused

from rxjax import Hyperparameters
from rxjax._escape import (
    ConstantNoise,
    CurvatureNoise,
    SquareLossNoise,
    escape_time,
    kramers_time,
    log_escape_time,
    log_kramers_time,
    sgd_escape_time,
)
from rxjax.landscapes import DoubleWell, MullerBrown, StyblinskiTang

WELL = DoubleWell(barrier=0.25)  # (x^2 - 1)^2/4: curvatures 2 and -1


class Quartic(eqx.Module):
    """`floor + x^4/4 - x^2/2 + 1/4`, with `spring y^2/2` along further axes."""

    floor: Array
    spring: Array

    def __call__(self, theta):
        x = theta[0]
        return self.floor + (x**2 - 1) ** 2 / 4 + self.spring * jnp.sum(theta[1:] ** 2) / 2


def passage_time(loss, diffusion, start, end, low):
    """Ito's mean first-passage time in one dimension by sums over 200,001 points: int exp(phi) int exp(-phi)/D."""
    x = np.linspace(low, end, 200_001)
    h, slope = x[1] - x[0], np.gradient(loss(x), x, edge_order=2)
    trapezoid = lambda f: np.concatenate([[0], np.cumsum((f[1:] + f[:-1]) / 2) * h])
    phi = trapezoid(slope / diffusion(x))
    outer = trapezoid(np.exp(phi) * trapezoid(np.exp(-phi) / diffusion(x)))
    return outer[-1] - np.interp(start, x, outer)


def test_arrhenius():
    assert escape_time(1.0, 0.2) == pytest.approx(np.exp(5))
    assert escape_time(1, 0.1, tau0=3.0, k=2) == pytest.approx(3 * np.exp(5))
    assert log_escape_time(1e4, 0.1, tau0=2.0) == pytest.approx(1e5 + np.log(2))
    assert escape_time(1e4, 0.1) == np.inf
    # Barriers and temperatures broadcast without vmap.
    swept = log_escape_time(np.array([1.0, 2.0]), np.array([0.1, 0.5]))
    np.testing.assert_allclose(swept, [10, 4])


@pytest.mark.parametrize("barrier, limit", [(1.0, np.inf), (0.0, 2.0)])
def test_zero_temperature_limit(barrier, limit):
    value, slopes = jax.value_and_grad(lambda e, t: escape_time(e, t, tau0=2.0), (0, 1))(barrier, 0.0)
    assert value == limit
    assert slopes == (0, 0)


def test_kramers_against_exact_times():
    """Exact mean first-passage times of the double well, and their ratios to the formula."""
    temperatures = np.array([0.1, 0.05, 0.025])
    exact = np.array([66.26862636, 729.67069194, 102108.3655])
    times = kramers_time(WELL, -1.0, 0.0, temperatures)
    np.testing.assert_allclose(times, 2 * np.pi / np.sqrt(2) * np.exp(0.25 / temperatures), rtol=1e-12)
    np.testing.assert_allclose(exact / times, [1.22435, 1.10660, 1.04340], atol=5e-6)
    # The exact times are what the sums of this file find.
    loss = lambda x: (x**2 - 1) ** 2 / 4
    ours = passage_time(loss, lambda x: np.full_like(x, 0.05), -1, 1, -3.5)
    assert ours == pytest.approx(exact[1], rel=1e-6)


def test_eyring_kramers_in_several_dimensions():
    """Other directions divide by the root of the ratio of curvatures, of a form that is not diagonal too."""
    turn, narrow, wide = 0.3, 4.0, 0.5
    rotation = jnp.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def channel(theta):
        x, y = rotation @ theta
        # The curvature across falls from `narrow` at the minima, x^2 = 1, to `wide` at the saddle.
        return (x**2 - 1) ** 2 / 4 + (wide + (narrow - wide) * x**2) * y**2 / 2

    # Two right digits: Newton's method does the rest.
    minimum = np.asarray(rotation).T @ np.array([-1.01, 0.02])
    got = log_kramers_time(channel, minimum, np.array([1e-2, -1e-2]), 0.05)
    expected = np.log(2 * np.pi / np.sqrt(2) * np.sqrt(wide / narrow)) + 5
    assert got == pytest.approx(expected, rel=1e-9)


def test_landscapes_with_known_saddles():
    """Styblinski-Tang in three dimensions against one, and Mueller-Brown by its Hessians."""
    one, three = StyblinskiTang(1), StyblinskiTang(3)
    low, high, top = -2.903534, 2.746803, 0.156731
    shallow = float(log_kramers_time(one, high, top, 6.0))
    # A single flip leaves the other two coordinates where they are: their curvatures cancel.
    for others in ([low, low], [low, high], [high, high]):
        flip = log_kramers_time(three, np.array([high, *others]), np.array([top, *others]), 6.0)
        assert flip == pytest.approx(shallow, rel=1e-10)
    # Exact times over dE = 25.2251 exceed the formula by less than a tenth, and the less the colder.
    exact, temperatures = np.array([170.9, 21.83, 7.96]), np.array([4.0, 6.0, 8.0])
    ratio = exact / kramers_time(one, high, top, temperatures)
    assert np.all((ratio > 1) & (ratio < 1.25)) and np.all(np.diff(ratio) > 0)
    assert log_escape_time(float(one(jnp.array([top])) - one(jnp.array([high]))), 1.0) == pytest.approx(
        25.2251, abs=1e-4
    )

    brown = MullerBrown()
    minimum, saddle = np.array([-0.558223635, 1.441725842]), np.array([-0.822001559, 0.624312803])
    h_a, h_s = (np.asarray(jax.hessian(brown)(jnp.asarray(x))) for x in (minimum, saddle))
    unstable = np.linalg.eigvalsh(h_s)[0]
    expected = np.log(2 * np.pi / -unstable) + np.log(-np.linalg.det(h_s) / np.linalg.det(h_a)) / 2
    expected += (146.699517210 - 40.664843509) / 15
    assert log_kramers_time(brown, minimum, saddle, 15.0) == pytest.approx(expected, rel=1e-7)


RUN = Hyperparameters(learning_rate=0.05, batch_size=4, dataset_size=1000)


def test_constant_noise():
    escape = sgd_escape_time(WELL, -1.0, 0.0, RUN, ConstantNoise(8.0))
    assert escape.log_time == pytest.approx(float(log_kramers_time(WELL, -1.0, 0.0, 0.05)), rel=1e-13)
    assert escape.exponent == pytest.approx(5.0) and escape.barrier == pytest.approx(0.25)
    assert escape.time == pytest.approx(659.4, abs=0.05)
    assert escape.steps == pytest.approx(float(escape.time) / 0.05, rel=1e-12)
    # Momentum heats and quickens; drawing without replacement cools.
    ball = Hyperparameters(0.005, 4, 1000, momentum=0.9)
    quick = sgd_escape_time(WELL, -1.0, 0.0, ball, ConstantNoise(8.0))
    assert quick.log_time == pytest.approx(float(escape.log_time), rel=1e-12)
    assert quick.steps == pytest.approx(float(escape.steps), rel=1e-12)
    fresh = Hyperparameters(0.05, 4, 10, sampling="without_replacement")
    cool = sgd_escape_time(WELL, -1.0, 0.0, fresh, ConstantNoise(8.0))
    assert cool.exponent == pytest.approx(5 * 9 / 6)
    # Several dimensions: the noise along the way out counts.
    valley = DoubleWell(barrier=0.25, dim=3)
    ends = np.array([-1.0, 0, 0]), np.zeros(3)
    for covariance in (8.0, np.array([8.0, 1, 2]), np.diag([8.0, 1, 2])):
        wide = sgd_escape_time(valley, *ends, RUN, ConstantNoise(covariance))
        assert wide.log_time == pytest.approx(float(escape.log_time), rel=1e-12)
    # Several batches with one number for the noise are several times, not a diagonal of noise.
    batches = sgd_escape_time(valley, *ends, Hyperparameters(0.05, np.array([4, 2, 8]), 1000), ConstantNoise(8.0))
    np.testing.assert_allclose(batches.exponent, [5.0, 2.5, 10.0], rtol=1e-12)


def test_validity_flag():
    """The largest curvature here is 2: eta h passes .2 at eta = .1."""
    etas = jnp.array([0.02, 0.0999, 0.1001, 0.5])
    runs = Hyperparameters(etas, 4, 1000)
    escape = jax.vmap(lambda run: sgd_escape_time(WELL, -1.0, 0.0, run, CurvatureNoise(0.4)), in_axes=(runs.axes,))(
        runs
    )
    np.testing.assert_allclose(escape.eta_h, 2 * etas, rtol=1e-12)
    np.testing.assert_array_equal(escape.valid, [True, True, False, False])
    # With momentum the step is that of eta / (1 - mu).
    assert not sgd_escape_time(WELL, -1.0, 0.0, Hyperparameters(0.05, 4, 100, 0.9), ConstantNoise(8.0)).valid


def test_curvature_noise():
    """Exact for the model it is: noise of two values, changing at the inflection point, by the first-passage sums."""
    run = Hyperparameters(learning_rate=0.04, batch_size=8, dataset_size=1000)
    escape = sgd_escape_time(WELL, -1.0, 0.0, run, CurvatureNoise())
    # The inflection point lies at x^2 = 1/3, where 4/9 of the barrier are climbed; curvatures 2 and -1.
    exponent = 2 * 8 / 0.04 * 0.25 * (4 / 9 / 2 + 5 / 9 / 1)
    assert escape.exponent == pytest.approx(exponent, rel=1e-9)
    assert escape.log_time == pytest.approx(np.log(2 * np.pi / 2) + exponent, rel=1e-9)
    given = sgd_escape_time(WELL, -1.0, 0.0, run, CurvatureNoise(4 / 9))
    assert given.exponent == pytest.approx(exponent, rel=1e-9)
    # Against the passage time of that noise, smoothed over a hundredth around the inflection points.
    slowness = lambda x: 0.75 - np.tanh((np.abs(x) - 3**-0.5) / 0.01) / 4
    gap = []
    for batch in (8, 16):
        unit = 0.04 / (2 * batch)
        time = passage_time(lambda x: (x**2 - 1) ** 2 / 4, lambda x, u=unit: u / slowness(x), -1, 1, -1.7)
        formula = sgd_escape_time(WELL, -1.0, 0.0, Hyperparameters(0.04, batch, 1000), CurvatureNoise(4 / 9))
        gap.append(np.log(time) - float(formula.log_time))
    assert abs(gap[1]) < 0.02 and abs(gap[1]) < abs(gap[0])
    # Sharper minima are left faster.
    double = lambda theta: 2 * WELL(theta)
    assert sgd_escape_time(double, -1.0, 0.0, run, CurvatureNoise()).exponent == pytest.approx(exponent, rel=1e-9)


def test_square_loss_noise():
    """The power law: 2351 by the formula, 2200.889 exactly, slope B/(eta h) + 1/2 in the logarithm of the losses."""
    run = Hyperparameters(learning_rate=1 / 6, batch_size=1, dataset_size=1000)  # B/(eta h) = 3 for h = 2

    def escape(floor):
        return sgd_escape_time(Quartic(floor, jnp.asarray(1.0)), -1.0, 0.0, run, SquareLossNoise())

    result = escape(jnp.asarray(0.05))
    assert result.time == pytest.approx(2351, abs=0.5)
    exact = passage_time(
        lambda x: 0.05 + (x**2 - 1) ** 2 / 4, lambda x: 2 * (0.05 + (x**2 - 1) ** 2 / 4) / 6, -1, 1, -3.0
    )
    assert exact == pytest.approx(2200.889, rel=1e-6)
    assert exact / result.time == pytest.approx(1, abs=0.07)
    floors = jnp.array([0.05, 0.01])
    times = jax.vmap(lambda floor: escape(floor).log_time)(floors)
    slope = (times[1] - times[0]) / (jnp.log(26.0) - jnp.log(6.0))
    assert slope == pytest.approx(3.5, rel=1e-12)


def test_square_loss_noise_in_several_dimensions():
    """n outliers lower the power by n/2 and bring their determinants; the rest does not count."""
    run = Hyperparameters(learning_rate=1 / 6, batch_size=1, dataset_size=1000)
    valley = lambda theta: Quartic(jnp.asarray(0.05), jnp.asarray(0.7))(theta)
    ends = np.array([-1.0, 0.0]), np.zeros(2)
    logs = [float(sgd_escape_time(valley, *ends, run, SquareLossNoise(2.0, n)).log_time) for n in (1, 2)]
    np.testing.assert_allclose(np.exp(logs[0]), 2351, atol=0.5)
    assert logs[1] - logs[0] == pytest.approx(-np.log(6) / 2, rel=1e-10)


@pytest.mark.slow
def test_against_sgd_itself():
    """Discrete SGD with square-loss noise at eta = .01: 2244 in units of eta x steps; some 4500 escapes."""
    eta, batch, walkers, steps = 0.01, 0.06, 4000, 250_000

    @jax.jit
    def escapes(key):
        def step(t, state):
            x, count = state
            loss = 0.05 + (x**2 - 1) ** 2 / 4
            noise = jnp.sqrt(4 * loss / batch) * jax.random.normal(jax.random.fold_in(key, t), x.shape)
            x = x - eta * (x**3 - x + noise)
            # A walker that arrives starts anew.
            return jnp.where(x >= 1, -1, x), count + jnp.sum(x >= 1)

        return jax.lax.fori_loop(0, steps, step, (jnp.full(walkers, -1.0), 0))[1]

    assert eta * steps * walkers / int(escapes(jax.random.key(0))) == pytest.approx(2244, rel=0.05)


def test_gradients_are_total():
    """Minimum, saddle and inflection point move with the landscape's parameters."""

    def tilted(x):
        return DoubleWell(barrier=0.25, tilt=0.1 * x)

    def steeper(x):
        return DoubleWell(barrier=0.25 * x**2, tilt=0.1 * x)

    def walls(x):
        return Quartic(0.05 * x, x)

    def line(x):
        well = tilted(x)
        return sgd_escape_time(well, -1.03, 0.1, RUN, CurvatureNoise()).log_time

    run = lambda x: Hyperparameters(0.05 * x, 4.0, 1000.0)
    assert_gradients(
        [
            (lambda x: escape_time(x, 0.5 + x, tau0=x, k=1 + x), 0.8),
            # The sum of Kramers' prefactor and exponent, as in `kramers_time`.
            (lambda x: sgd_escape_time(steeper(x), -1.03, 0.1, run(x), ConstantNoise(8.0 * x)).log_steps, 0.8),
            (line, 0.8),
            (lambda x: sgd_escape_time(walls(x), -1.0, 0.0, run(x), SquareLossNoise()).log_time, 0.8),
        ]
    )


def test_gradients_where_the_way_out_turns():
    """The saddle's direction turns with the parameter: first derivatives and second ones."""

    def turned(noise):
        def log_time(x):
            landscape = lambda y: (y[0] ** 2 - 1) ** 2 / 4 + x * y[0] * y[1] + y[1] ** 2 + 0.1 * y[0] + 1
            return sgd_escape_time(landscape, jnp.array([-1.15, 0.4]), jnp.array([0.08, 0.0]), RUN, noise).log_time

        return log_time

    constant = turned(ConstantNoise(jnp.array([4.0, 1.0])))
    assert_gradients([(constant, 0.6), (jax.grad(constant), 0.6)])


def test_python_numbers_do_not_widen():
    """Beside a float32 temperature, attempt time or point."""
    half = jnp.float32(0.5)
    ends = jnp.array([-1.0], jnp.float32), jnp.zeros(1, jnp.float32)
    values = [escape_time(1.0, half), escape_time(1.0, 0.3, tau0=half), log_escape_time(half, 0.3, k=2.0)]
    values.append(jax.jit(lambda c: sgd_escape_time(WELL, *ends, RUN, ConstantNoise(c)).log_time)(2.0))
    assert all(value.dtype == jnp.float32 for value in values)


def test_vmap_over_rates_and_batches_equals_loop():
    etas, batches = jnp.array([0.02, 0.1]), jnp.array([1.0, 4.0, 16.0])
    walls = Quartic(jnp.asarray(0.05), jnp.asarray(1.0))

    def times(eta, batch):
        run = Hyperparameters(eta, batch, 1000)
        kinds = ConstantNoise(8.0), SquareLossNoise()
        return jnp.stack([sgd_escape_time(walls, -1.0, 0.0, run, kind).log_time for kind in kinds])

    single = jax.jit(times)
    grid = jax.jit(jax.vmap(jax.vmap(times, (None, 0)), (0, None)))(etas, batches)
    np.testing.assert_allclose(grid, [[single(e, b) for b in batches] for e in etas], rtol=1e-13)


def test_float32(float32):
    assert float(log_escape_time(np.float32(1.0), 0.05)) == pytest.approx(20, rel=1e-6)
    got = eqx.filter_jit(log_kramers_time)(WELL, np.float32(-1.0), np.float32(0.0), np.float32(0.01))
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(25 + np.log(2 * np.pi / np.sqrt(2)), rel=1e-4)
    half = log_kramers_time(WELL, jnp.bfloat16(-1.0), jnp.bfloat16(0.0), jnp.bfloat16(0.125))
    assert float(half) == pytest.approx(2 + np.log(2 * np.pi / np.sqrt(2)), rel=1e-5)
    run = Hyperparameters(1 / 6, 1, 1000)
    escape = sgd_escape_time(Quartic(jnp.float32(0.05), jnp.float32(1)), -1.0, 0.0, run, SquareLossNoise())
    assert escape.log_time.dtype == jnp.float32
    assert float(escape.log_time) == pytest.approx(np.log(2351), rel=1e-4)


def test_refusals():
    kramers = log_kramers_time
    sgd = lambda noise, run=RUN: sgd_escape_time(WELL, -1.0, 0.0, run, noise).log_time
    assert_refused(
        [
            (lambda x: log_escape_time(x, 1.0), -1.0, "Argument `barrier` must be non-negative", 0.0),
            (lambda x: log_escape_time(1.0, x), -1.0, "Argument `temperature`", 1.0),
            (lambda x: log_escape_time(1.0, 1.0, tau0=x), 0.0, "Argument `tau0`", 1.0),
            (lambda x: log_escape_time(1.0, 1.0, k=x), 0.0, "Argument `k`", 1.0),
            (lambda x: kramers(WELL, -1.0, 0.0, x), -1.0, "Argument `temperature`", 1.0),
            (lambda x: kramers(WELL, x, 0.0, 1.0), np.nan, "Argument `minimum` must be finite", -1.0),
            (
                lambda x: kramers(WELL, x, 0.0, 1.0),
                0.0,
                "Argument `(minimum|saddle)` must be a.*find_(minima|barriers)",
                -1.0,
            ),
            (lambda x: kramers(WELL, x, 0.0, 1.0), -0.7, "Argument `minimum`.*no stationary point", -1.0),
            (
                lambda x: kramers(WELL, -1.0, x, 1.0),
                1.0,
                "Argument `saddle`.*one direction of negative.*find_barriers",
                0.0,
            ),
            (lambda x: kramers(WELL, -1.0, x, 1.0), 0.4, "Argument `saddle`.*no stationary point", 0.0),
            (lambda x: ConstantNoise(x).covariance, -1.0, "Argument `covariance`", 1.0),
            (lambda x: sgd(ConstantNoise(x)), 0.0, "Argument `covariance`.*no escape", 1.0),
            (lambda x: sgd(CurvatureNoise(x)), 1.0, r"Argument `fraction` must lie in \(0, 1\)", 0.5),
            (lambda x: SquareLossNoise(x).curvature, 0.0, "Argument `curvature` must be positive", 1.0),
        ]
    )
    bare = lambda theta: WELL(theta)
    full = Hyperparameters(0.05, 8, 8, sampling="without_replacement")
    convex = lambda theta: jnp.sum(jnp.abs(theta[0] - 3) ** 3)
    valley = DoubleWell(barrier=0.25, dim=2)
    ends = np.array([-1.0, 0.0]), np.zeros(2)
    cases = [
        (lambda: sgd(SquareLossNoise()), "Argument `landscape`.*add what the landscape lacks"),
        (lambda: sgd(CurvatureNoise(), full), "Argument `hyperparameters`.*no noise"),
        (lambda: sgd(ConstantNoise(1.0), Hyperparameters(0.1, 2, 8, sampling="epoch")), "epoch"),
        (lambda: sgd(ConstantNoise(np.ones(2))), "Argument `covariance` must be of dimension 1"),
        (lambda: SquareLossNoise(outliers=0), "Argument `outliers` must be at least 1"),
        (lambda: sgd(SquareLossNoise(outliers=2)), "Argument `outliers` must be at most the dimension 1"),
        (lambda: kramers(bare, -1.0, np.zeros(2), 1.0), r"their shapes are \(2,\) and \(1,\)"),
        (lambda: kramers(convex, 3.0, 0.0, 1.0), "Argument `minimum`"),
        (lambda: kramers(WELL, -0.7, 0.0, 1.0), r"Argument `minimum`.*got \[-0\.7\]"),
        (lambda: kramers(WELL, -1.0, 0.4, 1.0), r"Argument `saddle`.*got \[0\.4\]"),
        (
            lambda: sgd_escape_time(lambda t: 0.05 + valley(t) + 2 * t[1] ** 2, *ends, RUN, SquareLossNoise(2.0, 1)),
            "Argument `outliers` must include the unstable direction",
        ),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
