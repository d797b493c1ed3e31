"""The temperature of training: how hot a learning rate makes the gradient noise (rows 5, 6 and 9 of the theory)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from rxjax_solvers._checks import one_of, require

from ._arrays import real_array, real_arrays
from ._covariance import check_covariance, product_diagonal, times
from ._hyperparameters import Hyperparameters, check_count, check_momentum
from ._known import non_negative


def effective_temperature(
    learning_rate: ArrayLike,
    *,
    trace: ArrayLike | None = None,
    covariance: ArrayLike | None = None,
    direction: ArrayLike | None = None,
    per_parameter: bool = False,
    momentum: ArrayLike = 0.0,
    preconditioner: ArrayLike | None = None,
    dim: int | None = None,
) -> Float[Array, "..."]:
    r"""Effective temperature of stochastic gradient descent, $T = (\eta/2)\,\mathrm{tr}\,C$.

    $C$ is the covariance of the MINI-BATCH gradient, not that of one example: see [`batch_covariance`][] for the way
    from one to the other.  Three temperatures, in the units of the loss:

    - the source framework's, $(\eta/2)\,\mathrm{tr}\,C$, by default.  It is extensive: it grows with the number of
      parameters $d$;
    - `per_parameter=True`: that divided by $d$.  This is the equipartition temperature, the $kT$ of an isotropic
      Fokker-Planck equation, of Kramers' formula and of the Gibbs law;
    - `direction=v`: $(\eta/2)\, v^\top C v / v^\top v$, the one that an escape along $v$ feels.

    Heavy-ball momentum $\mu$ divides each by $1 - \mu$.  A symmetric preconditioner $P$ (the step is $-\eta P g$)
    gives $(\eta/2)\,\mathrm{tr}(PC)$, and along $v$ diffusion over mobility, $(\eta/2)\, v^\top PCP v / v^\top P v$.

    **Arguments:**

    - `learning_rate`: $\eta \geq 0$, any shape.
    - `trace`: $\mathrm{tr}\,C$, any shape.  Exactly one of `trace` and `covariance` is needed.
    - `covariance`: $C$ of shape `(d, d)`, its diagonal of shape `(d,)`, or a number $c$ for $C = cI$.
    - `direction`: $v$ of shape `(d,)`, any length but not zero.
    - `per_parameter`: divide by $d$.
    - `momentum`: heavy-ball $\mu$ in $[0, 1)$.  Give 0 for a moving average of gradients, also that of Adam.
    - `preconditioner`: $P$, shaped like `covariance`.
    - `dim`: $d$, needed only where the shapes do not tell it: for the trace of $cI$, and for `trace` divided by $d$.

    **Returns:** the temperature, of the shape of `learning_rate` or of `trace`.

    Holds for $\eta h \lesssim 0.2$ with $h$ the largest curvature; beyond it the noise heats by more than the formula
    says.  Good values: what escapes on a time scale of thousands of steps has a barrier of 5 to 10 times $T(v)$.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a negative or non-finite number, a covariance that is
    not positive semi-definite, a zero direction or shapes that do not fit.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.effective_temperature(0.1, covariance=jnp.array([3.0, 1.0, 0.2])).round(4))
    0.21
    >>> print(rx.effective_temperature(0.1, trace=4.2, per_parameter=True, dim=3, momentum=0.9).round(4))
    0.7

    ```
    """
    eta, mu = real_arrays(learning_rate=learning_rate, momentum=momentum)
    eta = non_negative(eta, "learning_rate") / (1 - check_momentum(mu))
    if (trace is None) == (covariance is None):
        given = "both" if trace is not None else "neither"
        raise ValueError(f"Argument `covariance` must be given or `trace`, one of the two, but {given} was.")
    if direction is not None and per_parameter:
        raise ValueError("Argument `direction` must come without `per_parameter=True`, but both were given.")
    if dim is not None and dim < 1:
        raise ValueError(f"Argument `dim` must be the number of parameters, but it is {dim}.")
    if covariance is None:
        assert trace is not None
        if direction is not None or preconditioner is not None:
            name = "direction" if direction is not None else "preconditioner"
            raise ValueError(f"Argument `{name}` must come with `covariance`, but only `trace` was given.")
        if per_parameter and dim is None:
            raise ValueError("Argument `dim` must be given with `trace` and `per_parameter=True`, but it is None.")
        total = non_negative(real_array(trace, "trace"), "trace")
        return eta * total / (2 * (dim if per_parameter and dim is not None else 1))

    c = check_covariance(covariance, "covariance", dim)
    dim = c.shape[0] if c.ndim else dim
    p = jnp.ones((), c.dtype) if preconditioner is None else check_covariance(preconditioner, "preconditioner", dim)
    dim = p.shape[0] if p.ndim else dim
    if direction is not None:
        return eta * _rayleigh(c, p, direction, dim) / 2
    diagonal = product_diagonal(p, c)
    if per_parameter:
        return eta * jnp.mean(diagonal) / 2
    if diagonal.ndim:
        return eta * jnp.sum(diagonal) / 2
    if dim is None:
        raise ValueError(
            "Argument `dim` must be given with a scalar covariance, whose trace is `dim` times it, but it is None. "
            "Write `dim=1` for one parameter, or `per_parameter=True` for the temperature that does not depend on it."
        )
    return eta * diagonal * dim / 2


def _rayleigh(covariance: Array, preconditioner: Array, direction: ArrayLike, dim: int | None) -> Array:
    """Diffusion over mobility along a direction."""
    v = real_array(direction, "direction")
    if v.ndim != 1 or (dim is not None and v.shape[0] != dim):
        expected = "(d,)" if dim is None else f"({dim},)"
        raise ValueError(f"Argument `direction` must have shape {expected}, but it has shape {v.shape}.")
    size = jnp.max(jnp.abs(v))
    faults = [(~jnp.isfinite(size), "is not finite"), (size == 0, "is zero")]
    v = require(v, "direction", "be a finite vector other than zero", faults)
    v = v / jnp.max(jnp.abs(v))
    pv = times(preconditioner, v)
    mobility = jnp.sum(v * pv)
    faults = [(mobility <= 0, "is zero along `direction`")]
    mobility = require(mobility, "preconditioner", "move the parameters", faults, "There is no temperature there.")
    return jnp.sum(pv * times(covariance, pv)) / mobility


def adam_temperature(
    learning_rate: ArrayLike, variance: PyTree, *, gradient: PyTree | None = None, eps: ArrayLike = 0.0
) -> PyTree:
    r"""Temperature of each parameter under Adam, $T_i = (\eta/2) C_{ii} / (\sqrt{v_i} + \epsilon)$.

    Adam preconditions by the root of its second moment, $v_i = C_{ii} + g_i^2$ at stationarity.  Where the noise
    dominates the mean gradient this is $(\eta/2) \sqrt{C_{ii}}$, the value without `gradient` and `eps`.

    **Arguments:**

    - `learning_rate`: $\eta \geq 0$.
    - `variance`: $C_{ii}$, the variance of each entry of the mini-batch gradient: an array or a PyTree of any shapes.
      A two-dimensional array is a weight matrix's variances, NOT a covariance matrix.
    - `gradient`: the mean gradient $g$, shaped like `variance`; zero if not given.
    - `eps`: Adam's $\epsilon \geq 0$.

    **Returns:** temperatures in the units of the loss, shaped like `variance`: zero, with gradient zero, where the
    variance is zero.  Adam's moving average of gradients (`b1`) does not change them.  The picture needs second moments
    that vary slowly (`b2` near 1).

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.adam_temperature(1e-3, jnp.array([4.0, 0.0])))
    [0.001 0.   ]

    ```
    """
    eta = non_negative(real_array(learning_rate, "learning_rate"), "learning_rate")
    eps = non_negative(real_array(eps, "eps"), "eps")
    if gradient is not None and jax.tree.structure(gradient) != jax.tree.structure(variance):
        raise ValueError(
            "Argument `gradient` must have the structure of `variance`, but it has "
            f"{jax.tree.structure(gradient)} and not {jax.tree.structure(variance)}."
        )

    def one(c: ArrayLike, g: ArrayLike) -> Array:
        c, g = real_arrays(variance=c, gradient=g)
        if g.ndim and g.shape != c.shape:
            raise ValueError(f"Argument `gradient` must have shape {c.shape} as `variance`, but it has {g.shape}.")
        c = non_negative(c, "variance")
        # Mask the input too: the root has no finite slope at zero.
        quiet = c == 0
        second = jnp.where(quiet, 1, c + jnp.square(g))
        return jnp.where(quiet, 0, eta * c / (2 * (jnp.sqrt(second) + eps)))

    means = jax.tree.map(lambda _: 0.0, variance) if gradient is None else gradient
    return jax.tree.map(one, variance, means)


def noise_scale(
    learning_rate: ArrayLike,
    dataset_size: ArrayLike,
    batch_size: ArrayLike,
    *,
    form: str = "leading",
    momentum: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    r"""Noise scale of training, $q = \eta N / B$.

    **Arguments:**

    - `learning_rate`, `dataset_size`, `batch_size`: $\eta \geq 0$, $N \geq 1$, $B \geq 1$; any shapes that broadcast.
    - `form`: `"leading"` for the source framework's $\eta N / B$; `"smith_le"` for $\eta (N/B - 1)$ of Smith and Le
      (2018), which vanishes for the full batch and needs $B \leq N$.  They agree for $B \ll N$.
    - `momentum`: heavy-ball $\mu$ in $[0, 1)$; divides by $1 - \mu$.

    **Returns:** the noise scale, in units of the learning rate.  Settings of equal noise scale train alike as long as
    $B \ll N$ and $\eta$ is well below its critical value.

    ```python
    >>> import rxjax as rx
    >>> print(rx.noise_scale(0.1, 1000, 10), rx.noise_scale(0.1, 1000, 10, form="smith_le").round(4))
    10.0 9.9

    ```
    """
    one_of(form, "form", ("leading", "smith_le"))
    eta, data, batch, mu = real_arrays(
        learning_rate=learning_rate, dataset_size=dataset_size, batch_size=batch_size, momentum=momentum
    )
    eta = non_negative(eta, "learning_rate") / (1 - check_momentum(mu))
    data, batch = check_count(data, "dataset_size"), check_count(batch, "batch_size")
    if form == "leading":
        return eta * data / batch
    faults = [(batch > data, "is larger")]
    batch = require(batch, "batch_size", 'be at most `dataset_size` for form="smith_le"', faults)
    return eta * (data - batch) / batch


def batch_covariance(sigma1: ArrayLike, hyperparameters: Hyperparameters) -> Float[Array, "..."]:
    r"""Covariance $C$ of the mini-batch gradient from the covariance $\Sigma_1$ of ONE example's gradient.

    $C = \Sigma_1 / B$ with replacement, and $(\Sigma_1 / B)(N - B)/(N - 1)$ without.

    **Arguments:**

    - `sigma1`: $\Sigma_1$ with the normalisation $1/N$, of shape `()` for a multiple of the identity, `(d,)` or
      `(d, d)`.
    - `hyperparameters`: a [`Hyperparameters`][] of scalar fields; `jax.vmap` over its fields for a sweep.  Only batch
      size, data-set size and sampling are used.

    **Returns:** $C$, shaped like `sigma1`.

    **Raises:** `ValueError` for `sampling="epoch"`: batches within an epoch are anticorrelated, no covariance of single
    batches describes their noise, and this formula can overstate it by orders of magnitude.

    ```python
    >>> import rxjax as rx
    >>> print(rx.batch_covariance(1.0, rx.Hyperparameters(0.1, 8, 64, sampling="without_replacement")).round(4))
    0.1111

    ```
    """
    c = check_covariance(sigma1, "sigma1")
    run = hyperparameters
    if run.sampling == "epoch":
        raise ValueError(
            'Argument `hyperparameters` must say how batches are drawn independently, but its sampling is "epoch". '
            "Reshuffled epochs have far weaker noise than this formula; simulate them, or draw batches "
            '"with_replacement" or "without_replacement".'
        )
    if c.ndim and (run.batch_size.ndim or run.dataset_size.ndim):
        raise ValueError(
            "Argument `hyperparameters` must have scalar fields, but its batch sizes have shape "
            f"{run.batch_size.shape} and its data-set sizes {run.dataset_size.shape}. Use `jax.vmap` over its fields."
        )
    # Counts do not widen a covariance, nor does a Python number widen them.
    dtype = run.batch_size.dtype if c.weak_type else c.dtype
    batch, data = run.batch_size.astype(dtype), run.dataset_size.astype(dtype)
    if run.sampling == "with_replacement":
        return c / batch
    # One example in all has no noise; the mask keeps 0/0 away.
    return c / batch * jnp.where(data > 1, (data - batch) / jnp.where(data > 1, data - 1, 1), 0)
