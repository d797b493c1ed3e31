"""The monitor: numbers against direct computation, in jit, scan and vmap; what it holds, counts and leaves out."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from optimizers import compiled
from rich.console import Console

import rxjax as rx
from rxjax._monitor._advice import ENTRIES

ROOT = Path(__file__).parent.parent
ETA, BATCH, EVERY = 0.05, 24, 4


@pytest.fixture(autouse=True)
def promotion():
    """optax itself leans on the default promotion rules for its counters."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def loss_fn(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["a"] + params["b"])
    return jnp.mean((hidden @ params["c"] - y) ** 2)


def network(dtype=jnp.float64):
    a, c = jax.random.split(jax.random.key(0))
    params = {"a": jax.random.normal(a, (2, 5)), "b": jnp.zeros(5), "c": jax.random.normal(c, (5, 1))}
    return jax.tree.map(lambda p: p.astype(dtype), params)


def batches(steps, dtype=jnp.float64):
    x = jax.random.normal(jax.random.key(1), (steps, BATCH, 2), dtype)
    return x, jnp.sin(2 * x[..., :1]) + x[..., 1:]


def train(monitor, optimizer, params, data, extras=("loss_fn", "batch", "opt_state"), spoil=-1, full=False):
    """A scan of training steps; metrics of each, and what went into them."""

    def step(carry, now):
        params, opt, seen = carry
        i, batch = now
        value, grads = jax.value_and_grad(loss_fn)(params, batch)
        grads = jax.tree.map(lambda g: jnp.where(i == spoil, jnp.nan, 1).astype(g.dtype) * g, grads)
        updates, opt = optimizer.update(grads, opt, params)
        # The spoiled step is shown to the monitor and not taken.
        taken = jax.tree.map(lambda u: jnp.where(i == spoil, jnp.zeros_like(u), u), updates)
        more = {"loss_fn": loss_fn, "batch": batch, "opt_state": opt, "loss": value, "of_no_use": 1}
        kept = {k: v for k, v in more.items() if k in (*extras, "of_no_use")}
        seen, found = monitor.update(seen, params=params, grads=grads, updates=updates, **kept)
        trace = (params, grads, updates) if full else ()
        return (optax.apply_updates(params, taken), opt, seen), (found, trace)

    steps = jnp.arange(len(data[0]))
    return jax.lax.scan(step, (params, optimizer.init(params), monitor.init(params)), (steps, data))


def flat(tree):
    """Rows of numbers, one a step."""
    return np.asarray(jax.vmap(lambda t: ravel_pytree(t)[0])(tree))


