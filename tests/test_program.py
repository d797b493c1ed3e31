"""Verbs read what a user's function reads each time, and trace it once as long as that is the same."""

import dataclasses
import functools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax as rx
import rxjax_solvers as rxs
from rxjax.landscapes import as_landscape, evaluate

SETTINGS: dict[str, Any] = {"stiffness": 1.0}
STIFFNESS: Any = 1.0


def bowl(theta):
    return STIFFNESS * jnp.sum(theta**2)


class Bowl:
    """A bowl whose stiffness is an attribute, and another whose is that of an object inside."""

    def __init__(self):
        self.stiffness: Any = 1.0

    def __call__(self, theta):
        return self.stiffness * jnp.sum(theta**2)


class Module(eqx.Module):
    """A module whose method calls a function that reads a global."""

    power: jnp.ndarray

    def __call__(self, theta):
        return bowl(theta) ** self.power


def readers():
    """Functions that read one number from where users keep them, and how to set it to another."""
    held, nested = Bowl(), Bowl()
    own: Any = 1.0

    def enclosed(theta):
        return own * jnp.sum(theta**2)

    def enclose(value):
        nonlocal own
        own = value

    def set_global(value):
        global STIFFNESS
        STIFFNESS = value

    entry = functools.partial(SETTINGS.__setitem__, "stiffness")
    return {
        "global": (bowl, set_global),
        "called": (lambda theta: bowl(theta), set_global),
        "landscape": (as_landscape(bowl, 2), set_global),
        "library": (rxs.TimeDependent(lambda t, theta: t * bowl(theta)).at(1.0), set_global),
        "module": (Module(jnp.array(1.0)), set_global),
        "enclosed": (enclosed, enclose),
        "attribute": (held, functools.partial(setattr, held, "stiffness")),
        "method": (held.__call__, functools.partial(setattr, held, "stiffness")),
        "partial": (
            functools.partial(lambda at, theta: at(theta), nested),
            functools.partial(setattr, nested, "stiffness"),
        ),
        "entry": (lambda theta: SETTINGS["stiffness"] * jnp.sum(theta**2), entry),
    }


@pytest.mark.parametrize("name", readers())
def test_what_a_function_reads_is_read_again(name):
    fn, change = readers()[name]
    points = jnp.array([[1.0, 2.0]])
    for value in (1.0, 3.0, jnp.array(2.0), 1.0):
        change(value)
        np.testing.assert_allclose(evaluate(fn, points), 5.0 * np.asarray(value))


def test_measurements_read_again():
    """The noise of a network's loss follows a number that the loss reads."""
    scale = 1.0
    loss = lambda w, x: scale * jnp.mean(w * x)
    data = jnp.array([1.0, 2.0, 4.0, 5.0])
    first = rx.measure.gradient_noise(loss, jnp.array(1.0), data).trace.value
    scale = 3.0
    np.testing.assert_allclose(rx.measure.gradient_noise(loss, jnp.array(1.0), data).trace.value, 9 * first)


def test_coefficients_of_time_read_again():
    """Those around which a convention or a potential has put a function of ours, too."""
    scale: Any = 1.0
    grid = rx.solvers.Grid(-2.0, 2.0, 4)
    traced = np.zeros((), int)

    def noise(t, theta):
        traced[...] += 1
        return scale * jnp.ones(1)

    noisy = rx.solvers.TimeDependent(noise)
    W = rx.solvers.FokkerPlanck(lambda theta: -theta, None, grid, rx.solvers.Stratonovich(), noise=noisy)
    p0, ts = grid.gaussian(0.0, 1.0), jnp.array([0.0, 0.1])
    steps: Any = dict(method=diffrax.Euler(), dt0=0.05, stepsize_controller=diffrax.ConstantStepSize())
    end = lambda: rx.solvers.solve(W, p0, ts, **steps).ps[-1]
    first, once = end(), int(traced)
    end()
    assert traced == once
    scale = 2.0
    wider = end()
    assert wider[0] > 1.1 * first[0]
    scale = 1.0
    np.testing.assert_allclose(end(), first)


def test_nothing_is_traced_twice_while_nothing_changes():
    traced = np.zeros((), int)
    held = {"one": np.ones(2), "two": 2.5}

    def fn(theta):
        # In place, which is not seen: a list would be another one after each trace.
        traced[...] += 1
        return jnp.sum(theta * held["one"]) * held["two"]

    points = jnp.ones((3, 2))
    for factor in (1.0, 2.0, 3.0):
        held["two"] = 2.5 + 0 * factor
        evaluate(fn, factor * points)
    assert traced == 1
    held["one"] = np.ones(2)
    evaluate(fn, points)
    assert traced == 2


@dataclasses.dataclass
class Record:
    """A callable that compares by value, and so has no hash."""

    stiffness: Any = 1.0

    def __call__(self, theta):
        return self.stiffness * jnp.sum(theta**2)


def test_a_callable_without_a_hash():
    held, points = Record(), jnp.array([[1.0, 2.0]])
    for fn in (held, as_landscape(held, 2)):
        for value in (1.0, 3.0):
            held.stiffness = value
            np.testing.assert_allclose(evaluate(fn, points), 5 * value)


def test_planes_read_again():
    """What is measured on a plane, runs on it and questions about them follow what losses and regions read."""
    scale, wall = 1.0, 2.5
    data = jnp.array([[1.0, 0.0], [-1.0, 2.0]])
    loss = lambda p, x: scale * jnp.sum((p - x) ** 2)
    inside, source, target = lambda theta: theta[0] <= wall, lambda theta: theta[0] > wall, lambda theta: theta[0] > 1
    mean = lambda p: jnp.mean(jnp.stack([loss(p, x) for x in data]))
    surface = rx.landscapes.plane(mean, jnp.zeros(2), [jnp.array([1.0, 0.0])])
    h = rx.Hyperparameters(0.1, 1, 2)
    walk = rx.planes.PlaneRuns(jnp.arange(3), jnp.arange(3.0), jnp.arange(3.0)[:, None, None], jnp.zeros((3, 1)))

    def answers():
        measured = rx.planes.measure_plane(surface, loss, data, shape=2)
        runs = rx.planes.sgd_on_plane(surface, loss, data, jnp.zeros(2), h, 2, jax.random.key(0), runs=1)
        exits = rx.planes.exit_time(walk, inside), rx.planes.first_reached(walk, source, target)
        return measured.sigma1[0, 0, 0], runs.coordinates[1, 0, 0], exits[0].value, exits[1].value

    before = answers()
    scale, wall = 2.0, 0.5
    np.testing.assert_allclose(answers(), np.array([4 * before[0], 2 * before[1], 1.0, 0.0]))
    assert before[2:] == (np.inf, 1.0)
