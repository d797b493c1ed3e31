"""Master equations with closed-form probabilities at any time, and one with a closed-form current.

As for the diffusions, exact values are functions of the same parameters as the generator, so that gradients are
compared too.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
from jaxtyping import Array, Float

import rxjax_solvers as rxs


class JumpSystem(eqx.Module):
    """`generator(params)` without a grid, started in `start`; `exact(params)` probabilities at `ts`, (times, n)."""

    params: eqx.AbstractClassVar[tuple[float, ...]]
    ts: eqx.AbstractClassVar[tuple[float, ...]]
    start: eqx.AbstractClassVar[int]

    @abc.abstractmethod
    def generator(self, params: Float[Array, "k"]) -> rxs.MasterEquation: ...

    @abc.abstractmethod
    def exact(self, params: Float[Array, "k"]) -> Float[Array, "times n"]: ...

    @abc.abstractmethod
    def stationary(self, params: Float[Array, "k"]) -> Float[Array, "n"]: ...

    def p0(self, size: int) -> Float[Array, "n"]:
        return jnp.zeros(size).at[self.start].set(1.0)


def ladder(up: Float[Array, "n"], down: Float[Array, "n"]) -> rxs.MasterEquation:
    """States in a row: `up[i]` leads from `i` to `i + 1`, `down[i]` from `i + 1` to `i`."""
    n = np.arange(up.shape[0])
    return rxs.MasterEquation.from_edges(
        np.concatenate([n, n + 1]), np.concatenate([n + 1, n]), jnp.concatenate([up, down]), up.shape[0] + 1
    )


class ImmigrationDeath(JumpSystem):
    """`0 -> A` at rate k, `A -> 0` at rate g each, from nothing: Poisson with mean `k/g (1 - e^-gt)`."""

    params: ClassVar[tuple[float, ...]] = (10.0, 1.0)
    ts: ClassVar[tuple[float, ...]] = (0.3, 1.0)
    start: ClassVar[int] = 0
    # The Poisson law of mean 10 leaves 1e-27 beyond.
    most: ClassVar[int] = 60

    def generator(self, params):
        k, g = params
        n = jnp.arange(1.0, self.most + 1)
        return ladder(jnp.broadcast_to(k, n.shape), g * n)

    def poisson(self, mean):
        n = jnp.arange(self.most + 1.0)
        return jnp.exp(xlogy(n, mean) - mean - gammaln(n + 1))

    def exact(self, params):
        k, g = params
        return jnp.stack([self.poisson(k / g * (1 - jnp.exp(-g * t))) for t in self.ts])

    def stationary(self, params):
        return self.poisson(params[0] / params[1])


class Isomerisation(JumpSystem):
    """20 molecules A <-> B, all A at first, k1 forth and k2 back: the number of B is binomial."""

    params: ClassVar[tuple[float, ...]] = (1.0, 0.5)
    ts: ClassVar[tuple[float, ...]] = (0.5, 2.0)
    start: ClassVar[int] = 0
    molecules: ClassVar[int] = 20

    def generator(self, params):
        k1, k2 = params
        n = jnp.arange(float(self.molecules))
        return ladder(k1 * (self.molecules - n), k2 * (n + 1))

    def binomial(self, p):
        n, total = jnp.arange(self.molecules + 1.0), float(self.molecules)
        ways = gammaln(total + 1) - gammaln(n + 1) - gammaln(total - n + 1)
        return jnp.exp(ways + n * jnp.log(p) + (total - n) * jnp.log1p(-p))

    def exact(self, params):
        k1, k2 = params
        return jnp.stack([self.binomial(k1 / (k1 + k2) * (1 - jnp.exp(-(k1 + k2) * t))) for t in self.ts])

    def stationary(self, params):
        return self.binomial(params[0] / (params[0] + params[1]))


class ThreeStateCycle(JumpSystem):
    """Three states on a ring, k+ forwards and k- backwards: a steady current `(k+ - k-)/3`."""

    params: ClassVar[tuple[float, ...]] = (2.0, 1.0)
    ts: ClassVar[tuple[float, ...]] = (0.2, 0.7)
    start: ClassVar[int] = 0

    def generator(self, params):
        forwards, backwards = params
        step = jnp.roll(jnp.eye(3), 1, axis=0)
        return rxs.MasterEquation.from_matrix(forwards * (step - jnp.eye(3)) + backwards * (step.T - jnp.eye(3)))

    def exact(self, params):
        forwards, backwards = params
        j = jnp.arange(3.0)

        def at(t):
            turned = 2 * jnp.pi * j / 3 - jnp.sqrt(3.0) / 2 * (forwards - backwards) * t
            return (1 + 2 * jnp.exp(-1.5 * (forwards + backwards) * t) * jnp.cos(turned)) / 3

        return jnp.stack([at(t) for t in self.ts])

    def stationary(self, params):
        return jnp.full(3, 1 / 3)

    def current(self, params):
        return (params[0] - params[1]) / 3

    def entropy_production(self, params):
        return (params[0] - params[1]) * jnp.log(params[0] / params[1])


class ExclusionProcess(eqx.Module):
    """Open TASEP on 10 sites: particles enter at rate a, hop to the right at rate 1, leave at rate b.

    The stationary current in closed form: B. Derrida, E. Domany and D. Mukamel, J. Stat. Phys. 69, 667 (1992).
    """

    params: ClassVar[tuple[float, ...]] = (0.8, 0.6)
    sites: ClassVar[int] = 10
    # Of the process with a = b = 1.
    gap: ClassVar[float] = 0.1117159984

    def generator(self, params: Float[Array, "2"]) -> rxs.MasterEquation:
        enter, leave = params
        states = np.arange(2**self.sites)
        first, last = 1, 1 << (self.sites - 1)
        moves = [(states[states & first == 0], first, enter), (states[states & last > 0], -last, leave)]
        for site in range(self.sites - 1):
            here, right = 1 << site, 1 << (site + 1)
            moves.append((states[(states & here > 0) & (states & right == 0)], right - here, jnp.ones(())))
        source = np.concatenate([s for s, _, _ in moves])
        target = np.concatenate([s + change for s, change, _ in moves])
        rate = jnp.concatenate([jnp.broadcast_to(r, s.shape) for s, _, r in moves])
        return rxs.MasterEquation.from_edges(source, target, rate, 2**self.sites)

    def current(self, params: Float[Array, "2"], p: Float[Array, "n"]) -> Float[Array, ""]:
        """Particles entering per unit time."""
        return params[0] * jnp.sum(jnp.where(np.arange(2**self.sites) % 2 == 0, p, 0))

    def exact_current(self, params: Float[Array, "2"]) -> Float[Array, ""]:
        """For a != b."""

        def norm(n):
            p = range(1, n + 1)
            c = [k * math.factorial(2 * n - 1 - k) / math.factorial(n) / math.factorial(n - k) for k in p]
            powers = np.arange(2.0, n + 2)
            return jnp.sum(np.array(c) * ((1 / params[1]) ** powers - (1 / params[0]) ** powers))

        return norm(self.sites - 1) / norm(self.sites)


JUMP_SYSTEMS = (ImmigrationDeath(), Isomerisation(), ThreeStateCycle())