def test_every_number_against_direct_computation():
    steps = 11
    data = batches(steps)
    monitor = rx.Monitor(dataset_size=1000, every=EVERY, decay=0.9, micro_batches=4, lanczos_steps=21)
    optimizer = rx.optim.rate_control(optax.sgd(1.0), learning_rate=ETA)
    run = compiled(lambda p: train(monitor, optimizer, p, data, ("loss_fn", "batch", "opt_state", "loss"), full=True))
    _, (found, trees) = run(network())
    got = {name: np.asarray(x) for name, x in found.items()}
    assert set(got) <= set(ENTRIES)
    theta, g, u = (flat(t) for t in trees)
    norm = lambda x: np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(got["grad_norm"], norm(g), rtol=1e-10)
    np.testing.assert_allclose(got["update_norm"], norm(u), rtol=1e-10)
    np.testing.assert_allclose(got["param_norm"], norm(theta), rtol=1e-10)
    np.testing.assert_allclose(got["rate"], ETA, rtol=1e-10)
    np.testing.assert_allclose(got["learning_rate"], ETA, rtol=1e-10)
    np.testing.assert_allclose(got["steps"], np.arange(1, steps + 1))
    weights = 0.9 ** np.arange(steps)[::-1]
    mean_square = np.sum(weights * norm(u) ** 2) / weights.sum()
    assert got["update_ratio"][-1] == pytest.approx(mean_square**0.5 / norm(theta)[-1], rel=1e-9)

    # The optimizer measures the same log-rate; without its state the monitor's own is shown.
    xi, work = np.zeros(theta.shape[1]), []
    for t in range(steps):
        work.append((xi @ g[t], xi @ u[t]))
        xi = (1 - 1 / max(8, t)) * xi + u[t]
    against, along = np.array(work).T
    np.testing.assert_allclose(got["log_rate"][1:], -against[1:] / (norm(g) * norm(u) / 2)[1:], rtol=1e-8)
    balance = -2 * np.sum(weights * along) / np.sum(weights * norm(u) ** 2)
    assert got["fluctuation_dissipation"][-1] == pytest.approx(balance, rel=1e-9)
    turn = np.exp(np.clip(got["gauge"] + 0.5, -1, 1))
    np.testing.assert_allclose(got["recommended_learning_rate"], ETA * turn, rtol=1e-9)

    # Every fourth step a measurement, at the parameters before that step and on its batch; held in between.
    last, trace, signal, count = 0, 0.0, 0.0, 0
    unravel = ravel_pytree(network())[1]
    energy = jax.jit(lambda v, b: loss_fn(unravel(v), b))
    bend, slope = jax.jit(jax.hessian(energy)), jax.jit(jax.grad(energy))
    for t in range(0, steps, EVERY):
        batch = (data[0][t], data[1][t])
        hessian = np.asarray(bend(theta[t], batch))
        micro = np.stack([slope(theta[t], jax.tree.map(lambda x, k=k: x[k::4], batch)) for k in range(4)])
        one = 6 * micro.var(0, ddof=1).sum()
        count += 1
        weight = 0.2 / (1 - 0.8**count)
        trace += weight * (one - trace)
        signal += weight * (np.sum(micro.mean(0) ** 2) - one / BATCH - signal)
        line = [float(energy(theta[last] + s * (theta[t] - theta[last]), batch)) for s in np.linspace(0, 1, 9)]
        survives = rx.quantization.report(theta[t], u[t], "bfloat16")
        expected = {
            "lambda_max": np.linalg.eigvalsh(hessian)[-1],
            "batch_sharpness": g[t] @ hessian @ g[t] / (g[t] @ g[t]),
            "step_edge": ETA / 2 * (g[t] @ hessian @ g[t]) / (g[t] @ g[t]),
            "edge": ETA / 2 * np.linalg.eigvalsh(hessian)[-1],
            "barrier": max(line) - line[-1],
            "ridge": max(line) - max(line[0], line[-1]),
            "survival": float(survives.fraction),
            "survival_abs": float(survives.fraction_abs),
            "survival_squared": float(survives.fraction_squared),
            "trace_sigma": trace,
            "trace_c": trace / BATCH,
            "squared_gradient": signal,
            "noise_to_signal": trace / BATCH / signal,
            "critical_batch": trace / signal,
            "recommended_batch": 4 * trace / (signal + trace / BATCH),
            "temperature": float(rx.effective_temperature(ETA, trace=trace / BATCH)),
            "temperature_per_parameter": ETA / 2 * trace / BATCH / theta.shape[1],
            "noise_scale": float(rx.noise_scale(ETA, 1000, BATCH)),
            "sde_valid": float(ETA * np.linalg.eigvalsh(hessian)[-1] <= 0.2),
        }
        if t:
            full, half = (np.sum((theta[i] - theta[last]) ** 2) for i in (t, last + EVERY // 2))
            expected["growth_exponent"] = np.log2(full / half)
        for name, value in expected.items():
            shown = got[name][t : t + EVERY]
            np.testing.assert_allclose(shown, value, rtol=2e-5, atol=1e-9, err_msg=name)
            assert np.all(shown == shown[0]) or name in (
                "edge",
                "temperature",
                "temperature_per_parameter",
                "noise_scale",
            )
        last = t


def test_other_sources_of_noise():
    """Stacked micro-batch gradients, a batch controller, differences; and none, which leaves the metrics out."""
    g = np.random.default_rng(3).standard_normal((6, 4, 7)) + 0.5
    start = jnp.zeros(7)
    controller = rx.optim.batch_controller(optax.sgd(0.1), 8, k_max=2, rule="norm_test")
    monitor, single = rx.Monitor(8, decay=0.5, number_format=None), rx.Monitor(differences=False, number_format=None)

    def run(g):
        seen, states, out = [monitor.init(start)] * 3, controller.init(start), []
        for stack in g:
            mean = jnp.mean(stack, axis=0)
            _, states = controller.update(mean, states, start)
            common: dict = {"params": start, "grads": mean, "updates": -mean}
            a, m = monitor.update(seen[0], micro_grads=stack, **common)
            b, n = monitor.update(seen[1], opt_state=states, **common)
            c, o = monitor.update(seen[2], learning_rate=0.1, **common)
            seen, _ = [a, b, c], out.append((m, n, o))
        bare = single.update(single.init(start), params=start, grads=g[0, 0], updates=g[0, 0])[1]
        return out, states, bare

    out, states, bare = compiled(run)(jnp.asarray(g))
    weights = 0.5 ** np.arange(6)[::-1]
    stacked = g.var(1, ddof=1).sum(-1) / 4
    stack, held, differ = out[-1]
    assert stack["trace_c"] == pytest.approx(weights @ stacked / weights.sum(), rel=1e-9)
    mean = g.mean(1)
    assert stack["squared_gradient"] == pytest.approx(weights @ ((mean**2).sum(-1) - stacked) / weights.sum(), rel=1e-9)
    assert held["trace_sigma"] == pytest.approx(float(states.trace_sigma), rel=1e-9) and float(held["trace_sigma"]) > 0
    assert held["recommended_batch"] == states.recommended_batch and held["skipped"] == 0
    jumps = 0.5 * ((mean[1:] - mean[:-1]) ** 2).sum(-1)
    assert differ["trace_c"] == pytest.approx(weights[1:] @ jumps / weights[1:].sum(), rel=1e-9)
    inner = (mean[1:] * mean[:-1]).sum(-1)
    assert differ["squared_gradient"] == pytest.approx(weights[1:] @ inner / weights[1:].sum(), rel=1e-9)
    assert float(differ["learning_rate"]) == pytest.approx(0.1)
    for name in ("loss", "trace_c", "temperature", "critical_batch", "lambda_max", "edge", "learning_rate", "survival"):
        assert name not in bare
    assert {"rate", "log_rate", "gauge", "growth_exponent", "update_ratio"} <= set(bare)


def test_steps_that_are_not_finite_are_counted_and_do_not_spread():
    """Under vmap over runs: one with a spoiled step is, from there on, the run without that step."""
    data = batches(9)
    # The second run leaves the spoiled batch out, and repeats the last one to be as long.
    fewer = jax.tree.map(lambda x: x[np.array([0, 1, 2, 3, 4, 6, 7, 8, 8])], data)
    monitor = rx.Monitor(every=3, lanczos_steps=6, number_format=None)
    optimizer = optax.sgd(ETA)
    run = jax.vmap(lambda data, spoil: train(monitor, optimizer, network(), data, spoil=spoil)[1][0])
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), data, fewer)
    found = jax.tree.map(np.asarray, compiled(run)(both, jnp.array([5, -1])))
    spoiled, clean = ({name: x[i] for name, x in found.items()} for i in (0, 1))
    np.testing.assert_array_equal(spoiled["nonfinite"], [0, 0, 0, 0, 0, 1, 1, 1, 1])
    assert np.isnan(spoiled["grad_norm"][5]) and np.isnan(spoiled["update_norm"][5])
    for name in spoiled:
        if name != "nonfinite":
            np.testing.assert_allclose(spoiled[name][6:], clean[name][5:8], rtol=1e-9, atol=1e-12, err_msg=name)
        if name not in ("nonfinite", "grad_norm", "update_norm", "param_norm", "update_ratio"):
            assert spoiled[name][5] == spoiled[name][4], name


