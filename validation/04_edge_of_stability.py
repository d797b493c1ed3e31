r"""The edge of stability.

A tanh network 1-24-24-1 fitted to the Chebyshev polynomial $T_4$ at 20 points, by gradient descent on all of them:
the largest eigenvalue of its Hessian rises until $\lambda_{max}\eta/2 = 1$ and stays there (tolerance 1 %; errors
over four starts). With batches of 4 the critical rate of full-batch descent is not met by a wide margin, and batch
sharpness is the quantity to compare with $2/\eta$ (tolerance 10 %).
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _study import main, mean_of

import rxjax as rx

SIZES, POINTS, BATCH = (1, 24, 24, 1), 20, 4
BLOCK, BLOCKS, STARTS = 100, 60, 4


def network_loss(params, batch):
    x, y = batch
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return jnp.mean((x @ params[-1][0] + params[-1][1] - y) ** 2) / 2


def start(seed):
    keys = jr.split(jr.key(seed), 3)
    layers = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    x = jnp.cos(jnp.pi * (jnp.arange(float(POINTS)) + 0.5) / POINTS)[:, None]
    return [(jr.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in layers], (x, 8 * x**4 - 8 * x**2 + 1)


@jax.jit
def descend(params, batch, eta, key, noisy):
    """`BLOCK` steps, on all points or on batches of `BATCH` drawn with replacement."""

    def step(params, key):
        chosen = jnp.where(noisy, jr.randint(key, (BATCH,), 0, POINTS)[jnp.arange(POINTS) % BATCH], jnp.arange(POINTS))
        g = jax.grad(network_loss)(params, jax.tree.map(lambda x: x[chosen], batch))
        return jax.tree.map(lambda p, g: p - eta * g, params, g), None

    return jax.lax.scan(step, params, jr.split(key, BLOCK))[0]


def sharpness(eta, noisy, seed):
    """`lambda_max eta/2` after every block of steps, and batch sharpness times eta/2 late in training."""
    params, batch = start(seed)
    key = jr.key(100 + seed)
    tops, batched = [], []
    for i in range(BLOCKS):
        key, now, draw = jr.split(key, 3)
        params = descend(params, batch, eta, now, noisy)
        tops.append(float(rx.measure.lambda_max(network_loss, params, batch).value) * eta / 2)
        if noisy and i >= BLOCKS // 2:
            chosen = jr.randint(draw, (60, BATCH), 0, POINTS)
            batches = jax.tree.map(lambda x, c=chosen: x[c], batch)
            batched.append(float(rx.measure.batch_sharpness(network_loss, params, batches).value) * eta / 2)
    return np.array(tops), np.array(batched)


def run(study):
    ax = study.figure()
    steps = BLOCK * np.arange(1, BLOCKS + 1)
    for eta, noisy in ((0.1, False), (0.2, False), (0.2, True)):
        runs = [sharpness(eta, noisy, seed) for seed in range(STARTS)]
        measured, error = mean_of([np.mean(tops[20:]) for tops, _ in runs])
        kind = f"batches of {BATCH}" if noisy else "full batch"
        setting = f"{kind}, eta = {eta}, lambda_max eta/2 after step {20 * BLOCK}"
        row = dict(predicted=1.0, measured=measured, error=error, tolerance=0.01)
        study.row(r"$\eta_c = 2/\lambda_{max}$", "framework", setting, **row)
        ax.plot(steps, runs[0][0], label=f"{kind}, eta = {eta}")
        if noisy:
            measured, error = mean_of([np.mean(batched) for _, batched in runs])
            setting = f"{kind}, eta = {eta}, batch sharpness × eta/2"
            row = dict(predicted=1.0, measured=measured, error=error, tolerance=0.1)
            study.row(r"$E[g_B'H_Bg_B]/E|g_B|^2 = 2/\eta$", "Andreyev and Beneventano 2024", setting, **row)
    ax.axhline(1.0, color="k", lw=0.6)
    ax.set(xlabel="step", ylabel="lambda_max × eta / 2")
    ax.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main(__file__)
