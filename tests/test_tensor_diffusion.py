"""Full-tensor diffusion, noise given as a matrix, degenerate noise: hops along diagonals, conventions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from refusals import assert_refused

import rxjax_solvers as rxs

D = jnp.array([[1.0, 0.4], [0.4, 0.5]])
BOUNDARIES = {
    "closed": "reflecting",
    "torus": "periodic",
    "open": "absorbing",
    "tube": [("absorbing", "reflecting"), "periodic"],
}


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_hops_lines_and_matrix_are_one_generator(boundary):
    """Both diagonals; the sum over lines, which the splitting sweeps, is the generator; Gibbs' law stays."""
    p, u = jax.random.normal(jax.random.key(1), (2, 6, 12))
    V = lambda x: jnp.cos(x[0]) + jnp.sin(x[0] + x[1])
    rotation = lambda x: jnp.stack([jnp.sin(x[1]), jnp.cos(x[0])])

    @jax.jit
    def parts(sign):
        grid = rxs.Grid(0, 2 * jnp.pi, (6, 12), boundary=BOUNDARIES[boundary])
        tensor = D[::-1, ::-1] * jnp.array([[1, sign], [sign, 1]]) * jnp.array([[2.0, 1.0], [1.0, 0.5]])
        W = rxs.FokkerPlanck(rotation, tensor, grid)
        lines = sum(line.leave(line.rates.apply(line.enter(p))) for line in W.lines())
        gibbs = rxs.FokkerPlanck.from_potential(V, grid, 0.3, tensor)
        assert gibbs.log_gibbs is not None
        defect = gibbs.apply(jnp.exp(gibbs.log_gibbs)) / jnp.max(jnp.exp(gibbs.log_gibbs) * gibbs.outflow())
        heat = rxs.entropy_production(W, jnp.abs(p))
        return W.as_matrix(), W.apply(p), W.adjoint(u), W.outflow(), lines, defect, heat

    for sign in (1.0, -1.0):
        with rxs.checks_off():
            matrix, forward, backward, outflow, lines, defect, heat = parts(sign)
        np.testing.assert_allclose(matrix @ p.ravel(), forward.ravel(), atol=1e-12)
        np.testing.assert_allclose(matrix.T @ u.ravel(), backward.ravel(), atol=1e-12)
        np.testing.assert_allclose(-np.diag(matrix), outflow.ravel(), rtol=1e-12)
        np.testing.assert_allclose(lines, forward, atol=1e-12)
        assert np.min(matrix - np.diag(np.diag(matrix))) >= 0
        columns = np.sum(matrix, axis=0)
        if boundary in ("closed", "torus"):
            np.testing.assert_allclose(columns, 0, atol=1e-12)
            np.testing.assert_allclose(defect, 0, atol=1e-14)
            flux = np.asarray(matrix) * np.abs(p).ravel()[None]
            there, back = flux[flux * flux.T > 0], flux.T[flux * flux.T > 0]
            exact = np.sum((there - back) * np.log(there / back)) / 2 * (2 * np.pi) ** 2 / 72
            np.testing.assert_allclose(heat, exact, rtol=1e-10)
        else:
            assert np.all(columns < 1e-12) and np.min(columns) < -1


A = np.array([[1.0, 0.6], [-0.4, 0.8]])


def moments(grid, p):
    x, y = jnp.moveaxis(grid.points, -1, 0)
    mx, my = grid.integrate(x * p), grid.integrate(y * p)
    return jnp.stack([mx, my, *(grid.integrate(m * p) for m in ((x - mx) ** 2, (x - mx) * (y - my), (y - my) ** 2))])


