"""Optimizers without a learning rate against tuned ones: final losses, scores, and the time of a step.

`python optimizers.py --fast --minutes 5` runs what is missing in optimizers.csv for five minutes and stops; again until
nothing is missing.  Without `--fast` every budget is four times as long.  `--time` measures the step times, `--time
optimizers` or `--time monitor` one table of them; `--report` writes optimizers.md from what is stored.

References: Adam and AdamW (weight decay 1e-4), each with cosine and with linear decay, without and with 5 % warm-up,
tuned over 7 rates from 1e-4 to 1e-1 by the mean log of the final training loss over the seeds that are reported: the
tuning favours the references.  Peers at their defaults, nothing tuned.  Training loss: on up to 1024 training examples
at the end.  Seeds are paired: one seed means one start and one sequence of batches for every optimizer.
Score = clip(log(l0/l)/log(l0/l_ref), -1, 1.25) with the loss l0 at the start and l_ref of tuned AdamW-cosine.
"""

import sys

from _bench import in_turns, one_core, table, write

if "--time" in sys.argv:
    one_core()

import argparse  # noqa: E402
import csv  # noqa: E402
import functools  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from optimizer_tasks import SEEDS, TASKS, cross_entropy, dense, forward  # noqa: E402

import rxjax as rx  # noqa: E402

RATES = tuple(float(f"{r:.3g}") for r in np.logspace(-4, -1, 7))
HERE = Path(__file__).parent
FIELDS = ("study", "task", "optimizer", "setting", "seed", "start", "train", "valid")
contrib = optax.contrib
# Compiling is most of the time here.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


def decay(steps, kind, warm):
    """Peak 1; `kind` 0 cosine, 1 linear; `warm` the share of steps of linear warm-up."""

    def schedule(count):
        t = jnp.asarray(count, jnp.float32)
        rise = jnp.where(warm > 0, (t + 1) / jnp.maximum(warm * steps, 1), 1)
        done = jnp.clip((t - warm * steps) / ((1 - warm) * steps), 0, 1)
        fall = jnp.where(kind == 0, (1 + jnp.cos(jnp.pi * done)) / 2, 1 - done)
        return jnp.minimum(rise, 1) * fall

    return schedule


OURS = {
    "rate_adamw": lambda n: rx.optim.rate_adamw(n),
    "rate_adamw, no Nesterov": lambda n: rx.optim.rate_adamw(n, nesterov=False),
    "rate_adamw, slow start": lambda n: rx.optim.rate_adamw(n, leap=1.0, growth=0.04),
    "rate_adamw, no horizon": lambda n: rx.optim.rate_adamw(),
    "rate_sgd, momentum .9": lambda n: rx.optim.rate_sgd(n, momentum=0.9),
}
PEERS = {
    "adamw 1e-3, cosine": lambda n: optax.adamw(optax.cosine_decay_schedule(1e-3, n)),
    "prodigy": lambda n: contrib.prodigy(),
    "prodigy, cosine": lambda n: contrib.prodigy(optax.cosine_decay_schedule(1.0, n)),
    "schedule_free_adamw": lambda n: contrib.schedule_free_adamw(),
    "momo_adam": lambda n: contrib.momo_adam(),
    "mechanic, adamw": lambda n: contrib.mechanize(optax.adamw(1.0)),
    "dadapt_adamw": lambda n: contrib.dadapt_adamw(),
    "dog": lambda n: contrib.dog(),
    "cocob": lambda n: contrib.cocob(),
}
REFERENCES = ("adamw", "adam")