def test_bfloat16_and_no_second_compilation():
    monitor = rx.Monitor(every=3, lanczos_steps=12)
    data = batches(7, jnp.bfloat16)
    program: Any = compiled(lambda p: train(monitor, rx.optim.rate_sgd(20), p, data))
    params = network(jnp.bfloat16)
    (_, _, state), (found, _) = program(params)
    program(jax.tree.map(lambda p: p / 2, params))
    assert program._cache_size() == 1
    assert all(x.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(x))) for x in found.values())
    assert state.displacement["a"].dtype == jnp.float32 and state.snapshot["a"].dtype == jnp.bfloat16
    # Sums of squares of bfloat16 numbers, taken in float32.
    wide = np.concatenate([np.asarray(p, np.float64).ravel() for p in jax.tree.leaves(params)])
    assert float(found["param_norm"][0]) == pytest.approx(np.linalg.norm(wide), rel=1e-6)
    direct = jax.jit(jax.hessian(lambda v: loss_fn(ravel_pytree(network())[1](v), jax.tree.map(lambda x: x[0], data))))
    top = np.linalg.eigvalsh(np.asarray(direct(jnp.asarray(ravel_pytree(network())[0])), np.float64))[-1]
    assert float(found["lambda_max"][0]) == pytest.approx(top, rel=0.1)
    assert 0 < float(found["survival"][-1]) < 1


