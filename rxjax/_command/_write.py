"""The files of a run."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr

from .. import plot
from .._dataset import to_dataset
from ._errors import Refusal
from ._output import Staged
from ._progress import Stages
from ._run import Run


def write(run: Run, folder: Path, animation: bool, options: dict[str, Any], stages: Stages) -> list[Path]:
    """Write picture, loss curve, data and, if asked for, the animation; all of them or none."""
    name, flow, ready = run.problem.file, run.flow, run.ready
    look: dict[str, Any] = {"names": ready.names}
    if flow.grid.dim == 2:
        look["points"] = ready.points
    try:
        with Staged(folder) as staged:
            stages.say("Drawing")
            plot.density(flow, **look).savefig(staged.path(f"{name}.png"), dpi=150)
            plot.loss(flow).savefig(staged.path(f"{name}-loss.png"), dpi=150)
            if animation:
                stages.say("Drawing the animation", total=1.0)
                plot.animate(flow, staged.path(f"{name}.gif"), dpi=90.0, on_frame=stages.done, **look)
            stages.say("Writing data")
            data = to_dataset(flow, **attributes(run, options))
            data.to_netcdf(staged.path(f"{name}.nc"), engine="h5netcdf")
    except OSError as error:
        raise Refusal(f"Argument `--out` must be a folder that can be written, but {error}.") from None
    return staged.files


def attributes(run: Run, options: dict[str, Any]) -> dict[str, Any]:
    """All settings of the run, for the data file."""
    settings = run.settings
    return {
        "title": f"Probability flow: {run.problem.title}",
        "landscape": run.problem.file,
        "gradient_covariance": "measured" if run.measured else list(settings.covariance or ()),
        "noise_scale": run.noise_scale,
        "start": list(settings.start or ()),
        "start_std": list(settings.std or ()),
        "end_time": settings.time,
        "command_options": json.dumps(options),
        "facts": json.dumps(run.ready.facts, ensure_ascii=False),
        **{f"point_{label}": list(place) for label, place in run.ready.points.items()},
        **{f"seconds_to_{stage}": value for stage, value in run.seconds.items()},
        "numpy_version": np.__version__,
        "xarray_version": xr.__version__,
        "matplotlib_version": matplotlib.__version__,
    }
