"""A flow as a labelled data set, ready for a NetCDF file."""

from typing import Any

import jax
import numpy as np
import xarray as xr

from ._flow import Flow
from ._version import __version__


def to_dataset(flow: Flow, **attributes: Any) -> xr.Dataset:
    """A flow as an `xarray.Dataset` with labelled axes.

    Variables: `density` over `time` and the axes `x0`, `x1`, ... of the grid, `loss_landscape` over the axes,
    `mean_loss` over `time`.  The coordinate `steps` counts SGD steps beside `time`.  Hyperparameters, temperature and
    what the solver reports of itself become attributes, and each variable carries `long_name` and `units`.

    **Arguments:**

    - `flow`: what `rxjax.probability_flow` returned.
    - `attributes`: what else to note; numbers, strings and lists of them are kept, truth values become 0 and 1,
        anything else its text.

    **Returns:** the data set.  `dataset.to_netcdf(path, engine="h5netcdf")` writes it.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> bowl = rx.landscapes.Quadratic(1.0)
        >>> run = rx.Hyperparameters(learning_rate=0.05, batch_size=1, dataset_size=1000)
        >>> grid = rx.solvers.Grid(-3.0, 3.0, 64)
        >>> flow = rx.probability_flow(bowl, run, 2.0, grid, grid.gaussian(2.0, 0.2), jnp.linspace(0, 5, 3))
        >>> data = rx.to_dataset(flow, landscape="bowl")
        >>> dict(data.sizes), round(float(data.density.sel(time=5, method="nearest").integrate("x0")), 3)
        ({'time': 3, 'x0': 64}, 1.0)

        ```
    """
    ps = np.asarray(flow.ps)
    if ps.ndim != flow.grid.dim + 1:
        raise ValueError(f"Argument `flow` must be one flow, but its densities have shape {ps.shape}.")
    axes = [f"x{i}" for i in range(flow.grid.dim)]
    time = "learning rate x steps"
    coordinates: dict[str, Any] = {
        name: (name, np.asarray(x), {"long_name": f"landscape coordinate {i}", "units": "1"})
        for i, (name, x) in enumerate(zip(axes, flow.grid.axes, strict=True))
    }
    coordinates["time"] = ("time", np.asarray(flow.ts), {"long_name": "time", "units": time})
    coordinates["steps"] = ("time", np.asarray(flow.steps), {"long_name": "SGD steps", "units": "1"})
    variables = {
        "density": (("time", *axes), ps, {"long_name": "probability density, cell averages", "units": "1"}),
        "loss_landscape": (axes, np.asarray(flow.energy), {"long_name": "loss", "units": "1"}),
        "mean_loss": ("time", np.asarray(flow.loss), {"long_name": "mean loss", "units": "1"}),
    }
    run = flow.hyperparameters
    notes = {
        "learning_rate": run.learning_rate,
        "batch_size": run.batch_size,
        "dataset_size": run.dataset_size,
        "momentum": run.momentum,
        "sampling": run.sampling,
        "temperature": flow.temperature,
        "learning_rate_times_curvature": flow.eta_h,
        "diffusion_picture_valid": flow.valid,
        "boundary": [f"{low}/{high}" for low, high in flow.grid.boundary],
        "lower": flow.grid.lower,
        "upper": flow.grid.upper,
        **{f"solver_{k}": v for k, v in flow.stats.items()},
        "rxjax_version": __version__,
        "jax_version": jax.__version__,
        "Conventions": "CF-1.11",
    }
    return xr.Dataset(variables, coordinates, {k: attribute(v) for k, v in (notes | attributes).items()})


def attribute(value: Any) -> Any:
    """`value` as something that NetCDF and zarr can hold."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return str(value)
    if array.dtype == bool:
        array = array.astype(np.int8)
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating) or array.ndim > 1:
        return str(value)
    return array[()]
