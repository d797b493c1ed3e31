"""Diffusions with closed-form observables at any time.

Each system says how to build its generator from a vector of parameters, which observables it has, and their exact
values as a function of the same parameters, so that gradients are compared too.  Initial densities are cell averages
of Gaussians of width `s`: their second moment is `s^2 + h^2/12`, which the exact values take into account only where
it matters at the tolerance given.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from jaxtyping import Array, Float

import rxjax_solvers as rxs


class System(eqx.Module):
    """`generator(params)`, `p0`, `ts`; `observe(grid, ps)` against `exact(params)`, shape (times, observables)."""

    params: eqx.AbstractClassVar[tuple[float, ...]]
    ts: eqx.AbstractClassVar[tuple[float, ...]]
    cells: eqx.AbstractClassVar[int]
    tolerance: eqx.AbstractClassVar[float]

    @abc.abstractmethod
    def grid(self, cells: int) -> rxs.Grid: ...

    @abc.abstractmethod
    def generator(self, params: Float[Array, "k"], grid: rxs.Grid) -> rxs.AbstractGenerator: ...

    @abc.abstractmethod
    def p0(self, grid: rxs.Grid) -> Float[Array, "*shape"]: ...

    @abc.abstractmethod
    def observe(self, grid: rxs.Grid, p: Float[Array, "*shape"]) -> Float[Array, "n"]: ...

    @abc.abstractmethod
    def exact(self, params: Float[Array, "k"]) -> Float[Array, "times n"]: ...

    def solved(self, params: Float[Array, "k"], cells: int, **options) -> Float[Array, "times n"]:
        grid = self.grid(cells)
        times = jnp.concatenate([jnp.zeros(1), jnp.array(self.ts)])
        solution = rxs.solve(self.generator(params, grid), self.p0(grid), times, **options)
        return jax.vmap(lambda p: self.observe(grid, p))(solution.ps[1:])


def _moments(grid: rxs.Grid, p: Array) -> Array:
    x = grid.axes[0]
    mean = grid.integrate(x * p)
    return jnp.array([mean, grid.integrate((x - mean) ** 2 * p)])


class OrnsteinUhlenbeck(System):
    """`dX = -k X dt + sqrt(2D) dW` from 2: mean `2 e^-kt`, variance `D/k (1 - e^-2kt) + s^2 e^-2kt`."""

    params: ClassVar[tuple[float, ...]] = (1.0, 0.5)
    ts: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)
    cells: ClassVar[int] = 240
    tolerance: ClassVar[float] = 1e-3
    width: ClassVar[float] = 0.15

    def grid(self, cells):
        return rxs.Grid(-5, 5, cells)

    def generator(self, params, grid):
        return rxs.FokkerPlanck(lambda x: -params[0] * x, params[1], grid)

    def p0(self, grid):
        return grid.gaussian(2, self.width)

    def observe(self, grid, p):
        return _moments(grid, p)

    def exact(self, params):
        k, d = params
        t = jnp.array(self.ts)
        decay = jnp.exp(-2 * k * t)
        return jnp.stack([2 * jnp.exp(-k * t), d / k * (1 - decay) + self.width**2 * decay], axis=1)


class RotationalOrnsteinUhlenbeck(System):
    """`dX = -A X dt + sqrt(2 diag(1, 1/4)) dW`, `A = [[1, w], [-w, 1]]`: means and covariances, by Lyapunov."""

    params: ClassVar[tuple[float, ...]] = (2.0,)
    ts: ClassVar[tuple[float, ...]] = (0.3, 0.8)
    cells: ClassVar[int] = 96
    tolerance: ClassVar[float] = 6e-3
    width: ClassVar[float] = 0.4

    def grid(self, cells):
        return rxs.Grid(-4.5, 4.5, (cells, cells))

    def generator(self, params, grid):
        a = jnp.array([[1.0, 0.0], [0.0, 1.0]]) + params[0] * jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        return rxs.FokkerPlanck(lambda x: -a @ x, jnp.array([1.0, 0.25]), grid)

    def p0(self, grid):
        return grid.gaussian(jnp.array([1.0, -0.5]), self.width)

    def observe(self, grid, p):
        x, y = jnp.moveaxis(grid.points, -1, 0)
        mx, my = grid.integrate(x * p), grid.integrate(y * p)
        moments = [(x - mx) ** 2, (x - mx) * (y - my), (y - my) ** 2]
        return jnp.array([mx, my, *(grid.integrate(m * p) for m in moments)])

    def exact(self, params):
        a = jnp.eye(2) + params[0] * jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        big = jnp.kron(a, jnp.eye(2)) + jnp.kron(jnp.eye(2), a)
        limit = jnp.linalg.solve(big, jnp.array([2.0, 0.0, 0.0, 0.5])).reshape(2, 2)

        def at(t):
            # `exp(-A t)`, for what turns commutes with what decays.
            cos, sin = jnp.cos(params[0] * t), jnp.sin(params[0] * t)
            decay = jnp.exp(-t) * jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
            m = decay @ jnp.array([1.0, -0.5])
            c = limit + decay @ (self.width**2 * jnp.eye(2) - limit) @ decay.T
            return jnp.stack([m[0], m[1], c[0, 0], c[0, 1], c[1, 1]])

        return jax.lax.map(at, jnp.array(self.ts))


class ForcedRing(System):
    """Uniform force on a ring: the first Fourier mode turns with velocity `F` and decays with `D`."""

    params: ClassVar[tuple[float, ...]] = (0.7, 0.2)
    ts: ClassVar[tuple[float, ...]] = (0.5, 2.0, 40.0)
    cells: ClassVar[int] = 192
    tolerance: ClassVar[float] = 1e-3
    width: ClassVar[float] = 0.3

    def grid(self, cells):
        return rxs.Grid(0, 2 * jnp.pi, cells, boundary="periodic")

    def generator(self, params, grid):
        return rxs.FokkerPlanck(params[:1], params[1], grid)

    def p0(self, grid):
        return grid.gaussian(0.5, self.width)

    def observe(self, grid, p):
        x = grid.axes[0]
        return jnp.array([grid.integrate(jnp.cos(x) * p), grid.integrate(jnp.sin(x) * p)])

    def exact(self, params):
        f, d = params
        t = jnp.array(self.ts)
        size = jnp.exp(-d * t - self.width**2 / 2)
        return jnp.stack([size * jnp.cos(0.5 + f * t), size * jnp.sin(0.5 + f * t)], axis=1)


class AbsorbingInterval(System):
    """Brownian motion on (-1, 1), absorbed at both ends, from 0: the survival probability's sine series."""

    params: ClassVar[tuple[float, ...]] = (0.5,)
    ts: ClassVar[tuple[float, ...]] = (0.25, 1.0, 2.0)
    cells: ClassVar[int] = 201
    tolerance: ClassVar[float] = 2e-4
    width: ClassVar[float] = 0.02

    def grid(self, cells):
        return rxs.Grid(-1, 1, cells, boundary="absorbing")

    def generator(self, params, grid):
        return rxs.FokkerPlanck(jnp.zeros(1), params[0], grid)

    def p0(self, grid):
        return grid.gaussian(0, self.width)

    def observe(self, grid, p):
        return grid.integrate(p)[None]

    def exact(self, params):
        n = jnp.arange(40.0)[None]
        k = (2 * n + 1) * jnp.pi / 2
        t = jnp.array(self.ts)[:, None]
        modes = 2 * (-1.0) ** n / k * jnp.exp(-(k**2) * (params[0] * t + self.width**2 / 2))
        return jnp.sum(modes, axis=1, keepdims=True)


