"""One step as the monitor sees it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PyTree

from .._arrays import real_array
from ..optim._controller import Sums


class Step(NamedTuple):
    """What `update` was given, and the sums over it."""

    params: PyTree  # as given, to be handed to loss_fn
    theta: PyTree  # its floating arrays
    gradient: PyTree  # float32 or wider
    update: PyTree  # float32 or wider
    sums: Sums
    work: Array  # shape=(): <displacement, update>
    source: str | None  # of the noise: see _noise
    successive: list[Array]  # where that is "differences": <gradient, previous gradient> and their squared distance
    finite: Array  # shape=(), dtype=bool
    due: Array  # shape=(), dtype=bool: a measurement is to be made
    loss: Array | None
    opt_state: Any
    learning_rate: Array | None
    loss_fn: Callable | None
    batch: PyTree | None
    micro_grads: PyTree | None
    batch_size: float | int | None

    @property
    def measurable(self) -> bool:
        """Whether there is a loss to measure."""
        return self.loss_fn is not None and self.batch is not None


def moving(tree: PyTree) -> PyTree:
    """The floating arrays of a tree, `None` in place of all else."""
    return jax.tree.map(jnp.asarray, eqx.filter(tree, eqx.is_inexact_array))


def alike(tree: PyTree, theta: PyTree, name: str, leading: tuple[int, ...] = (), dtypes: bool = False) -> PyTree:
    """The floating arrays of `tree`, which must lie where those of the parameters do, with more axes in front."""
    tree = moving(tree)
    kind = lambda x, leading: (*leading, *x.shape, *([x.dtype.name] if dtypes else []))
    kinds = lambda t, leading: [(jax.tree_util.keystr(p), kind(x, leading)) for p, x in jax.tree.leaves_with_path(t)]
    found, expected = kinds(tree, ()), kinds(theta, leading)
    if found != expected:
        other, lacking = ([x for x in a if x not in b] for a, b in ((found, expected), (expected, found)))
        raise ValueError(f"Argument `{name}` must be shaped like `params`, but it has {other} and not {lacking}.")
    return jax.tree.unflatten(jax.tree.structure(theta), jax.tree.leaves(tree))


def number(x: ArrayLike | None, name: str) -> Array | None:
    """`x`, if it is given, as one real number."""
    if x is None:
        return None
    x = real_array(x, name)
    if x.ndim:
        raise ValueError(f"Argument `{name}` must be one number, but it has shape {x.shape}.")
    return x


def examples(batch: PyTree | None) -> int | None:
    """The number of examples of a batch, if its arrays agree on one."""
    sizes = {x.shape[0] if jnp.ndim(x) else None for x in jax.tree.leaves(batch)}
    return sizes.pop() if len(sizes) == 1 else None


def read(opt_state: Any, name: str) -> Array | None:
    """The first number of that name in an optimizer's state."""
    if opt_state is None:
        return None
    for _, value in optax.tree.get_all_with_path(opt_state, name):
        if eqx.is_array(value) and value.ndim == 0:
            return value
    return None
