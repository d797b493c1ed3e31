"""The settings of a training run that the rate theory needs."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import one_of, require

from ._arrays import real_arrays
from ._known import at_once_if_known, positive

SAMPLING = ("with_replacement", "without_replacement", "epoch")


class Hyperparameters(eqx.Module):
    r"""Learning rate, batch size, data-set size, momentum and the way batches are drawn.

    A PyTree whose leaves are the four numbers, so that any of them can be differentiated, swept or stored.  All are
    dimensionless; the learning rate carries the unit of time per step.

    **Arguments:**

    - `learning_rate`: the step size $\eta > 0$ of the update $\theta \leftarrow \theta - \eta g$.
    - `batch_size`: examples per step, $B \geq 1$.
    - `dataset_size`: examples in all, $N \geq B$ unless they are drawn with replacement.
    - `momentum`: the heavy-ball factor $0 \leq \mu < 1$ in $v \leftarrow \mu v + g$.  For a moving average
      $v \leftarrow \mu v + (1 - \mu) g$ give 0: its factors $1 - \mu$ cancel in every formula used here.
    - `sampling`: `"with_replacement"`, `"without_replacement"` (each batch drawn afresh, no example twice in it) or
      `"epoch"` (reshuffled once an epoch).  The last is what most training loops do.  Its noise is correlated from
      step to step and far weaker than either formula says, so functions that need the noise refuse it.

    Each field may carry a leading axis for a sweep.  [`Hyperparameters.axes`][] is then the `in_axes` for `jax.vmap`:

    ```python
    >>> import jax, jax.numpy as jnp, rxjax as rx
    >>> runs = rx.Hyperparameters(jnp.array([0.1, 0.2]), batch_size=32, dataset_size=1000)
    >>> jax.vmap(lambda run: run.learning_rate / run.batch_size, in_axes=(runs.axes,))(runs).shape
    (2,)

    ```

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a number out of its range.
    """

    learning_rate: Float[Array, "..."]
    batch_size: Float[Array, "..."]
    dataset_size: Float[Array, "..."]
    momentum: Float[Array, "..."]
    sampling: str = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: ArrayLike,
        batch_size: ArrayLike,
        dataset_size: ArrayLike,
        momentum: ArrayLike = 0.0,
        sampling: str = "with_replacement",
    ):
        one_of(sampling, "sampling", SAMPLING)
        eta, batch, data, mu = real_arrays(
            learning_rate=learning_rate, batch_size=batch_size, dataset_size=dataset_size, momentum=momentum
        )
        self.learning_rate = positive(eta, "learning_rate")
        self.batch_size = check_batch_size(batch, data, sampling)
        self.dataset_size = check_count(data, "dataset_size")
        self.momentum = check_momentum(mu)
        self.sampling = sampling

    @property
    def axes(self) -> "Hyperparameters":
        """The same PyTree with 0 for every field that has a leading axis and `None` for the others."""
        return jax.tree.map(lambda x: 0 if x.ndim else None, self)


@at_once_if_known
def check_count(x: ArrayLike, name: str) -> Array:
    """`x` if it can be a number of examples."""
    return require(
        positive(x, name), name, "be at least 1", [(jnp.asarray(x) < 1, "is below 1")], "It counts examples."
    )


@at_once_if_known
def check_batch_size(batch: Array, data: Array, sampling: str) -> Array:
    """`batch` if it is a count, and no more than `data` where no example may be drawn twice."""
    batch = check_count(batch, "batch_size")
    if sampling == "with_replacement":
        return batch
    remedy = 'Give a smaller batch, or sampling="with_replacement".'
    too_large = [(batch > data, "is larger")]
    return require(batch, "batch_size", "be at most `dataset_size` when no example is drawn twice", too_large, remedy)


@at_once_if_known
def check_momentum(x: ArrayLike, name: str = "momentum") -> Array:
    """`x` if 0 <= x < 1."""
    x = jnp.asarray(x)
    faults = [(~jnp.isfinite(x), "is not finite"), (x < 0, "is negative"), (x >= 1, "is 1 or more")]
    return require(x, name, "lie in [0, 1)", faults, "Heavy-ball momentum of 1 never forgets; .9 is usual.")
