"""Tables from the stored results of the optimizer study."""

from pathlib import Path

import numpy as np
from _bench import table

PROTOCOL = {
    "fast": "Reduced for two cores: budgets of 150 to 1000 steps, 1500 to 6000 on the last three tasks, "
    "networks of 40 to 12,000 parameters.  The last three tasks were added later, since AdamW at 1e-3 is good on none "
    "of the others.",
    "full": "Budgets four times those of the fast study, its first 14 tasks; of peers and references only those below.",
}


def _array(rows, field):
    return np.array([float(r[field]) for r in sorted(rows, key=lambda r: int(r["seed"]))])


def _finite(x):
    """A run that has diverged counts as infinitely bad."""
    return np.where(np.isfinite(x), x, np.inf)


def _tuned(rows, kinds):
    """The rows of the best setting among `kinds` (words of the setting) by the mean log of the training loss."""
    groups = {}
    for r in rows:
        if any(kind in r["setting"] for kind in kinds):
            groups.setdefault(r["setting"], []).append(r)
    return min(groups.values(), key=lambda g: np.mean(np.log(_finite(_array(g, "train")))))


def _interval(ratios):
    """Median and its paired bootstrap interval over seeds."""
    random = np.random.default_rng(0)
    draws = np.median(ratios[random.integers(0, ratios.size, (4000, ratios.size))], axis=1)
    low, high = np.quantile(draws, (0.05, 0.95), method="nearest")
    return float(np.median(ratios)), float(low), float(high)


def _score(start, train, reference):
    return np.mean(np.clip(np.log(start / train) / np.log(start / reference), -1, 1.25))


def _number(x):
    return f"{x:.3g}" if np.isfinite(x) else "diverged"


def _task(rows):
    """Every method of one task: training losses, validation losses, and those of the references."""
    by = {}
    for r in rows:
        by.setdefault(r["optimizer"], []).append(r)
    references = {
        "tuned adamw, cosine": _tuned(by["adamw"], ("cosine",)),
        "tuned adamw, linear": _tuned(by["adamw"], ("linear",)),
    }
    if "adam" in by:
        references |= {
            "tuned adam, cosine": _tuned(by["adam"], ("cosine",)),
            "tuned adam, linear": _tuned(by["adam"], ("linear",)),
        }
    references["better"] = _tuned(by["adamw"], ("cosine", "linear"))
    methods = {name: group for name, group in by.items() if name not in ("adamw", "adam")}
    return references, {**methods, **{k: v for k, v in references.items() if k != "better"}}


def _study(rows, name):
    tasks = {}
    for r in rows:
        tasks.setdefault(r["task"], []).append(r)
    tasks = {t: _task(group) for t, group in tasks.items() if any(r["optimizer"] == "adamw" for r in group)}
    names = sorted({m for _, methods in tasks.values() for m in methods}, key=lambda m: ("rate" not in m, m))
    ratio = lambda t, m, ref, field: (
        _finite(_array(tasks[t][1][m], field)) / _array(tasks[t][0][ref], field) if m in tasks[t][1] else None
    )

    summary = []
    for m in names:
        line = [m]
        for ref in ("better", "tuned adamw, cosine"):
            medians = [np.median(x) for t in tasks if (x := ratio(t, m, ref, "train")) is not None]
            scores = [
                _score(
                    _array(tasks[t][1][m], "start"),
                    _finite(_array(tasks[t][1][m], "train")),
                    _array(tasks[t][0][ref], "train"),
                )
                for t in tasks
                if m in tasks[t][1]
            ]
            line += [f"{np.mean(np.array(medians) <= b):.0%}" for b in (1.0, 1.15, 1.5)] + [f"{np.mean(scores):.3f}"]
            if ref == "better":
                line.insert(1, str(len(medians)))
        valid = [np.median(x) for t in tasks if (x := ratio(t, m, "tuned adamw, cosine", "valid")) is not None]
        summary.append([*line, f"{np.exp(np.mean(np.log(valid))):.2f}"])
    summary.sort(key=lambda r: -float(r[5]))

    ours, detail = "rate_adamw", []
    for t, (references, methods) in tasks.items():
        if ours not in methods:
            continue
        cosine, better = references["tuned adamw, cosine"], references["better"]
        train = [_interval(ratio(t, ours, ref, "train")) for ref in ("better", "tuned adamw, cosine")]
        valid = _interval(ratio(t, ours, "tuned adamw, cosine", "valid"))
        show = lambda x: f"{x[0]:.2f} [{x[1]:.2f}, {x[2]:.2f}]"
        default = ratio(t, "adamw 1e-3, cosine", "tuned adamw, cosine", "train")
        detail.append(
            [
                t,
                _number(np.median(_array(cosine, "start"))),
                f"{_number(np.median(_array(cosine, 'train')))} ({cosine[0]['setting']})",
                f"{_number(np.median(_array(better, 'train')))} ({better[0]['setting']})",
                show(train[0]),
                show(train[1]),
                show(valid),
                "" if default is None else f"{np.median(default):.2f}",
            ]
        )

    def cell(t, m):
        x = ratio(t, m, "tuned adamw, cosine", "train")
        return "" if x is None else _number(np.median(x))

    others = [[t, *(cell(t, m) for m in names)] for t in tasks]
    head = ["method", "tasks", *(f"<= {b}x better" for b in (1, 1.15, 1.5)), "score", *("<= 1x", "<= 1.15x", "<= 1.5x")]
    return "\n\n".join(
        [
            f"## The {name} study",
            PROTOCOL[name],
            "Shares of tasks by the median over seeds of the final training loss relative to tuned AdamW: first to the "
            "better of cosine and linear decay, then to cosine.  Last: the geometric mean of the validation loss "
            "relative to tuned AdamW-cosine.",
            table([*head, "score vs cosine", "validation"], summary),
            "`rate_adamw` task by task, with 90 % paired bootstrap intervals of the median over five seeds; in round "
            "brackets the tuned rate, decay and warm-up.",
            table(
                [
                    "task",
                    "loss at start",
                    "tuned adamw, cosine",
                    "better of cosine and linear",
                    "ours / better",
                    "ours / cosine",
                    "validation / cosine",
                    "adamw 1e-3 / cosine",
                ],
                detail,
            ),
            "Everyone: median training loss relative to tuned AdamW-cosine.",
            table(["task", *names], others),
        ]
    )


def report(doc: str, rows: list[dict], times: Path) -> str:
    """The page: how it was done, the tables of each study, the time of a step."""
    parts = ["# Optimizers without a learning rate", doc.split("\n\n", 2)[2]]
    for name in ("fast", "full"):
        some = [r for r in rows if r["study"] == name]
        if some:
            parts.append(_study(some, name))
    if times.exists():
        parts += ["## Time of a whole jitted train step", times.read_text().strip()]
    return "\n\n".join(parts)