def test_correlated_ornstein_uhlenbeck():
    """Exact mean and covariance, second order in the cell size, and the gradient in the correlation."""
    s2, t = 0.3, 0.6
    decay = scipy.linalg.expm(-A * t)

    def exact(c):
        tensor = np.array([[1.0, c], [c, 0.5]])
        limit = scipy.linalg.solve_continuous_lyapunov(A, 2 * tensor)
        m, cov = decay @ [0.8, -0.4], limit + decay @ (s2 * np.eye(2) - limit) @ decay.T
        return np.array([*m, cov[0, 0], cov[0, 1], cov[1, 1]])

    def solved(c, n, method):
        grid = rxs.Grid(-6, 6, (n, n))
        tensor = jnp.array([[1.0, 0.0], [0.0, 0.5]]) + c * jnp.array([[0.0, 1.0], [1.0, 0.0]])
        W = rxs.FokkerPlanck(lambda x: -jnp.asarray(A) @ x, tensor, grid)
        p0, ts = grid.gaussian(jnp.array([0.8, -0.4]), np.sqrt(s2)), jnp.array([0.0, t])
        return moments(grid, method(W, p0, ts))

    uniform = lambda W, p0, ts: rxs.uniformization(W, p0, ts, differentiate="forward")[0][1]
    both = lambda n: jax.jvp(lambda c: solved(c, n, uniform), (0.2,), (jnp.ones(()),))
    with rxs.checks_off():
        (coarse, coarse_slope), (fine, slope) = (jax.jit(both, static_argnums=0)(n) for n in (30, 60))
    change = (exact(0.201) - exact(0.199)) / 0.002
    for a, b in ((coarse - exact(0.2), fine - exact(0.2)), (coarse_slope - change, slope - change)):
        assert 1.7 < np.log2(np.max(np.abs(a)) / np.max(np.abs(b))) < 2.4, (a, b)
    assert np.max(np.abs(fine - exact(0.2))) < 0.02


def test_entropy_production_of_a_linear_drift():
    """`tr(M' D^-1 M S)` with `M = D S^-1 - A`, second order in the cell size; none in equilibrium, at any."""
    tensor = np.array([[1.0, 0.3], [0.3, 0.5]])
    balanced = tensor @ np.array([[2.0, 0.3], [0.3, 1.5]])

    def produced(drift, n):
        law = scipy.linalg.solve_continuous_lyapunov(drift, 2 * tensor)
        grid = rxs.Grid(-6, 6, (n, n))
        W = rxs.FokkerPlanck(lambda x: -jnp.asarray(drift) @ x, tensor, grid)
        p = jnp.exp(-jnp.einsum("...i,ij,...j->...", grid.points, jnp.asarray(np.linalg.inv(law)), grid.points) / 2)
        m = tensor @ np.linalg.inv(law) - drift
        return rxs.entropy_production(W, grid.normalize(p)), np.trace(m.T @ np.linalg.solve(tensor, m @ law))

    (coarse, exact), (fine, _) = produced(A, 40), produced(A, 80)
    assert exact > 0.1 and abs(fine - exact) < 0.02 * exact
    assert 1.7 < np.log2(abs(coarse - exact) / abs(fine - exact)) < 2.4
    assert abs(produced(balanced, 40)[0]) < 1e-12


def test_reflecting_sides_of_three_axes():
    """The slope across a side changes how the other two axes hang together: `k'(D - D_.z D_z./D_zz)k` of a wave.

    With a drift `D F` or a potential the law is `exp(F.x)`, and no rate is negative, beside edges and corners too.
    """
    # Beside a side along z the first two axes hang together the other way.
    tensor = jnp.array([[1.0, 0.05, 0.3], [0.05, 0.8, 0.35], [0.3, 0.35, 0.7]])
    flat = tensor[:2, :2] - jnp.outer(tensor[:2, 2], tensor[:2, 2]) / tensor[2, 2]

    @jax.jit
    def values():
        wrong = []
        for n in (8, 16):
            grid = rxs.Grid(0, 2 * jnp.pi, (n, n, n), boundary=["periodic", "periodic", "reflecting"])
            W = rxs.FokkerPlanck(jnp.zeros(3), tensor, grid)
            for k in (jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])):
                u = jnp.cos(grid.points[..., :2] @ k - grid.points[..., 2] * (tensor[2, :2] @ k) / tensor[2, 2])
                wrong.append(-jnp.sum(u * W.adjoint(u)) / jnp.sum(u**2) - k @ flat @ k)
        box, force = rxs.Grid(0, jnp.array([1.0, 1.2, 0.9]), (3, 4, 3)), jnp.array([1.0, -0.7, 0.5])
        law = jnp.exp(box.points @ force)
        pair = [
            rxs.FokkerPlanck(tensor @ force, tensor, box),
            rxs.FokkerPlanck.from_potential(lambda x: -(force @ x), box, 1.0, tensor),
        ]
        return jnp.array(wrong).reshape(2, 2), [(W.apply(law) / W.outflow(), W.as_matrix()) for W in pair]

    with rxs.checks_off():
        (coarse, fine), ((a, driven), (b, potential)) = values()
    orders = np.log2(np.abs(coarse) / np.abs(fine))
    assert np.all((1.7 < orders) & (orders < 2.6)), (coarse, fine)
    np.testing.assert_allclose([a, b], 0, atol=1e-13)
    np.testing.assert_allclose(driven, potential, rtol=1e-10, atol=1e-10)
    assert np.min(driven - np.diag(np.diag(driven))) >= 0