class ReflectingWall(System):
    """Drift -1 towards a reflecting wall at 0, from 1: the density at the wall and the mean, D = 1.

    The exact values are integrals of the known image solution over the initial Gaussian, by quadrature.
    """

    params: ClassVar[tuple[float, ...]] = (1.0,)
    ts: ClassVar[tuple[float, ...]] = (0.5, 2.0)
    cells: ClassVar[int] = 320
    tolerance: ClassVar[float] = 2e-3
    width: ClassVar[float] = 0.06

    def grid(self, cells):
        return rxs.Grid(0, 12, cells)

    def generator(self, params, grid):
        return rxs.FokkerPlanck(-jnp.ones(1), params[0], grid)

    def p0(self, grid):
        return grid.gaussian(1, self.width)

    def observe(self, grid, p):
        # The wall lies half a cell before the first centre: extrapolate in a straight line.
        return jnp.array([p[0] + (p[0] - p[1]) / 2, grid.integrate(grid.axes[0] * p)])

    @staticmethod
    def density(x, x0, t, d):
        """Smoluchowski's solution for drift -1 and diffusion d with a reflecting wall at 0."""
        norm = lambda z: jnp.exp(-(z**2) / (4 * d * t)) / jnp.sqrt(4 * jnp.pi * d * t)
        free = norm(x - x0 + t)
        image = jnp.exp(x0 / d) * norm(x + x0 + t)
        wall = jsp.special.erfc((x + x0 - t) / jnp.sqrt(4 * d * t)) * jnp.exp(-x / d) / (2 * d)
        return free + image + wall

    def exact(self, params):
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        nodes, weights = jnp.asarray(nodes), jnp.asarray(weights / weights.sum())
        x0 = 1 + self.width * nodes
        x = jnp.linspace(0, 12, 6001)

        def at(t):
            p = jnp.einsum("i,ij->j", weights, self.density(x[None], x0[:, None], t, params[0]))
            return jnp.stack([p[0], jnp.trapezoid(x * p, x)])

        return jax.lax.map(at, jnp.array(self.ts))


class DrivenOrnsteinUhlenbeck(System):
    """`b = -(x - cos 2t)`: the mean follows with amplitude 1/sqrt(5) and phase lag arctan 2, whatever D."""

    params: ClassVar[tuple[float, ...]] = (0.3, 2.0)
    ts: ClassVar[tuple[float, ...]] = (0.7, 3.0)
    cells: ClassVar[int] = 160
    tolerance: ClassVar[float] = 2e-3
    width: ClassVar[float] = 0.3

    def grid(self, cells):
        return rxs.Grid(-4, 4, cells)

    def generator(self, params, grid):
        return rxs.FokkerPlanck(rxs.TimeDependent(lambda t, x: jnp.cos(params[1] * t) - x), params[0], grid)

    def p0(self, grid):
        return grid.gaussian(0.5, self.width)

    def observe(self, grid, p):
        return grid.integrate(grid.axes[0] * p)[None]

    def exact(self, params):
        w = params[1]
        t = jnp.array(self.ts)
        steady = lambda s: (jnp.cos(w * s) + w * jnp.sin(w * s)) / (1 + w**2)
        return (steady(t) + (0.5 - steady(0.0)) * jnp.exp(-t))[:, None]
