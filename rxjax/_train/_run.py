"""A run: what it is made of, and how it gets from one step to the next."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, PyTree

from .. import optim
from .._monitor import Monitor, MonitorState
from ._tasks import TASKS, Task

# Steps of one call of the compiled program, between which the host looks at them.
CHUNK = 20
OPTIMIZERS = ("rate-adamw", "rate-sgd", "adamw", "sgd")


class Setup(NamedTuple):
    """All that decides a run, to the last bit."""

    task: str
    optimizer: str
    learning_rate: float | None
    steps: int
    batch_size: int
    seed: int
    every: int  # steps between two measurements of the monitor


class Carry(NamedTuple):
    """All that a run carries from step to step; the data of a step follow from the seed and its number."""

    step: Array  # shape=(), dtype=int32: steps made
    params: PyTree
    opt_state: Any
    monitor: MonitorState


@functools.cache
def task_of(name: str) -> Task:
    """A task, made once."""
    return TASKS[name]()


def optimizer_of(setup: Setup) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run."""
    rate: Any = setup.learning_rate
    if setup.optimizer == "rate-adamw":
        return optim.rate_adamw(setup.steps)
    if setup.optimizer == "rate-sgd":
        return optim.rate_sgd(setup.steps, momentum=0.9)
    decay = optax.cosine_decay_schedule(rate, setup.steps)
    # Injected, so that the state tells the rate.
    make: Any = optax.adamw if setup.optimizer == "adamw" else functools.partial(optax.sgd, momentum=0.9)
    return optax.with_extra_args_support(optax.inject_hyperparams(make)(decay))


def monitor_of(setup: Setup) -> Monitor:
    """The monitor of a run."""
    return Monitor(setup.batch_size, every=setup.every, lanczos_steps=8)


@functools.partial(jax.jit, static_argnums=0)
def begin(setup: Setup) -> Carry:
    """The start."""
    params = task_of(setup.task).init(jr.fold_in(jr.key(setup.seed), 0))
    return Carry(jnp.zeros((), jnp.int32), params, optimizer_of(setup).init(params), monitor_of(setup).init(params))


@functools.partial(jax.jit, static_argnums=0)
def advance(setup: Setup, data: PyTree, carry: Carry, count: Array) -> tuple[Carry, dict[str, Array]]:
    """`count` steps, `CHUNK` at most, and their metrics in the first `count` places of arrays of length `CHUNK`."""
    task, optimizer, monitor = task_of(setup.task), optimizer_of(setup), monitor_of(setup)

    def one(carry: Carry) -> tuple[Carry, dict[str, Array]]:
        # 0 is the key of the start.
        batch = task.draw(data, jr.fold_in(jr.key(setup.seed), carry.step + 1), setup.batch_size)
        loss, grads = jax.value_and_grad(task.loss)(carry.params, batch)
        updates, opt_state = optimizer.update(grads, carry.opt_state, carry.params)
        seen, metrics = monitor.update(
            carry.monitor,
            params=carry.params,
            grads=grads,
            updates=updates,
            loss=loss,
            opt_state=opt_state,
            loss_fn=task.loss,
            batch=batch,
        )
        params = optax.apply_updates(carry.params, updates)
        return Carry(carry.step + 1, params, opt_state, seen), metrics

    shapes = jax.eval_shape(one, carry)[1]
    page = jax.tree.map(lambda x: jnp.zeros((CHUNK,), x.dtype), shapes)

    def body(i, now):
        carry, metrics = one(now[0])
        return carry, jax.tree.map(lambda line, x: line.at[i].set(x), now[1], metrics)

    # A loop of dynamic length: one program, whatever the length, so that the bits do not depend on where it stops.
    return jax.lax.fori_loop(0, count, body, (carry, page))


@functools.partial(jax.jit, static_argnums=0)
def score(name: str, params: PyTree, data: PyTree, valid: PyTree) -> dict[str, Array]:
    """Loss and accuracy on the validation data, and the loss on 1000 training examples."""
    task = task_of(name)
    part = task.draw(data, jr.key(1), 1000)
    return {
        "training loss": task.loss(params, part),
        "validation loss": task.loss(params, valid),
        "validation accuracy": task.accuracy(params, valid),
    }