def test_a_mobility_unlike_the_diffusion():
    """Hops along diagonals that nothing diffuses along are upwinded: a mean drift `-M grad V`, first order."""
    grid, force = rxs.Grid(-4, 4, (16, 16)), jnp.array([1.0, -0.5])
    p = grid.gaussian(0, 0.5)

    def moved(c, d=jnp.eye(2)):
        mobility = jnp.eye(2) + jnp.array([[0.0, 0.4], [c, 0.0]])
        W = rxs.FokkerPlanck(rxs.NegativeGradient(lambda x: -(force @ x), mobility), d, grid)
        return jnp.tensordot(grid.points, W.apply(p), [(0, 1), (0, 1)]) * grid.cell_volume

    np.testing.assert_allclose(moved(0.4), [0.8, -0.1], rtol=1e-6)
    assert_refused([(moved, -0.4, "`mobility` must be symmetric", 0.4)])


def test_a_drift_that_is_infinite_on_a_reflecting_side():
    """Hops across it are rejected, and what they would carry is not asked for."""
    grid = rxs.Grid(jnp.zeros(2), jnp.ones(2), (4, 5))
    W = lambda a: rxs.FokkerPlanck(lambda x: a / x, jnp.array([[1.0, 0.3], [0.3, 0.8]]), grid)
    moved = lambda a: jnp.sum(W(a).apply(jnp.ones((4, 5))) ** 2)
    assert np.isfinite(moved(1.0)) and jax.grad(moved)(1.0) > 0


def wave_tensor(x):
    """Positive, anisotropic, with an off-diagonal of either sign."""
    c = 0.3 * jnp.sin(x[0] + x[1])
    return jnp.stack([jnp.stack([1 + 0.2 * jnp.sin(x[1]), c]), jnp.stack([c, 0.8 + 0.1 * jnp.cos(x[0])])])


def tilted_tensor(x):
    """The same with an off-diagonal of one sign, so that every rate is smooth."""
    return wave_tensor(x) / 2 + jnp.array([[0.5, 0.3], [0.3, 0.5]])


def wave_noise(x):
    """Three sources; sigma sigma'/2 keeps within what square cells allow."""
    a, b = 0.3 * jnp.sin(x[0]), 0.2 * jnp.cos(x[1])
    return jnp.stack([jnp.stack([1 + a, 0.4 + b, 0.2 * b + 0.3]), jnp.stack([0.2 * a, 1 - b, 0.2 + a])])


