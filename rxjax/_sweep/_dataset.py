"""Results with their labels."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np
import xarray as xr

from .._dataset import attribute
from .._version import __version__
from ._axes import Points
from ._outputs import STATUS, Output

LONG_NAMES = {
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "dataset_size": "examples in all",
    STATUS: "why a point failed, or ok",
}


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    return {
        "rxjax_version": __version__,
        "jax_version": jax.__version__,
        "jaxlib_version": jaxlib.__version__,
        "numpy_version": np.__version__,
        "python_version": platform.python_version(),
    }


def labelled(
    points: Points, variables: Mapping[str, Any], coords: Mapping[str, Any], attributes: Mapping[str, Any]
) -> xr.Dataset:
    """Variables, coordinates and attributes as one data set."""
    notes = {name: attribute(value) for name, value in attributes.items()}
    data = xr.Dataset(variables, {**points.coordinates(), **coords}, notes)
    for name in set(data.variables) & set(LONG_NAMES):
        data[name].attrs["long_name"] = LONG_NAMES[str(name)]
    return data


def check_labels(points: Points, outputs: Sequence[Output], coords: Mapping[str, Any]) -> None:
    """Refuse labels that do not fit before anything is computed."""
    for name in set(coords) & set(points.values):
        raise ValueError(f"Argument `coords` must name what `fn` returns, but it names the axis `{name}`.")
    blank = {
        o.name: ((*points.dims, *o.dims), np.broadcast_to(o.missing, (*points.shape, *o.shape)))
        for o in outputs
        if o.result is None
    }
    try:
        labelled(points, blank, coords, {})
    except ValueError as error:
        raise ValueError(f"Arguments `dims` and `coords` must fit what `fn` returns, but: {error}.") from None


def filled(points: Points, outputs: Sequence[Output]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays for all points: the outputs, and the statuses."""
    values = {o.name: np.full((*points.shape, *o.shape), o.missing, o.dtype) for o in outputs if o.result is None}
    return values, np.full(points.shape, "", object)
