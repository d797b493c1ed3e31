"""Rates on a grid: filling an array of results, and sums over updates.  Writes rates.md beside it.

One core, float64.  (a) `rate_on_grid`, 2048x2048 points x 8 updates, against the rate at which `jit(jnp.full)` fills an
array of that shape.  (b) Total rate and flow over 64 updates, reduced inside the kernel, against NumPy that works on
whole grids in place; the extra memory is the compiled program's own account, in units of one grid.
"""

from _bench import in_turns, median_seconds, one_core, table, write

one_core()

import argparse  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import rxjax as rx  # noqa: E402

jax.config.update("jax_enable_x64", True)


def polynomial(theta):
    x, y = theta[0], theta[1]
    return (x**2 - 1) ** 2 + 2 * y**2 + x * y / 2


def polynomial_slopes(x, y):
    return 4 * x * (x * x - 1) + y / 2, 4 * y + x / 2


def brown_slopes(x, y):
    height, a, b, c = (-200, -100, -170, 15), (-1, -1, -6.5, 0.7), (0, 0, 11, 0.6), (-10, -10, -6.5, 0.7)
    x0, y0 = (1, 0, -0.5, -1), (0, 0.5, 1.5, 1)
    gx, gy = np.zeros_like(x + y), np.zeros_like(x + y)
    for i in range(4):
        u, v = x - x0[i], y - y0[i]
        value = height[i] * np.exp(a[i] * u * u + b[i] * u * v + c[i] * v * v)
        gx += value * (2 * a[i] * u + b[i] * v)
        gy += value * (b[i] * u + 2 * c[i] * v)
    return gx, gy


# Name, landscape, its slopes for NumPy, bounds of the grid, temperature, least share of the rate of `jnp.full`.
CASES = [
    ("polynomial well", polynomial, polynomial_slopes, (-2.0, 2.0), 0.5, 0.8),
    ("Mueller-Brown", rx.landscapes.MullerBrown(), brown_slopes, ((-1.8, -0.5), (1.3, 2.2)), 50.0, 0.5),
]


def ring(number, radius):
    angles = 2 * np.pi * (np.arange(number) + 0.5) / number
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def fill_row(name, landscape, bounds, temperature, least, size):
    lower, upper = map(np.array, bounds)
    grid = rx.solvers.Grid(lower, upper, (size, size))
    updates = jnp.asarray(ring(8, 0.05))
    shape = (8, size, size)
    full = jax.jit(lambda x: jnp.full(shape, x))
    rates = lambda: rx.rate_on_grid(landscape, grid, updates, temperature)
    plain = lambda: full(1.0)
    jax.block_until_ready((rates(), plain()))
    ours, theirs = in_turns([rates, plain], 9)
    megabytes = 8 * size * size * 8 / 1e6
    share = theirs / ours
    verdict = "met" if share >= least else "MISSED"
    return [name, f"{ours:.3f}", f"{theirs:.3f}", f"{megabytes / ours / 1e3:.2f}", f"{share:.2f}", f"{least} {verdict}"]


def by_numpy(slopes, grid, updates, temperature):
    """Total rate and the two components of the flow by whole grids, in place."""
    x, y = (np.asarray(a) for a in grid.axes)
    gx, gy = slopes(x[:, None], y[None, :])
    gx, gy = gx / -temperature, gy / -temperature
    total, work, other = np.zeros_like(gx), np.empty_like(gx), np.empty_like(gx)
    flow = np.zeros((2, *gx.shape))
    for dx, dy in updates:
        np.multiply(gx, dx, out=work)
        np.multiply(gy, dy, out=other)
        work += other
        np.exp(work, out=work)
        total += work
        np.multiply(work, dx, out=other)
        flow[0] += other
        np.multiply(work, dy, out=other)
        flow[1] += other
    return total, flow


def sum_row(name, landscape, slopes, bounds, temperature, size):
    lower, upper = map(np.array, bounds)
    grid = rx.solvers.Grid(lower, upper, (size, size))
    updates = ring(64, 0.05)

    @jax.jit
    def ours(updates):
        flow = rx.flow_on_grid(landscape, grid, updates, temperature)
        return flow.total, flow.flow

    total, flow = jax.block_until_ready(ours(updates))
    expected_total, expected_flow = by_numpy(slopes, grid, updates, temperature)
    np.testing.assert_allclose(total, expected_total, rtol=1e-9)
    scale = np.max(np.abs(expected_flow))
    np.testing.assert_allclose(np.moveaxis(flow, -1, 0), expected_flow, rtol=1e-6, atol=1e-9 * scale)
    one = median_seconds(lambda: jax.block_until_ready(ours(updates)), 5)
    other = median_seconds(lambda: by_numpy(slopes, grid, updates, temperature), 3)
    memory = ours.lower(updates).compile().memory_analysis()
    assert memory is not None
    extra = memory.temp_size_in_bytes / (8 * size * size)
    verdict = "met" if other / one >= 3 and extra <= 4 else "MISSED"
    return [name, f"{one:.3f}", f"{other:.3f}", f"{other / one:.2f}", f"{extra:.2f}", f"3, 4 {verdict}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs")
    fast = parser.parse_args().fast
    size = 256 if fast else 2048
    text = "# Rates on a grid\n\n" + (__doc__ or "").split("\n\n", 1)[1] + "\n"
    filled = [fill_row(name, f, bounds, t, least, size) for name, f, _, bounds, t, least in CASES]
    text += table(["landscape", "rate_on_grid s", "jnp.full s", "GB/s", "share", "bar"], filled)
    text += f"\n\nTotal rate and flow over 64 updates on {size}x{size} points:\n\n"
    sums = [sum_row(name, f, slopes, bounds, t, size) for name, f, slopes, bounds, t, _ in CASES]
    text += table(["landscape", "flow_on_grid s", "NumPy s", "ratio", "extra grids", "bars"], sums)
    if fast:
        print(text)
    else:
        write("rates.md", text)


if __name__ == "__main__":
    main()
