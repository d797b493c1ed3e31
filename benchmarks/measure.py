"""What each measurement on a network costs.  Writes measure.md beside it.

One core, float32, a perceptron of 64-256-256-10 units and batches of digits; every row is compiled, and its median time
is divided by that of one gradient of the same batch, `jit(grad(loss))`, the two taking turns.  The first table has
1792 digits as the batch.  Memory is the compiled program's own account of what it holds beside its
arguments and results.
"""

from _bench import in_turns, one_core, table, write

one_core()

import argparse  # noqa: E402
import time  # noqa: E402

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import rxjax as rx  # noqa: E402
from rxjax._digits import CrossEntropy, load, train  # noqa: E402

M = rx.measure


def loss(params, batch):
    x, y = batch
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    scores = jax.nn.log_softmax(x @ params[-1][0] + params[-1][1])
    return -jnp.mean(jnp.take_along_axis(scores, y[:, None], axis=1))


def perceptron(sizes):
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    layer = lambda key, n, m: (jax.random.normal(key, (n, m)) / n**0.5, jnp.zeros(m))
    return [layer(*x) for x in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def measurements(batch, count):
    """Name, program of `(params, batch)`, and the bar in gradients, if there is one."""
    directions = [jax.tree.map(jnp.ones_like, perceptron(SIZES))] * 2
    eighth = {"route": "micro_batches", "micro_batch_size": count // 8}
    return [
        ("gradient_noise, 8 micro-batches", lambda p, b: M.gradient_noise(loss, p, b, **eighth), 1.3),
        ("  with 3 eigenpairs", lambda p, b: M.gradient_noise(loss, p, b, rank=3, **eighth), None),
        ("gradient_noise, per example", lambda p, b: M.gradient_noise(loss, p, b), None),
        (
            "  with diagonal and 2 directions",
            lambda p, b: M.gradient_noise(loss, p, b, diagonal=True, directions=directions),
            None,
        ),
        ("  with 3 eigenpairs", lambda p, b: M.gradient_noise(loss, p, b, rank=3), None),
        ("lambda_max, 20 steps", lambda p, b: M.lambda_max(loss, p, b, steps=20), 60),
        ("spectrum, k = 10, 40 steps", lambda p, b: M.spectrum(loss, p, b, 10, steps=40), None),
        ("trace, 20 probes", lambda p, b: M.trace(loss, p, b, probes=20), None),
        ("optimal_learning_rate, 16 micro-batches", optimal_rate(count // 16), None),
        ("local_entropy, 4 probes of 20 steps", lambda p, b: M.local_entropy(loss, p, b, 1e-2, 1e4, probes=4), None),
        ("batch_sharpness, 8 batches", lambda p, b: M.batch_sharpness(loss, p, in_eight(b)), None),
        ("barrier_between, 16 images, 10 steps", barrier, None),
    ]


def optimal_rate(size):
    return lambda p, b: M.optimal_learning_rate(loss, p, b, 32.0, micro_batch_size=size)


def barrier(params, batch):
    other = jax.tree.map(lambda p: p[::-1], params)
    return M.barrier_between(loss, params, other, batch, steps=10, throw=False)[0]


def in_eight(batch):
    return jax.tree.map(lambda x: x.reshape(8, x.shape[0] // 8, *x.shape[1:]), batch)


SIZES = (64, 256, 256, 10)


def cost_rows(params, batch, repeats):
    gradient = jax.jit(jax.grad(loss))
    rows = []
    for name, program, bar in measurements(batch, batch[1].shape[0]):
        compiled = eqx.filter_jit(program)
        ours, one = lambda: compiled(params, batch), lambda: gradient(params, batch)  # noqa: B023
        jax.block_until_ready((ours(), one()))
        seconds, unit = in_turns([ours, one], repeats)
        ratio = seconds / unit
        verdict = "" if bar is None else f"{bar} {'met' if ratio <= bar else 'MISSED'}"
        rows.append([name, f"{seconds:.3f}", f"{1e3 * unit:.1f}", f"{ratio:.2f}", verdict])
        print(rows[-1], flush=True)
    return rows


def memory_rows(params, count):
    """The per-example route on batches of two sizes: its memory goes with the chunk and not with the batch."""
    vector = 4 * sum(x.size for x in jax.tree.leaves(params))
    rows = []
    for examples in (count // 4, count):
        batch = (jnp.zeros((examples, 64)), jnp.zeros(examples, jnp.int32))
        cells = [f"{examples}"]
        for chunk in (8, 32):
            program = lambda p, b: M.gradient_noise(loss, p, b, chunk_size=chunk)  # noqa: B023
            memory = jax.jit(program).lower(params, batch).compile().memory_analysis()
            assert memory is not None
            cells.append(f"{memory.temp_size_in_bytes / vector:.1f}")
        rows.append(cells)
    return rows


def report_rows():
    """The whole report on the trained network of `rxjax flow digits`, compiling included."""
    data = load()
    params = jax.tree.map(lambda p: p[0], jax.block_until_ready(train(data, jax.random.key(0))))
    run = rx.Hyperparameters(0.1, 32, data.x.shape[0])
    measured = lambda p, batch: CrossEntropy(*batch)(p)
    start = time.perf_counter()
    found = jax.block_until_ready(M.report(measured, params, (data.x, data.y), run))
    first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(M.report(measured, params, (data.x, data.y), run))
    return found, first, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="one repetition, to see that it runs")
    fast = parser.parse_args().fast
    params, data = perceptron(SIZES), load()
    count = 1792
    batch = (data.x[:count], data.y[:count])
    text = "# Cost of measuring a network\n\n" + (__doc__ or "").split("\n\n", 1)[1] + "\n"
    rows = cost_rows(params, batch, 1 if fast else 5)
    text += table(["measurement", "seconds", "gradient ms", "gradients", "bar"], rows)
    text += "\n\nMemory of `gradient_noise`, per example, in units of one vector like the parameters:\n\n"
    text += table(["examples", "chunks of 8", "chunks of 32"], memory_rows(params, count))
    found, first, again = report_rows()
    verdict = "met" if first < 60 else "MISSED"
    text += "\n\nThe report on the digits network of `rxjax flow digits`, trained, on all 1797 digits: "
    text += f"{first:.1f} s with\n"
    text += f"compiling, {again:.2f} s again; the bar is 60 s on two cores, {verdict} on one.\n\n```\n{found}\n```"
    if fast:
        print(text)
    else:
        write("measure.md", text)


if __name__ == "__main__":
    main()
