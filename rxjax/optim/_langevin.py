"""Langevin dynamics: gradient steps with noise of a given temperature, whose law is the Gibbs density of the loss."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, PyTree

from rxjax_solvers._checks import is_traced

from ._arguments import check_setting, need_params
from ._wide import cast_like, check_floating, safe_root, scalar_dtype, select, square, widened, zeros

# Arrays of up to so many numbers share one draw, which is in memory beside them.
_SMALL = 2**16


class LangevinState(NamedTuple):
    """State of [`langevin`][] and [`preconditioned_langevin`][]."""

    langevin_steps: Array  # shape=(), dtype=int32
    skipped: Array  # shape=(), dtype=int32: steps skipped because the gradient was not finite
    key_data: Array  # shape=(n,), dtype=uint32: the key, the same throughout
    temperature: Array  # shape=(), dtype=float32 or wider: kT of the last step
    noise: PyTree  # like the parameters, float32 or wider: the normal numbers that the next step shares
    second_moment: PyTree  # like the parameters, real, float32 or wider, for an adaptive preconditioner; else None


def langevin(
    learning_rate: ArrayLike | Callable,
    temperature: ArrayLike | Callable,
    key: Array | int,
    *,
    preconditioner: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Overdamped Langevin dynamics with the stationary law $e^{-L/kT}$.

    $$\delta_n = -\eta P g_n + \sqrt{2\eta\, kT\, P}\; \tfrac12 (z_n + z_{n+1}), \qquad z_n \sim N(0, I).$$

    Neighbouring steps share half of their noise (Leimkuhler and Matthews): the variance is then exact on any quadratic
    loss for $\eta h < 2$, $h$ the largest curvature of $P^{1/2} H P^{1/2}$, and the error of averages elsewhere is of
    second order in $\eta$, where independent noise has $\eta h/2$.

    **Arguments:**

    - `learning_rate`: $\eta > 0$, a number or an optax schedule.
    - `temperature`: $kT \geq 0$ in the units of the loss, a number or a schedule such as [`geometric_temperature`][].
    - `key`: a JAX key, or a seed for one.  Different runs need different keys.
    - `preconditioner`: $P$, a tree of positive numbers like the parameters (or a number), constant.  It changes the
      speed along each axis and not the law.

    `update` needs `params`, for their dtype.  A step with a gradient that is not finite is skipped and counted.

    **Returns:** a transformation with a [`LangevinState`][].

    Good values: $\eta h \leq 0.2$; to cross a barrier $E_b$ allow $e^{E_b/kT}/(\eta h)$ steps.  How it fails: the law
    is that of the loss whose EXACT gradient is given.  Mini-batch noise heats by another $(\eta/2)\,\mathrm{tr}\,C/d$
    a parameter; see `rx.effective_temperature`.

    **Raises:** `ValueError` for a number out of its range and for missing `params`.

    ```python
    >>> import jax, jax.numpy as jnp, optax, rxjax as rx
    >>> sampler = rx.optim.langevin(0.1, temperature=0.5, key=0)
    >>> def step(carry, _):
    ...     x, state = carry
    ...     updates, state = sampler.update(2 * x, state, x)  # the loss x^2
    ...     return (optax.apply_updates(x, updates), state), x
    >>> x = jnp.zeros(500)
    >>> _, xs = jax.lax.scan(step, (x, sampler.init(x)), length=200)
    >>> print(xs[100:].var().round(2))  # kT over the curvature 2
    0.25

    ```

    Source: Leimkuhler and Matthews, "Rational construction of stochastic numerical methods for molecular sampling"
    (2013).
    """
    _check(learning_rate, temperature)
    if preconditioner is not None:
        for x in jax.tree.leaves(preconditioner):
            if not is_traced(x) and not bool(jnp.all(jnp.asarray(x) > 0)):
                raise ValueError("Argument `preconditioner` must be positive everywhere, but it is not.")

    def scale(state: LangevinState, g: PyTree) -> tuple[PyTree, PyTree]:
        p = 1.0 if preconditioner is None else preconditioner
        if jax.tree.structure(p) == jax.tree.structure(0):
            return jax.tree.map(lambda x: jnp.asarray(p, jnp.finfo(x.dtype).dtype), g), None
        return jax.tree.map(lambda q, x: jnp.asarray(q, jnp.finfo(x.dtype).dtype), p, g), None

    return _build("langevin", learning_rate, temperature, key, scale, lambda params: None)


