"""`rxjax sweep`: from a configuration to a data set and pictures."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from .. import landscapes, plot
from .._flow import probability_flow
from .._hyperparameters import Hyperparameters
from .._sweep import sweep
from .._temperature import batch_covariance, noise_scale
from ..solvers import FokkerPlanck, Grid, mean_first_passage_time
from . import _parse
from ._errors import Refusal
from ._output import Staged
from ._own import load
from ._problems import find
from ._run import OnGrid, check_start
from ._sweep_config import SETTINGS, Settings

_LONG = {
    "escape_time": ("mean time to the target", "learning rate x steps"),
    "density": ("probability density at the end, cell averages", "1"),
    "mean_loss": ("mean loss at the end", "1"),
    "noise_scale": ("noise scale, learning rate x examples / batch size", "1"),
}


def run(settings: Settings) -> tuple[xr.Dataset, float]:
    """The data set of a configuration, and the seconds that it took."""
    fn, extra = _function(settings)
    options = {k: settings.run[k] for k in ("memory", "chunk", "devices", "store", "seed", "zipped")}
    axes: dict[str, Any] = dict(settings.axes)
    begin = time.perf_counter()
    data = sweep(fn, **options, **extra, **axes)
    seconds = time.perf_counter() - begin
    for name in set(_LONG) & set(data.data_vars):
        data[name].attrs.update(zip(("long_name", "units"), _LONG[str(name)], strict=True))
    return data, seconds


def _function(settings: Settings) -> tuple[Callable, dict[str, Any]]:
    notes = {"configuration": settings.path.read_text(encoding="utf-8")}
    if settings.function is not None:
        return load(settings.function, f"{settings.path.name}: `function`"), {"attributes": notes}
    given = settings.landscape
    bounds = _parse.bounds(given["bounds"])
    problem = find(given["name"], given["dim"], bounds, 0)
    ready = problem.prepare(None if bounds is None else np.asarray(bounds, np.float64))
    shape = given["shape"] or _parse.shape(ready.defaults.shape or "", problem.dim, 2)
    shape = [shape] * problem.dim if isinstance(shape, int) else shape
    if len(shape) != problem.dim:
        raise Refusal(f"{settings.path}: `landscape.shape` must hold {problem.dim} numbers, but it is {shape}.")
    if given["target_axis"] >= problem.dim:
        raise Refusal(
            f"{settings.path}: `landscape.target_axis` must be from 0 to {problem.dim - 1}, but it is "
            f"{given['target_axis']}."
        )
    box = np.asarray(ready.landscape.bounds, np.float64)
    grid = Grid(box[:, 0], box[:, 1], shape)
    fixed = {name: given[name] for name in SETTINGS if name not in settings.axes and given[name] is not None}
    defaults = ready.defaults
    for name in SETTINGS:
        if name not in fixed and name not in settings.axes:
            value = getattr(defaults, name)
            fixed[name] = value[0] if isinstance(value, tuple) else value
    place = {}
    for name in ("start", "std"):
        value = np.asarray(getattr(defaults, name) if given[name] is None else given[name], np.float64)
        if value.shape not in ((), (1,), (grid.dim,)):
            raise Refusal(f"{settings.path}: `landscape.{name}` must hold {grid.dim} numbers, but it is {given[name]}.")
        place[name] = np.broadcast_to(value, (grid.dim,))
    if set(given["quantities"]) != {"noise_scale"}:
        check_start(place["start"], grid, given["start"] is not None, lambda key: f"{settings.path}: `landscape.{key}`")
    fn = _quantities(ready.landscape, grid, given, fixed, place, given["time"] or defaults.time)
    attributes = notes | {"landscape": problem.file} | fixed
    if "density" not in given["quantities"]:
        return fn, {"attributes": attributes}
    axes = [f"x{i}" for i in range(grid.dim)]
    coords = {name: np.asarray(x) for name, x in zip(axes, grid.axes, strict=True)}
    return fn, {"attributes": attributes, "dims": {"density": axes}, "coords": coords}


def _quantities(
    landscape: Any, grid: Grid, given: dict[str, Any], fixed: dict[str, Any], place: dict[str, Any], end: float | None
) -> Callable:
    energy = landscapes.require_finite_values(landscapes.evaluate(landscape, grid.points)).astype(grid.lower.dtype)
    p0 = grid.gaussian(*(jnp.asarray(place[key], energy.dtype) for key in ("start", "std")))
    axis = given["target_axis"]
    above, below = given["target_above"], given["target_below"]
    reached = lambda theta: theta[axis] >= above if above is not None else theta[axis] <= below
    wanted = given["quantities"]

    def at(**swept):
        settings = fixed | swept
        sigma1 = settings.pop("covariance")
        run = Hyperparameters(**settings, sampling=given["sampling"])
        out = {}
        if "noise_scale" in wanted:
            scale = noise_scale(run.learning_rate, run.dataset_size, run.batch_size, momentum=run.momentum)
            out["noise_scale"] = jnp.asarray(scale, energy.dtype)
        if "escape_time" in wanted:
            temperature = run.learning_rate / (1 - run.momentum) / 2 * batch_covariance(sigma1, run)
            generator = FokkerPlanck.from_potential(energy, grid, temperature)
            tau, out["escape_result"] = mean_first_passage_time(generator, reached, throw=False)
            out["escape_time"] = grid.integrate(tau * p0)
        if "density" in wanted or "mean_loss" in wanted:
            ts = jnp.array([0.0, end], energy.dtype)
            flow = probability_flow(OnGrid(landscape, energy), run, sigma1, grid, p0, ts, throw=False)
            out["flow_result"], out["valid"] = flow.result, flow.valid
            out |= {"density": flow.ps[-1]} if "density" in wanted else {}
            out |= {"mean_loss": flow.loss[-1]} if "mean_loss" in wanted else {}
        return out

    return at


def write(data: xr.Dataset, settings: Settings) -> list[Path]:
    """The data set, unless it has a store, and a heat map of every variable over the first two axes."""
    names = settings.plot["variables"]
    drawable = [str(n) for n, v in data.data_vars.items() if v.ndim == 2 and v.dtype.kind in "fiu" and n != "status"]
    for name in names or ():
        if name not in drawable:
            raise Refusal(
                f"{settings.path}: `plot.variables` must hold variables over two axes, {', '.join(drawable)}, but it "
                f'holds "{name}".'
            )
    sides = {side: settings.plot[side] for side in ("x", "y") if settings.plot[side] is not None}
    for side, axis in sides.items():
        if axis not in data.dims:
            raise Refusal(
                f"{settings.path}: `plot.{side}` must be one of the axes {', '.join(map(str, data.dims))}, but it is "
                f'"{axis}".'
            )
    stem = settings.path.stem
    try:
        with Staged(Path(settings.run["out"])) as staged:
            for name in drawable if names is None else names:
                if np.isfinite(data[name].values).any():
                    own = {side: axis for side, axis in sides.items() if axis in data[name].dims}
                    plot.heatmap(data, name, log=settings.plot["log"], **own).savefig(
                        staged.path(f"{stem}-{name}.png"), dpi=150
                    )
            if settings.run["store"] is None:
                data.to_netcdf(staged.path(f"{stem}.nc"), engine="h5netcdf")
    except OSError as error:
        raise Refusal(f"{settings.path}: `run.out` must be a folder that can be written, but {error}.") from None
    return staged.files


def report(data: xr.Dataset, seconds: float, console: Console) -> None:
    """Print what came out."""
    axes = ", ".join(f"{name} {data.sizes[name]}" for name in data["status"].dims)
    table = Table(title=f"Sweep over {axes}", title_justify="left", box=None)
    for heading in ("variable", "least", "median", "largest"):
        table.add_column(heading, justify="left" if heading == "variable" else "right", header_style="cyan")
    for name, variable in data.data_vars.items():
        if variable.dtype.kind == "f":
            values = variable.values[np.isfinite(variable.values)]
            row = [f"{f(values):.4g}" for f in (np.min, np.median, np.max)] if values.size else ["none"] * 3
            table.add_row(str(name), *row)
    console.print(table)
    reasons, counts = np.unique(data["status"].values, return_counts=True)
    console.print(f"{data['status'].size} points in {seconds:.1f} s, compiling included", highlight=False)
    for reason, number in zip(reasons, counts, strict=True):
        if reason != "ok":
            console.print(f"{number} failed: {reason}", style="yellow", highlight=False, soft_wrap=True)
