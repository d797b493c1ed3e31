r"""Adam's square-root rule.

Adam divides by the root of the second moment, so that its temperature is $\eta\sqrt{C}/2$ per parameter and a batch
$\kappa$ times as large wants a learning rate $\sqrt\kappa$ times as large. Quadratics of curvature 1 under
`optax.adam`: the variance of the parameters against $T/h$ (tolerance 5 %: $\eta h/\sqrt C$ is small, not zero) and,
with the batch grown 16 and 64 times, the variance relative to that of the smallest batch under the square-root rule
and under the linear rule of SGD.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _study import main, mean_of

import rxjax as rx

PARAMETERS, ETA = 2000, 4e-3
NAME = r"$T_i = (\eta/2)\,C_{ii}/\sqrt{v_i}$"


def variance(eta, batch, key, steps):
    """The mean of theta^2 for each parameter once stationary."""
    optimizer = optax.adam(eta)
    amplitude = 1 / np.sqrt(batch)

    @jax.jit
    def go(key):
        theta = jnp.zeros(PARAMETERS)

        def step(carry, key):
            theta, state, total = carry
            g = theta + amplitude * jr.normal(key, theta.shape)
            updates, state = optimizer.update(g, state)
            return (theta + updates, state, total + theta**2), None

        carry, _ = jax.lax.scan(step, (theta, optimizer.init(theta), jnp.zeros(PARAMETERS)), jr.split(key, steps // 2))
        carry = (*carry[:2], jnp.zeros(PARAMETERS))
        carry, _ = jax.lax.scan(step, carry, jr.split(jr.fold_in(key, 1), steps // 2))
        return carry[2] / (steps // 2)

    return np.asarray(go(key))


def run(study):
    batches = (1, 16, 64)
    found = {}
    for rule, power in (("square-root", 0.5), ("linear", 1.0)):
        for batch in batches:
            eta = ETA * batch**power
            # Relaxation takes sqrt(C)/(eta h) steps.
            steps = max(4000, int(16 / (eta * np.sqrt(batch))))
            measured, error = mean_of(variance(eta, batch, jr.key(7), steps))
            found[rule, batch] = (measured, error)
            if power == 0.5:
                predicted = rx.adam_temperature(eta, 1 / batch)
                setting = f"variance × curvature, eta = {eta:g}, B = {batch}"
                row = dict(predicted=predicted, measured=measured, error=error, tolerance=0.05)
                study.row(NAME, "second moment of Adam", setting, **row)
    for (rule, batch), (measured, error) in found.items():
        if batch > 1:
            base, base_error = found[rule, 1]
            ratio = measured / base
            spread = ratio * np.hypot(error / measured, base_error / base)
            law = r"$\eta \propto \sqrt{B}$ keeps $T$" if rule == "square-root" else r"$\eta \propto B$ keeps $T$"
            setting = f"Adam, variance at B = {batch} over that at B = 1"
            row = dict(predicted=1.0, measured=ratio, error=spread, tolerance=0.05)
            study.row(law, "Malladi et al. 2022" if rule == "square-root" else "linear rule of SGD", setting, **row)
    ax = study.figure()
    for rule in ("square-root", "linear"):
        values, errors = np.array([found[rule, b] for b in batches]).T
        ax.errorbar(batches, values / found[rule, 1][0], 3 * errors / found[rule, 1][0], fmt="o-", ms=4, label=rule)
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="variance / that at B = 1")
    ax.legend(frameon=False, title="rate grows by the rule")


if __name__ == "__main__":
    main(__file__)