def test_a_complex_parameter_counts_as_two():
    """Its real and its imaginary part survive rounding each by itself."""
    monitor = rx.Monitor(every=2)
    theta = jnp.array([1.0 + 256.0j])
    step = lambda p, u: monitor.update(monitor.init(p), params=p, grads=p.conj(), updates=u)[1]
    found = compiled(step)(theta, jnp.array([0.25 + 0.25j]))
    assert float(found["survival"]) == 0.5 and float(found["param_norm"]) == pytest.approx(abs(1 + 256j))


def test_an_equinox_module_as_it_is():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    monitor = rx.Monitor(every=2, lanczos_steps=3, number_format=None)
    loss = lambda m, b: jnp.mean((jax.vmap(m)(b[0]) - b[1]) ** 2)
    batch = (jnp.ones((4, 2)), jnp.zeros((4, 1)))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(loss)(model, batch)
        updates = jax.tree.map(lambda g: -0.1 * g, grads)
        more = {"loss_fn": loss, "batch": batch}
        return monitor.update(state, params=model, grads=grads, updates=updates, **more)

    _, found = step(model, monitor.init(model))
    assert float(found["rate"]) == pytest.approx(0.1) and float(found["lambda_max"]) > 0


def test_the_page_of_names_is_complete():
    """Every metric has a line in the documentation, and the documentation invents none."""
    page = (ROOT / "docs/optimizers.md").read_text()
    section = page[page.index("## What each monitored number tells you to do") :]
    named = {n for row in re.findall(r"^\| (`.*?) \|", section, re.M) for n in re.findall(r"`(\w+)`", row)}
    assert named >= set(ENTRIES)


def test_live_table_page_and_refusals(tmp_path):
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=100)
    metrics = {"loss": 0.25, "edge": np.float32(1.2), "log_rate": jnp.asarray(-1.0), "own": 3.0}
    with rx.Monitor().live(total=10, console=screen) as table:
        table.show(3, metrics)
        table.show(4, {"loss": 0.125})
        table.show(10, metrics)
    text = out.getvalue()
    assert (
        "step 3 of 10" in text and "above the edge of stability" in text and "at equilibrium" in text and "own" in text
    )
    assert "0.125" not in text
    with rx.Monitor().live(console=Console(file=io.StringIO())) as silent:
        silent.show(1, metrics)

    history = {"loss": np.linspace(1, 0.1, 30), "edge": np.full(30, 0.8), "temperature": np.geomspace(1, 0.1, 30)}
    figure = rx.plot.status(history)
    figure.savefig(tmp_path / "page.png", dpi=40)
    titles = [ax.get_title() for ax in figure.axes]
    assert "loss" in titles and "edge of stability" in titles and "temperature" in titles
    np.testing.assert_allclose(np.asarray(figure.axes[0].lines[0].get_ydata()), history["loss"])
    rows = list(csv.DictReader(io.StringIO("loss,edge\n1.0,0.5\n0.5,0.6\n")))
    assert len(rx.plot.status([{k: float(v) for k, v in row.items()} for row in rows]).axes) == 2

    x = jnp.ones(2)
    state = rx.Monitor().init(x)
    see = lambda x, state=state, **more: rx.Monitor().update(state, params=x, grads=x, updates=x, **more)
    cases = [
        (lambda: rx.Monitor(every=1), "`every` must be a whole number of at least 2"),
        (lambda: see(x, loss=x), r"`loss` must be one number, but it has shape \(2,\)"),
        (lambda: see(x, learning_rate=x), r"`learning_rate` must be one number, but it has shape \(2,\)"),
        (lambda: see({"w": x, "b": x}), r"`state` must be shaped like `params`, but it has \[\(''.* and not .*'w'"),
        (lambda: see(x.astype(jnp.float32)), "`state` must be shaped like `params`, .*float64.* and not .*float32"),
        (lambda: see(x, rx.Monitor(differences=False).init(x)), r"`state` must be .* it has \[\] and not"),
        (lambda: rx.Monitor(batch_size=0), "`batch_size` must be a number in"),
        (lambda: rx.Monitor(number_format="bfloat17"), "`number_format` must be one of"),
        (lambda: rx.Monitor().update(state, params=x, grads=jnp.ones(3), updates=x), "`grads` must be shaped like"),
        (
            lambda: rx.Monitor().update(state, params=x, grads=x, updates=x, micro_grads=x[None]),
            "`micro_grads` must hold at least two",
        ),
        (
            lambda: rx.Monitor().update(state, params=x, grads=x, updates=x, micro_grads=x),
            r"`micro_grads` must be shaped like `params`, but it has .*\(2,\).* and not .*\(2, 2\)",
        ),
        (lambda: rx.plot.status({}), "`history` must hold"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