def train(task, make, steps, name):
    """A function of the seed: loss at the start, training loss and validation loss at the end."""
    x, y = task.train
    shown = tuple(a[:1024] for a in task.train)

    def run(seed, *setting):
        k_start, k_batch = jr.split(jr.key(seed))
        params = task.init(k_start)
        optimizer = optax.with_extra_args_support(make(steps, *setting))

        def step(carry, key):
            params, state = carry
            batch = jr.randint(key, (task.batch,), 0, x.shape[0])
            value, grads = jax.value_and_grad(task.loss)(params, x[batch], y[batch])
            updates, state = optimizer.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        start = task.loss(params, *shown)
        (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), jr.split(k_batch, steps))
        if name == "schedule_free_adamw":
            params = contrib.schedule_free_eval_params(state, params)
        return start, task.loss(params, *shown), task.loss(params, *task.valid)

    return run


def reference(name):
    def make(steps, rate, kind, warm):
        shape = decay(steps, kind, warm)
        return optax.adamw(lambda t: rate * shape(t), weight_decay=1e-4 if name == "adamw" else 0.0)

    return make


def settings():
    return [(r, kind, warm) for kind in (0, 1) for warm in (0.0, 0.05) for r in RATES]


def rows_of(study, task_name, name, factor):
    task = TASKS[task_name]()
    steps = task.steps * factor
    seeds = jnp.array(SEEDS)
    if name in REFERENCES:
        grid = jnp.array(settings())
        run = train(task, reference(name), steps, name)
        # One seed after the other: batched products of tiny matrices are slow on a CPU.
        one = compiled(lambda s, g: jax.lax.map(lambda seed: run(seed, *g), s))
        out = [jax.tree.map(np.asarray, one(seeds, g)) for g in grid]
        labels = [f"{r:.3g} {'linear' if kind else 'cosine'} {warm:g}" for r, kind, warm in settings()]
    else:
        run = train(task, {**OURS, **PEERS}[name], steps, name)
        out, labels = [jax.tree.map(np.asarray, compiled(lambda s: jax.lax.map(run, s))(seeds))], [""]
    return [
        [study, task_name, name, label, seed, *(f"{v[i]:.6g}" for v in losses)]
        for label, losses in zip(labels, out, strict=True)
        for i, seed in enumerate(SEEDS)
    ]


def read(path):
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def study(fast, minutes, only):
    """Run what is missing until the time is over."""
    end = time.monotonic() + 60 * minutes
    name, factor = ("fast", 1) if fast else ("full", 4)
    path = HERE / "optimizers.csv"
    done = {(r["study"], r["task"], r["optimizer"]) for r in read(path)}
    todo = [(t, o) for o in (*OURS, "adamw", *PEERS, "adam") for t in TASKS if (name, t, o) not in done]
    todo = [(t, o) for t, o in todo if not only or o in only]
    for task_name, optimizer in todo:
        if time.monotonic() > end:
            break
        begin = time.monotonic()
        rows = rows_of(name, task_name, optimizer, factor)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([FIELDS, *rows] if new else rows)
        print(f"{task_name}, {optimizer}: {time.monotonic() - begin:.1f} s", flush=True)
    left = sum((name, t, o) not in {(r["study"], r["task"], r["optimizer"]) for r in read(path)} for t, o in todo)
    print(f"{left} of {len(TASKS) * (len(only) or len([*OURS, *REFERENCES, *PEERS]))} runs are missing")


def timed_step(optimizer, sizes, batch, monitor=None, full=False, calls=20, scan=False):
    """Calls of a whole jitted train step, each from where the last one ended; `full` gives the monitor all it asks for.

    100 calls hold one of the measurements that the monitor makes every so many steps.  `scan` makes them one program.
    """
    params = dense(jr.key(0), sizes)
    data = jr.normal(jr.key(1), (batch, sizes[0])), jr.randint(jr.key(2), (batch,), 0, sizes[-1])
    loss_fn = lambda p, data: cross_entropy(forward(p, data[0]), data[1])
    more = {"loss_fn": loss_fn, "batch": data} if full else {}

    def step(params, state, seen):
        loss, grads = jax.value_and_grad(loss_fn)(params, data)
        updates, state = optimizer.update(grads, state, params)
        found = {}
        if monitor is not None:
            given = {"params": params, "grads": grads, "updates": updates, "loss": loss, "opt_state": state}
            seen, found = monitor.update(seen, **given, **more)
        return (optax.apply_updates(params, updates), state, seen), found

    one = jax.jit(step)
    many = jax.jit(lambda carry: jax.lax.scan(lambda c, _: step(*c), carry, length=calls)[0])
    carry = [(params, optimizer.init(params), None if monitor is None else monitor.init(params))]

    def call():
        if scan:
            carry[0] = jax.block_until_ready(many(carry[0]))
            return
        for _ in range(calls):
            carry[0], _ = jax.block_until_ready(one(*carry[0]))

    call()
    return call


