"""The configuration of `rxjax sweep`: the tables of the file, and what each key may be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _schema as rule
from ._errors import Refusal
from ._problems import TOYS

SETTINGS = ("learning_rate", "batch_size", "dataset_size", "momentum", "covariance")
QUANTITIES = ("escape_time", "density", "mean_loss", "noise_scale")
_TABLES = ("function", "landscape", "axes", "run", "plot")

_AXIS = {
    "from": rule.number(...),
    "to": rule.number(...),
    "points": rule.whole(2, ...),
    "spacing": rule.choice(("linear", "log"), "linear"),
    "whole": rule.truth(),
}
_LANDSCAPE = {
    "name": rule.text(...),
    "dim": rule.whole(1),
    "bounds": rule.Rule(lambda x: isinstance(x, str), "be a text like -2:2 or -2:2,-3:3"),
    "shape": rule.wholes(2),
    "quantities": rule.choices(QUANTITIES, ["escape_time"]),
    "start": rule.numbers(),
    "std": rule.numbers(),
    "time": rule.positive(),
    "target_axis": rule.whole(0, 0),
    "target_above": rule.number(),
    "target_below": rule.number(),
    "sampling": rule.choice(("with_replacement", "without_replacement"), "with_replacement"),
    "learning_rate": rule.positive(),
    "batch_size": rule.positive(),
    "dataset_size": rule.positive(),
    "momentum": rule.number(),
    "covariance": rule.positive(),
}
_RUN = {
    "store": rule.text(),
    "out": rule.text("out"),
    "memory": rule.Rule(lambda x: type(x) in (int, str), 'be bytes or a text like "1 GiB"'),
    "chunk": rule.whole(1),
    "devices": rule.whole(1),
    "precision": rule.choice((32, 64), 64),
    "seed": rule.seed(),
    "zipped": rule.truth(),
}
_PLOT = {"variables": rule.texts(), "log": rule.truth(None), "x": rule.text(), "y": rule.text()}


@dataclass(frozen=True)
class Settings:
    """A configuration that can be run: a landscape or a function, axes, and how."""

    path: Path
    function: str | None
    landscape: dict[str, Any]
    axes: dict[str, list[Any]]
    run: dict[str, Any]
    plot: dict[str, Any]


def read(path: Path) -> Settings:
    """The configuration in a file, or a refusal that names the file, the key and what is allowed."""
    config = rule.Config(path)
    tables = config.known(_TABLES, config.tables)
    function = tables.get("function")
    if (function is None) == ("landscape" not in tables):
        what = "neither is there" if function is None else "both are there"
        raise Refusal(f"{path}: `landscape` (a table) or `function` (module:function) must be given, but {what}.")
    if function is not None and not (isinstance(function, str) and ":" in function):
        config.refuse("function", "be a text that reads module:function", function)
    axes = _axes(config, None if function is not None else SETTINGS)
    landscape = {} if function is not None else _landscape(config, axes)
    plot, run = config.read("plot", _PLOT), config.read("run", _RUN)
    if function is None and run["seed"] is not None:
        raise Refusal(f"{path}: `run.seed` must come with a `function` that takes a `key`, but there is none.")
    return Settings(path, function, landscape, axes, run, plot)


def _axes(config: rule.Config, allowed: tuple[str, ...] | None) -> dict[str, list[Any]]:
    table = config.tables.get("axes", {})
    if allowed is not None or not isinstance(table, dict):
        table = config.known(allowed or (), table, "axes.")
    if not table:
        raise Refusal(f"{config.path}: `axes` must name an axis, like learning_rate = [0.1, 0.2], but it is empty.")
    return {name: _axis(config, name, value) for name, value in table.items()}


def _axis(config: rule.Config, name: str, value: Any) -> list[Any]:
    import numpy as np

    key = f"axes.{name}"
    if isinstance(value, list):
        if not value or not rule.numbers().test(value):
            config.refuse(key, "be a list of finite numbers", value)
        return value
    if not isinstance(value, dict):
        must = 'be a list of numbers, or a table { from = 0.01, to = 0.1, points = 16, spacing = "log" }'
        config.refuse(key, must, value)
    given = config.checked(_AXIS, config.known(_AXIS, value, f"{key}."), f"{key}.")
    low, high, log = given["from"], given["to"], given["spacing"] == "log"
    if log and not (low > 0 and high > 0):
        config.refuse(f"{key}.from", 'be positive, like `to`, for spacing = "log"', min(low, high))
    values = np.geomspace(low, high, given["points"]) if log else np.linspace(low, high, given["points"])
    if given["whole"]:
        values = np.unique(np.rint(values).astype(int))
    return values.tolist()


def _landscape(config: rule.Config, axes: dict[str, list[Any]]) -> dict[str, Any]:
    values = config.read("landscape", _LANDSCAPE)
    if values["name"] not in TOYS and ":" not in values["name"]:
        config.refuse("landscape.name", f"be one of {', '.join(TOYS)}, or module:function", values["name"])
    for name in axes:
        if values[name] is not None:
            raise Refusal(f"{config.path}: `landscape.{name}` must not be given beside `axes.{name}`, but it is.")
    sides = [values["target_above"], values["target_below"]]
    if "escape_time" in values["quantities"] and sum(s is not None for s in sides) != 1:
        raise Refusal(
            f"{config.path}: `landscape.target_above` or `landscape.target_below` must be given for escape_time, but "
            "not both: where on the axis `landscape.target_axis` the escape ends."
        )
    return values
