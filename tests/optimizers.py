"""Every optimizer of the package, as the battery builds it, and a loss over a tree of every kind of leaf."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

import rxjax as rx

RATE = rx.optim
# Programs of a few scalars, run a few times: compiling them well costs more than running them.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _schedule(params):
    # optax multiplies by an injected rate in the rate's dtype, and has no default for dtypes that do not nest.
    injected = optax.inject_hyperparams(optax.sgd, hyperparam_dtype=jnp.dtype(jnp.float32))
    back: Any = lambda u, p: u.astype(p.dtype)
    cast = optax.stateless_with_tree_map(back)
    return optax.chain(injected(RATE.RateSchedule(params, total_steps=100)), cast)


OPTIMIZERS = {
    "rate_control": lambda params: RATE.rate_control(optax.adam(1.0), 100),
    "rate_adamw": lambda params: RATE.rate_adamw(),
    "rate_sgd": lambda params: RATE.rate_sgd(100, momentum=0.9),
    "scale_by_reaction_rate": lambda params: optax.chain(optax.scale_by_adam(), RATE.scale_by_reaction_rate(100)),
    "rate_schedule": _schedule,
    "batch_controller": lambda params: RATE.batch_controller(RATE.rate_adamw(), 8, k_max=2, rule="norm_test"),
    "anneal_temperature": lambda params: optax.chain(
        optax.sgd(0.1), RATE.anneal_temperature(RATE.geometric_temperature(1.0, 0.1, 50))
    ),
    "langevin": lambda params: RATE.langevin(0.01, 1e-4, 0),
    "preconditioned_langevin": lambda params: RATE.preconditioned_langevin(0.01, 1e-4, 0, adapt_steps=5),
    "optimal_learning_rate": lambda params: RATE.optimal_learning_rate(2),
}
# Optimizers of others around a part of ours: their own accumulators and guards are not ours to promise.
FOREIGN = ("scale_by_reaction_rate", "rate_schedule", "anneal_temperature")
WITH_RATE = ("rate_control", "rate_adamw", "rate_sgd", "scale_by_reaction_rate", "rate_schedule")


def small():
    """Two float32 leaves."""
    return {"a": jnp.arange(1, 9, dtype=jnp.float32) / 8, "b": jnp.array([[0.5, -1.0]], jnp.float32)}


def every_leaf():
    """Four floating dtypes, a complex leaf, `None` and an empty branch."""
    ramp = jnp.linspace(0.5, 1.5, 8)
    dtypes = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
    tree = {jnp.dtype(t).name: ramp.astype(t) for t in dtypes}
    return {**tree, "complex": jax.lax.complex(ramp[:3], -ramp[:3]).astype(jnp.complex64), "none": None, "empty": {}}


def loss(params):
    """The squared distance from 0.25 of every number, as float32."""
    wide = lambda x: x if jnp.iscomplexobj(x) else x.astype(jnp.float32)
    parts = [jnp.sum(jnp.abs(wide(x) - 0.25) ** 2).astype(jnp.float32) for x in jax.tree.leaves(params)]
    return jnp.sum(jnp.stack(parts)) if parts else jnp.zeros((), jnp.float32)


def gradient(params):
    """The direction of ascent: complex gradients conjugated, as optax wants them."""
    return jax.tree.map(jnp.conj, jax.grad(loss)(params))


def extras(grads, last):
    """What some optimizers need; the others must ignore it."""
    return {"grad": grads, "update": last, "value_fn": loss, "of_no_use": 1}