STEPS = (((64, 128, 128, 10), 32), ((256, 512, 512, 10), 32), ((256, 512, 512, 10), 1024))


def optimizer_times():
    """Whole jitted train step, ours over adamw(lr): called from Python, and within a scan over 20 steps."""
    rows, pair = [], (optax.adamw(1e-3), rx.optim.rate_adamw(10**6))
    for sizes, batch in STEPS:
        each = [timed_step(o, sizes, batch, scan=scan) for scan in (False, True) for o in pair]
        a, b, c, d = np.array(in_turns(each, 5 if batch > 100 else 15)) / 20
        called = [f"{a * 1e6:.0f}", f"{b * 1e6:.0f}", f"{b / a:.2f}"]
        scanned = [f"{c * 1e6:.0f}", f"{d * 1e6:.0f}", f"{d / c:.2f}"]
        rows.append(["-".join(map(str, sizes)), str(batch), *called, *scanned])
    scan = ["in a scan: adamw", "rate_adamw", "ratio"]
    return table(["MLP", "batch", "adamw, us a step", "rate_adamw, us a step", "ratio", *scan], rows)


def monitor_times():
    """Whole jitted train step with adamw(lr), without and with the monitor."""
    rows, adamw = [], optax.adamw(1e-3)
    watchers = ((None, False), (rx.Monitor(number_format=None), False), (rx.Monitor(), True))
    for sizes, batch in STEPS:
        three = [timed_step(adamw, sizes, batch, monitor, full, calls=100) for monitor, full in watchers]
        a, b, c = np.array(in_turns(three, 3 if batch > 100 else 7)) / 100
        shape = "-".join(map(str, sizes))
        rows.append([shape, str(batch), f"{a * 1e6:.0f}", f"{b * 1e6:.0f}", f"{b / a:.2f}", f"{c / a:.2f}"])
    head = ["MLP", "batch", "adamw, us a step", "with the monitor", "ratio", "all entries, every 100 steps: ratio"]
    return table(head, rows)


def step_times(which):
    """Measure these tables, all of them if none is named, and keep the others as they are stored."""
    path = HERE / "optimizers_time.md"
    parts = {"optimizers": optimizer_times, "monitor": monitor_times}
    old = path.read_text().strip().split("\n\n") if path.exists() else [""] * len(parts)
    text = [
        measure() if name in (which or parts) else kept
        for (name, measure), kept in zip(parts.items(), old, strict=True)
    ]
    path.write_text("\n\n".join(text) + "\n")
    print(path.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="the short budgets, for two cores")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; run again to go on")
    parser.add_argument("--only", nargs="*", default=[], help="these optimizers, by name")
    parser.add_argument("--time", nargs="*", choices=("optimizers", "monitor"), help="measure step times only")
    parser.add_argument("--report", action="store_true", help="write optimizers.md from what is stored")
    arguments = parser.parse_args()
    if arguments.time is not None:
        step_times(arguments.time)
    elif arguments.report:
        from optimizer_report import report

        write("optimizers.md", report(__doc__ or "", read(HERE / "optimizers.csv"), HERE / "optimizers_time.md"))
    else:
        study(arguments.fast, arguments.minutes, arguments.only)


if __name__ == "__main__":
    main()