@pytest.mark.slow
def test_conventions_of_a_tensor():
    """`W p` against the equation differentiated by hand, on a torus: second order in the mean, for each convention."""
    b = lambda x: jnp.stack([jnp.sin(x[1]), jnp.cos(x[0] - x[1])])
    p = lambda x: jnp.exp(jnp.sin(x[0]) + 0.5 * jnp.cos(x[1] - x[0]))
    divergence = lambda f: lambda x: jnp.trace(jax.jacfwd(f)(x))
    drift = divergence(lambda x: b(x) * p(x))
    rows = lambda f: lambda x: jnp.einsum("ijj->i", jax.jacfwd(f)(x))
    half = lambda x: wave_noise(x) @ wave_noise(x).T / 2

    def stratonovich(x):
        # sigma_ik d_j (sigma_jk p) / 2
        inner_k = jnp.einsum("jkj->k", jax.jacfwd(lambda y: wave_noise(y) * p(y))(x))
        return wave_noise(x) @ inner_k / 2

    cases = [
        (lambda g: rxs.FokkerPlanck(b, tilted_tensor, g, rxs.Ito()), rows(lambda x: tilted_tensor(x) * p(x))),
        (lambda g: rxs.FokkerPlanck(b, wave_tensor, g, rxs.Ito()), rows(lambda x: wave_tensor(x) * p(x))),
        (lambda g: rxs.FokkerPlanck(b, wave_tensor, g, rxs.AntiIto()), lambda x: wave_tensor(x) @ jax.grad(p)(x)),
        (lambda g: rxs.FokkerPlanck(b, None, g, rxs.Ito(), noise=wave_noise), rows(lambda x: half(x) * p(x))),
        (lambda g: rxs.FokkerPlanck(b, None, g, rxs.Stratonovich(), noise=wave_noise), stratonovich),
        (
            lambda g: rxs.FokkerPlanck(
                rxs.TimeDependent(lambda t, x: t * b(x)),
                None,
                g,
                rxs.Stratonovich(),
                noise=rxs.TimeDependent(lambda t, x: jnp.sqrt(t) * wave_noise(x) / 2**0.5),
            ).at(2.0),
            None,
        ),
    ]

    def defects(n):
        grid = rxs.Grid(0, 2 * jnp.pi, (n, n), boundary="periodic")
        at = lambda f: jax.vmap(jax.vmap(f))(grid.points)
        out = []
        for make, flux in cases:
            if flux is None:
                exact = at(divergence(stratonovich)) - 2 * at(drift)
            else:
                exact = at(divergence(flux)) - at(drift)
            defect = make(grid).apply(at(p)) - exact
            # Where an off-diagonal changes sign rates have a kink, and only averages of the defect are small.
            out.append((jnp.mean(jnp.abs(defect)), jnp.abs(jnp.mean(at(lambda x: jnp.cos(x[0] + 0.4)) * defect))))
        return jnp.array(out)

    with rxs.checks_off():
        coarse, fine = (np.asarray(jax.jit(defects, static_argnums=0)(n)) for n in (24, 48))
    orders = np.log2(coarse / fine)
    kinked = np.array([0, 1, 0, 0, 0, 0], bool)
    assert np.all((1.7 < orders) & (orders < 2.3) | np.stack([kinked, ~kinked], 1)), (coarse, fine)
    assert np.all(fine[:, 1] < 5e-3), fine


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["reflecting", "absorbing"])
def test_second_order_at_oblique_sides(boundary):
    """A reflecting side turns the drift and the missing hops; an absorbing one lies half a hop away."""

    def value(n):
        grid = rxs.Grid(0, 1, (n, n), boundary=boundary)
        W = rxs.FokkerPlanck(lambda x: jnp.stack([2 - 3 * x[1], 1 - x[0]]), D, grid)
        if boundary == "absorbing":
            return jnp.mean(jnp.linalg.solve(W.as_matrix().T, -jnp.ones(n * n)))
        p = jnp.linalg.solve(W.as_matrix().at[0].set(1 / n**2), jnp.zeros(n * n).at[0].set(1))
        return jnp.mean(p * grid.points[..., 0].ravel())

    values = [float(jax.jit(value, static_argnums=0)(n)) for n in (9, 18, 36)]
    assert 1.75 < np.log2((values[0] - values[1]) / (values[1] - values[2])) < 2.25, values


@pytest.mark.slow
def test_splitting_keeps_order_mass_and_positivity():
    """Against uniformisation on the same grid, whose time error is none."""
    grid = rxs.Grid(0, 2 * jnp.pi, (10, 10), boundary=["periodic", "reflecting"])
    p0 = grid.normalize(jnp.zeros((10, 10)).at[3, 0].set(1.0))
    solver = rxs.Strang()

    @jax.jit
    def run():
        W = rxs.FokkerPlanck(lambda x: jnp.stack([jnp.sin(x[1]), jnp.cos(x[0])]), wave_tensor, grid, rxs.Ito())
        term = rxs.GeneratorTerm(W)

        def steps(n, t):
            state = solver.init(term, 0.0, t / n, p0, None)
            body = lambda i, c: solver.step(term, 0.0, t / n, c[0], None, c[1], False)[:4:3]
            return jax.lax.fori_loop(0, n, body, (p0, state))[0]

        exact = rxs.uniformization(W, p0, jnp.array([0.0, 0.4]), differentiate="forward")[0][1]
        return exact, [steps(n, 0.4) for n in (16, 32)], steps(3, 300.0)

    with rxs.checks_off():
        exact, (coarse, fine), long = run()
    errors = [float(jnp.sum(jnp.abs(p - exact))) for p in (coarse, fine)]
    assert 2.7 < np.log2(errors[0] / errors[1]) < 3.3, errors
    for p in (coarse, fine, long):
        assert jnp.min(p) >= 0 and abs(grid.integrate(p) - 1) < 1e-13
    uneven = rxs.FokkerPlanck(jnp.zeros(2), D, rxs.Grid(0, 1, (6, 5), boundary="periodic"))
    with pytest.raises(ValueError, match="do not close after one turn.  Use Uniformization"):
        uneven.lines()
    jumps = rxs.MasterEquation.from_edges([0], [1], 1.0, 2)
    with pytest.raises(ValueError, match="`method` must not be Strang"):
        rxs.solve(jumps, jnp.ones(2) / 2, jnp.array([0.0, 1.0]), method=rxs.Strang())
    with pytest.raises(ValueError, match="hops along diagonals too"):
        _ = uneven.rates


