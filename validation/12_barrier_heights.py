r"""The distribution of barrier heights.

$P(E_b) = e^{-E_b/E_0}/E_0$ says that the standard deviation of barriers equals their mean. Minima and lowest saddles
of 10 random fields in two dimensions, and of a tanh network 2-3-1 with 13 parameters fitted to 20 random numbers,
with the error over fields or by resampling minima; and the p-value of the Anderson–Darling test of the fitted law,
which an exponential sample would have above 0.01 (the row compares its share above 0.01 with 1, without error).
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _study import main
from _tiny_network import find

import rxjax as rx

NAME = r"$P(E_b) = e^{-E_b/E_0}/E_0$"
FIELDS, BOX = 10, 6.0


def lowest(barriers):
    """Heights forth and back over the lowest saddle of each pair."""
    first = np.unique(np.asarray(barriers.pairs), axis=0, return_index=True)[1]
    return np.asarray(barriers.heights)[np.sort(first)]


def spread(groups):
    """Standard deviation over mean of the heights in all groups, with its error by resampling groups."""
    generator = np.random.default_rng(12)
    cv = lambda parts: np.std(np.concatenate(parts)) / np.mean(np.concatenate(parts))
    draws = [cv([groups[i] for i in generator.integers(0, len(groups), len(groups))]) for _ in range(400)]
    return cv(groups), np.std(draws)


def run(study):
    box = jnp.array([[-BOX, BOX]] * 2)
    fields = []
    for key in jr.split(jr.key(12), FIELDS):
        field = rx.landscapes.RandomField(key, dim=2, num_features=128)
        minima = rx.find_minima(field, starts=256, bounds=box)
        fields.append(lowest(rx.find_barriers(field, minima, bounds=box, resolution=96)).ravel())
        # Each number of minima is another program: memory would grow.
        jax.clear_caches()
    network, minima = find(3e-3)
    barriers = rx.find_barriers(network, minima, neighbours=2, steps=200)
    pairs = lowest(barriers)
    axes = study.figure(2)
    for ax, groups, words in (
        (axes[0], fields, f"random field in 2-D, {FIELDS} fields"),
        (axes[1], list(pairs), "tanh network, 13 parameters"),
    ):
        heights = np.concatenate(groups)
        measured, error = spread(groups)
        row = dict(predicted=1.0, measured=measured, error=error, besides={"barriers": heights.size})
        study.row(NAME, "framework", f"{words}, standard deviation / mean", **row)
        fitted = rx.fit_barrier_distribution(heights, samples=1000)
        row = dict(predicted=1.0, measured=float(fitted.p_value > 0.01), besides={"p-value": fitted.p_value})
        study.row(NAME, "framework", f"{words}, p-value above 0.01", **row)
        scale = float(fitted.scale)
        x = np.sort(heights / scale)
        ax.semilogy(x, 1 - (np.arange(x.size) + 0.5) / x.size, ".", ms=3)
        ax.semilogy([0, 5], np.exp([0, -5]), "k", lw=0.8)
        ax.set(xlabel="barrier / mean", ylabel="share above", title=words, ylim=(2e-3, 1.2))
        ax.title.set_fontsize(8)


if __name__ == "__main__":
    main(__file__)