def preconditioned_langevin(
    learning_rate: ArrayLike | Callable,
    temperature: ArrayLike | Callable,
    key: Array | int,
    *,
    adapt_steps: ArrayLike,
    decay: ArrayLike = 0.99,
    eps: ArrayLike = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin dynamics preconditioned by the size of each gradient, with the stationary law $e^{-L/kT}$.

    The steps of [`langevin`][] with $P_i = 1/(\sqrt{v_i} + \epsilon)$, $v$ the moving average of $|g_i|^2$ as in
    RMSprop.  A preconditioner that moves with the state would need a drift of its own (its divergence) and without it
    samples another law; here $v$ adapts for `adapt_steps` steps and is then frozen, so that the law is exact.

    **Arguments:**

    - `learning_rate`, `temperature`, `key`: as in [`langevin`][].  With $P$ of order $1/|g_i|$ the rate has the
      units of the parameters, as that of RMSprop.
    - `adapt_steps`: steps during which $v$ follows the gradients; discard the samples of these.
    - `decay`: of the moving average, in $[0, 1)$; debiased.
    - `eps`: $\epsilon > 0$, in the units of the gradient; it bounds $P$ where gradients vanish.

    **Returns:** a transformation with a [`LangevinState`][].

    Good values: `adapt_steps` of several times $1/(1 - \text{decay})$, begun where gradients are typical of the whole
    region to be sampled.  How it fails: frozen at a place that is flat along one axis, it steps too far along that axis
    everywhere else.

    **Raises:** `ValueError` for a number out of its range and for missing `params`.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> sampler = rx.optim.preconditioned_langevin(0.01, temperature=0.0, key=0, adapt_steps=100)
    >>> params = jnp.array([1.0, 100.0])
    >>> updates, state = sampler.update(params, sampler.init(params), params)
    >>> print(updates.round(4))
    [-0.01 -0.01]

    ```

    Source: Li et al., "Preconditioned stochastic gradient Langevin dynamics" (2016), who leave the drift out.
    """
    _check(learning_rate, temperature)
    check_setting(adapt_steps, "adapt_steps", 1.0, closed=True)
    check_setting(decay, "decay", 0.0, 1.0, closed=True)
    check_setting(eps, "eps")

    def scale(state: LangevinState, g: PyTree) -> tuple[PyTree, PyTree]:
        t = state.langevin_steps
        last = jnp.asarray(adapt_steps).astype(jnp.int32)
        adapting, seen = t < last, jnp.minimum(t + 1, last)

        def moment(v: Array, x: Array) -> Array:
            b = jnp.asarray(decay, v.dtype)
            return jnp.where(adapting, b * v + (1 - b) * (x * x.conj()).real, v)

        def invert(v: Array) -> Array:
            b = jnp.asarray(decay, v.dtype)
            return 1 / (safe_root(v / (1 - b ** seen.astype(v.dtype))) + jnp.asarray(eps, v.dtype))

        second = jax.tree.map(moment, state.second_moment, g)
        return jax.tree.map(invert, second), second

    real_zeros = lambda params: jax.tree.map(lambda x: x.real + 0, zeros(params))
    return _build("preconditioned_langevin", learning_rate, temperature, key, scale, real_zeros)


def _check(learning_rate: ArrayLike | Callable, temperature: ArrayLike | Callable) -> None:
    if not callable(learning_rate):
        check_setting(learning_rate, "learning_rate")
    if not callable(temperature):
        check_setting(temperature, "temperature", closed=True)


def _build(
    who: str,
    learning_rate: ArrayLike | Callable,
    temperature: ArrayLike | Callable,
    key: Array | int,
    scale: Callable[[LangevinState, PyTree], tuple[PyTree, PyTree]],
    second_moment: Callable[[PyTree], PyTree],
) -> optax.GradientTransformationExtraArgs:
    """The transformation, given how to find the preconditioner from state and gradient."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jr.key(key) if jnp.ndim(key) == 0 else jr.wrap_key_data(jnp.asarray(key))
    implementation = jr.key_impl(key)

    def draw(data: Array, count: Array, tree: PyTree) -> PyTree:
        """Standard normal numbers for one step: two independent ones for a complex parameter."""
        base = jr.fold_in(jr.wrap_key_data(data, impl=implementation), count)
        leaves, structure = jax.tree.flatten(tree)
        scale = lambda x: x * jnp.asarray(2**0.5 if jnp.iscomplexobj(x) else 1, x.dtype)
        return jax.tree.unflatten(structure, map(scale, _normal(base, leaves)))

    def init(params: PyTree) -> LangevinState:
        check_floating(params, "params")
        none = lambda: jnp.zeros((), jnp.int32)
        # A copy: the state can be donated, the key is the user's.
        data = jr.key_data(key) + 0
        first = draw(data, none(), zeros(params))
        return LangevinState(none(), none(), data, jnp.zeros((), scalar_dtype(params)), first, second_moment(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args) -> tuple[PyTree, LangevinState]:
        del extra_args
        params = need_params(params, who)
        g = widened(updates)
        t = state.langevin_steps
        dtype = state.temperature.dtype
        value = lambda x: jnp.asarray(x(t) if callable(x) else x).astype(dtype)
        eta, kt = value(learning_rate), value(temperature)
        p, second = scale(state, g)
        following = draw(state.key_data, t + 1, g)

        def move(x: Array, q: Array, now: Array, then: Array) -> Array:
            e, k = eta.astype(q.dtype), kt.astype(q.dtype)
            return -(e * q).astype(x.dtype) * x + (jnp.sqrt(2 * e * k * q) / 2).astype(x.dtype) * (now + then)

        finite = jnp.isfinite(square(g, dtype))
        moved = jax.tree.map(move, g, p, state.noise, following)
        moved = jax.tree.map(lambda x: jnp.where(finite, x, 0), moved)
        new = LangevinState(t + 1, state.skipped, state.key_data, kt, following, second)
        new = select(finite, new, state)
        skipped = state.skipped + jnp.where(finite, 0, 1).astype(jnp.int32)
        return cast_like(moved, params), new._replace(skipped=skipped)

    return optax.GradientTransformationExtraArgs(init, update)


def _normal(key: Array, leaves: list[Array]) -> list[Array]:
    """Standard normal numbers like the leaves, those of small ones at once: each generator is compiled by itself."""
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(leaves):
        groups.setdefault(i if x.size > _SMALL else x.dtype, []).append(i)
    normal: dict[int, Array] = {}
    for place, group in enumerate(groups.values()):
        own, some = jr.fold_in(key, place), [leaves[i] for i in group]
        drawn = _at_once(own, some) if len(some) > 1 else [jr.normal(own, some[0].shape, some[0].dtype)]
        normal |= zip(group, drawn, strict=True)
    return [normal[i] for i in range(len(leaves))]


def _at_once(key: Array, leaves: list[Array]) -> list[Array]:
    """Standard normal numbers like leaves of one dtype, of one draw."""
    ends = list(itertools.accumulate(x.size for x in leaves))
    # By a loop over two halves, or XLA makes them again in each array's kernel.
    half = lambda key: jr.normal(key, ((ends[-1] + 1) // 2,), leaves[0].dtype)
    parts = jnp.split(jax.lax.map(half, jr.split(key)).reshape(-1)[: ends[-1]], ends[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, leaves, strict=True)]