def test_degenerate_noise_in_phase_space():
    """`dx = v dt, dv = (-x - v) dt + sqrt(2 kT) dW`: Gibbs' law, first order in h along x, and finite gradients."""
    kT = 0.5

    def stationary(friction, n):
        grid = rxs.Grid(-4, 4, (n, n))
        force = lambda y: jnp.stack([y[1], -y[0] - friction * y[1]])
        W = rxs.FokkerPlanck(force, friction * jnp.array([0.0, kT]), grid)
        p = jnp.linalg.solve(W.as_matrix().at[0].set(grid.cell_volume), jnp.zeros(n * n).at[0].set(1))
        return moments(grid, p.reshape(n, n))[2:]

    # An odd number of cells has faces on which nothing moves: neither drift nor noise.
    coarse, fine = (np.asarray(jax.jit(stationary, static_argnums=1)(1.0, n)) for n in (23, 46))
    exact = np.array([kT, 0.0, kT])
    errors = np.abs(coarse - exact)[[0, 2]], np.abs(fine - exact)[[0, 2]]
    assert np.all((1.5 < errors[0] / errors[1]) & (errors[0] / errors[1] < 2.6)), (coarse, fine)
    np.testing.assert_array_less(np.abs(2 * fine - coarse - exact)[[0, 2]], errors[1] / 3)
    slope = jax.jit(jax.jacfwd(stationary), static_argnums=1)(1.0, 11)
    assert np.all(np.isfinite(slope)) and np.max(np.abs(slope)) > 1e-3


def test_entropy_is_infinite_under_ito_where_an_off_diagonal_changes_sign():
    grid = rxs.Grid(0, 2 * jnp.pi, (6, 6), boundary="periodic")
    produced = lambda convention: rxs.entropy_production(
        rxs.FokkerPlanck(jnp.zeros(2), wave_tensor, grid, convention), jnp.full((6, 6), 1 / (2 * jnp.pi) ** 2)
    )
    assert np.isinf(produced(rxs.Ito())) and abs(produced(rxs.AntiIto())) < 1e-12


def test_refusals():
    square, flat = rxs.Grid(0, 1, (6, 6)), rxs.Grid(0, 1, (6, 12))
    narrow = lambda c: jnp.array([[1.0, 0.0], [0.0, 0.25]]) + c * jnp.array([[0.0, 1.0], [1.0, 0.0]])
    make = lambda tensor, grid=square, **k: rxs.FokkerPlanck(jnp.zeros(2), tensor, grid, **k)
    # Rank one: the limit in the right cells, where nothing is left to the axes.
    np.testing.assert_allclose(jax.jit(lambda: make(narrow(0.5), flat).axis_rates[0].up)(), 0, atol=1e-12)
    assert_refused(
        [
            (lambda c: make(narrow(c)).outflow(), 0.3, "is more anisotropic than the cells.*h_i/h_j = sqrt", 0.2),
            (lambda c: make(lambda x: narrow(c * x[0]), convention=rxs.Ito()).outflow(), 0.3, "more anisotropic", 0.2),
            (lambda c: make(narrow(0.1).at[0, 1].set(c)).outflow(), 0.2, "is not symmetric", 0.1),
            (lambda c: make(narrow(0.0).at[0, 0].set(c)).outflow(), -1.0, "has a negative diagonal", 1.0),
            (lambda c: make(narrow(c)).outflow(), np.nan, "is not finite", 0.2),
        ]
    )
    for bad, words in [
        (lambda: make(jnp.ones((2, 3))), r"`diffusion` must be a scalar or have shape \(2,\), .* or \(2, 2\)"),
        (lambda: make(None), "`diffusion` must be given or `noise`"),
        (lambda: make(1.0, noise=1.0), "`diffusion` must be given or `noise`"),
        (lambda: make(None, noise=jnp.ones((3, 2))), r"`noise` must be a scalar or have shape \(2,\) or \(2, m\)"),
        (lambda: make(None, noise=lambda x: x), "`convention` must be Ito"),
        (
            lambda: make(wave_tensor, convention=rxs.Stratonovich()),
            "`convention` must be Ito.. or AntiIto.. for a tensor",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            bad()
