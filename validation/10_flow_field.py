r"""The flow field against the mean step of SGD.

At a point early in the training of a small network on digits: the mean step of SGD over many batches of 8, and the
mean update $\int \delta\rho\,d\delta / \int \rho\,d\delta$ under a proposal as wide as SGD's own noise, $s^2 = \eta^2
\mathrm{tr}\,C/d$. Direction first; then its length along $-\nabla L$ in units of $\eta|\nabla L|$, with the
temperature taken as the framework's extensive $T$ and per parameter, under which the literal law is twice too long
since its equilibrium is at half the temperature, and with the symmetric law, which has its equilibrium at $T$ itself.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _digits_network import FLAT, data, flat_loss, runs
from _study import main, mean_of

import rxjax as rx

ETA, BATCH, DRAWS = 0.05, 8, 8000


def run(study):
    digits = data()
    theta = runs(FLAT[None], digits, jr.key(10), ETA, BATCH, 128)[0][0]
    slope = jax.grad(flat_loss)
    gradient = slope(theta, digits)
    chosen = jr.randint(jr.key(11), (DRAWS, BATCH), 0, digits.x.shape[0])
    batch_slope = lambda i: slope(theta, jax.tree.map(lambda x: x[i], digits))
    steps = -ETA * np.asarray(jax.jit(lambda c: jax.lax.map(batch_slope, c, batch_size=100))(chosen))
    noise = rx.measure.gradient_noise(
        flat_loss, theta, digits, sampling="without_replacement", dataset_size=len(digits.y)
    )
    c = rx.batch_covariance(noise.trace.value, rx.Hyperparameters(ETA, BATCH, len(digits.y)))
    dim = theta.size
    proposal = rx.proposals.Gaussian(ETA * jnp.sqrt(c / dim))
    extensive = rx.effective_temperature(ETA, trace=c)

    g = np.asarray(gradient)
    size = np.linalg.norm(g)
    along, error = mean_of(steps @ -g / (ETA * size**2))
    flow = np.asarray(rx.flow_field(gradient, 1.0, proposal))
    mean = steps.mean(axis=0)
    # The squared length of the noise that is left in the mean is known, and taken off.
    clean = mean @ mean - steps.var(axis=0, ddof=1).sum() / DRAWS
    cosine = mean @ flow / np.linalg.norm(flow) / np.sqrt(clean)
    halves = [h.mean(axis=0) @ flow / np.linalg.norm(flow) / np.sqrt(clean) for h in np.array_split(steps, 20)]
    setting = f"digits network, {dim} parameters, eta = {ETA}, B = {BATCH}"
    name = r"direction of $E[\delta] = \int \delta\rho\,d\delta$"
    row = dict(measured=cosine, error=mean_of(halves)[1])
    study.row(name, "framework", f"{setting}, cosine with the mean step", predicted=1.0, **row)
    row = dict(measured=along, error=error)
    labels, lengths = [], []
    for label, source, temperature, law in (
        ("literal law, T = (eta/2) tr C", "framework", extensive, 1.0),
        ("literal law, T per parameter", "framework, T/d", extensive / dim, 1.0),
        ("symmetric law, T per parameter", "detailed balance at T", extensive / dim, 0.5),
    ):
        # A symmetric law halves the energy in the exponent.
        update = proposal.tilted_mean(-law * gradient / temperature)
        predicted = float(jnp.vdot(update, -gradient)) / (ETA * size**2)
        labels.append(label)
        lengths.append(predicted)
        name = r"length of $\int \delta\rho\,d\delta/\int\rho\,d\delta$, " + label
        study.row(name, source, f"{setting}, mean step / (eta |g|)", predicted=predicted, **row)
    ax = study.figure()
    ax.bar([*labels, "SGD"], [*lengths, along], color=["#7a6ea8"] * 3 + ["k"], width=0.6)
    ax.set(yscale="log", ylabel="mean step / (eta |g|)")
    ax.set_xticks(range(4), [x.replace(", ", "\n") for x in [*labels, "SGD"]], fontsize=6)


if __name__ == "__main__":
    main(__file__)
