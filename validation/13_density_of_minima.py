r"""The density of minima.

$\rho_m(E) = e^{S(E)/k}$ of random fields on a line, whose minima are known by Rice's formula: their number per length
(tolerance 2 %) and the entropy difference between two energies. Then what the density is used for: that training from
anywhere ends at an energy with a probability in proportion to $\rho_m$, every minimum counting once. The mean energy
at which descents end against the mean over distinct minima, on the fields and on a tanh network 2-3-1, where the
copies of a minimum by permutations and signs of its units are counted as one of 48 each.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _study import main, mean_of
from _tiny_network import HIDDEN, find

import rxjax as rx

FIELDS, HALF, STARTS = 400, 10.0, 60


def search(keys):
    """Energies of the minima of random fields on a line, and how many descents ended in each; zero where masked."""

    def one(key):
        field = rx.landscapes.RandomField(key, dim=1, num_features=128)
        box = jnp.array([[-HALF, HALF]])
        minima = rx.find_minima(field, starts=STARTS, bounds=box, max_minima=16)
        return jnp.where(minima.mask, minima.energies, 0), minima.mask, minima.counts

    return (np.asarray(x) for x in jax.jit(lambda k: jax.lax.map(one, k, batch_size=8))(keys))


def run(study):
    energies, mask, counts = search(jr.split(jr.key(13), FIELDS))
    numbers = mask.sum(axis=1) / (2 * HALF)
    measured, error = mean_of(numbers)
    name = r"$\sqrt3/(2\pi\ell)$ minima per length"
    setting = f"{FIELDS} random fields on a line"
    predicted = rx.expected_minima_density(1.0)
    study.row(name, "Rice 1945", setting, predicted=predicted, measured=measured, error=error, tolerance=0.02)
    found = energies[mask]
    low, high = -0.75, 0.75
    count = [np.sum(np.abs(found - e) < 0.25) for e in (low, high)]
    # The mean of the density over each bin, as it is counted.
    at = np.linspace(-0.25, 0.25, 51)
    law = [float(np.mean(np.asarray(rx.expected_minima_density(1.0, jnp.asarray(e + at))))) for e in (low, high)]
    setting = f"random fields, S({low:g}) - S({high:g})"
    difference, error = np.log(count[0] / count[1]), np.sqrt(1 / count[0] + 1 / count[1])
    name = r"$\rho_m(E) = e^{S(E)/k}$"
    predicted = np.log(law[0] / law[1])
    study.row(name, "framework; Rice 1945", setting, predicted=predicted, measured=difference, error=error)

    name = r"training ends at $E$ in proportion to $\rho_m(E)$"
    each = [(np.average(e[m], weights=c[m]), e[m].mean()) for e, m, c in zip(energies, mask, counts, strict=True)]
    ends, plain = np.array(each).T
    gap, error = mean_of(ends - plain)
    setting = "random fields, mean energy of the minima where descents end"
    row = dict(predicted=plain.mean(), measured=plain.mean() + gap, error=error)
    study.row(name, "framework", setting, **row)

    _, minima = find(1e-3)
    e, c, points = (np.asarray(x) for x in (minima.energies, minima.counts, minima.points))
    # One of each class: signs of units such that their output weight is positive, then sorted by it.
    units = points[:, : 4 * HIDDEN].reshape(-1, 4, HIDDEN)
    units = units * np.sign(units[:, 3:4])
    order = np.argsort(units[:, 3], axis=1)
    canonical = np.take_along_axis(units, order[:, None], axis=2).reshape(len(e), -1)
    _, first, which = np.unique(np.round(canonical, 3), axis=0, return_index=True, return_inverse=True)
    hits = np.bincount(which.ravel(), weights=c)
    drawn = np.repeat(e[first], hits.astype(int))
    measured, error = mean_of(drawn)
    setting = "tanh network, mean loss of the minima where descents end"
    row = dict(predicted=e[first].mean(), measured=measured, error=error)
    study.row(name, "framework", setting, besides={"distinct minima": len(first), "descents": drawn.size}, **row)

    axes = study.figure(2)
    edges = np.linspace(-3, 1.5, 19)
    density = np.histogram(found, edges)[0] / np.diff(edges) / (FIELDS * 2 * HALF)
    middle = (edges[1:] + edges[:-1]) / 2
    axes[0].plot(middle, density, "ko", ms=3, label="found")
    axes[0].plot(middle, np.asarray(rx.expected_minima_density(1.0, jnp.asarray(middle))), label="Rice")
    axes[0].set(xlabel="energy", ylabel="minima per length and energy")
    axes[0].legend(frameon=False)
    bins = np.linspace(e.min(), e.max(), 14)
    both = [e[first], drawn]
    axes[1].hist(both, bins, density=True, label=["distinct minima", "ends of descents"], color=["#7a6ea8", "k"])
    axes[1].set(xlabel="loss of a minimum", ylabel="density")
    axes[1].legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main(__file__)
