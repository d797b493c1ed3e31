"""A swept quantity over two of its axes."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from ._style import GREY, own_figure

# Lines of constant noise scale, and the widest range of values that is still drawn on a linear scale.
_LINES, _DECADES = 7, 2.0
# Beyond it Matplotlib's margins and colour bars overflow.
_LARGEST = 1e250


def heatmap(
    data: Any,
    name: str,
    ax: Axes | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    dataset_size: float | int | None = None,
    log: bool | None = None,
) -> Figure:
    r"""Draw a variable of a sweep over two of its axes, with lines of constant noise scale $\eta N/B$.

    Cells of failed points stay empty.  The lines are drawn where the axes are `learning_rate` and `batch_size`, above
    zero; along them, with replacement and small learning rates, SGD's density depends on nothing else.

    **Arguments:**

    - `data`: what `rxjax.sweep` returned.
    - `name`: the variable, of two dimensions; take a slice first if it has more: `data.sel(momentum=0.9)`.
    - `ax`: draw here.
    - `x`, `y`: its two dimensions; the last and the first if not given, or learning rate across and batch size up.
    - `dataset_size`: $N$ of the lines; if not given the attribute of that name, or 1, and the lines are $\eta/B$.
    - `log`: colours by the logarithm; if not given, where positive values span more than two decades.

    **Returns:** the figure.

    **Raises:** `ValueError` for a variable that is not there, has other than two dimensions, no real numbers or no
    finite one, for an axis that is not finite throughout, and for numbers beyond 1e250, which Matplotlib does not draw.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> noise = lambda learning_rate, batch_size: {"noise": learning_rate / batch_size}
        >>> data = rx.sweep(noise, learning_rate=[0.1, 0.2, 0.4], batch_size=[1.0, 2.0, 4.0])
        >>> figure = rx.plot.heatmap(data, "noise", dataset_size=100.0)
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_title()
        ('learning rate', 'lines: noise scale ηN/B')

        ```
    """
    if dataset_size is not None and not 0 < dataset_size < np.inf:
        raise ValueError(f"Argument `dataset_size` must be positive and finite, but it is {dataset_size}.")
    if name not in data:
        raise ValueError(f"Argument `name` must be one of {', '.join(map(str, data.data_vars))}, but it is {name!r}.")
    array = data[name]
    if array.ndim != 2:
        raise ValueError(
            f"Argument `name` must have two dimensions, but `{name}` has {array.dims}.  Take a slice of `data` first."
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Argument `name` must be a variable of real numbers, but `{name}` holds {array.dtype}.")
    x, y = _sides(array.dims, x, y)
    array = array.transpose(y, x).sortby([y, x])
    values = np.asarray(array.values, np.float64)
    shown = np.ma.masked_invalid(values)
    if shown.count() == 0:
        raise ValueError(f"Argument `data` must hold a finite value of `{name}`, but it holds none.")
    low, high = float(shown.min()), float(shown.max())
    log = low > 0 and high / low > 10**_DECADES if log is None else log
    if log and low <= 0:
        raise ValueError(f"Argument `log` must be False for a variable with values of zero or below, but it is {log}.")
    places = [np.asarray(array[d].values, np.float64) for d in (x, y)]
    _check_size(shown, f"values of `{name}`")
    for axis, place in zip((x, y), places, strict=True):
        if not np.all(np.isfinite(place)):
            raise ValueError(f"Argument `data` must have finite values along `{axis}`, but it has {place}.")
        _check_size(place, f"values along `{axis}`")
    figure, ax = own_figure(ax, (6.0, 4.6))
    norm = LogNorm(low, high) if log and high > low else Normalize(low, high)
    image = ax.pcolormesh(*places, shown, norm=norm, cmap="viridis", shading="nearest", rasterized=True)
    for axis, place in zip((ax.set_xscale, ax.set_yscale), places, strict=True):
        axis("log" if _even_in_log(place) else "linear")
    ax.set_xlabel(_label(data[x], x))
    ax.set_ylabel(_label(data[y], y))
    figure.colorbar(image, ax=ax, label=_label(array, name))
    # A rate or a batch of zero has no noise scale, or an infinite one.
    if {x, y} == {"learning_rate", "batch_size"} and min(map(len, places)) > 1 and min(p.min() for p in places) > 0:
        size = data.attrs.get("dataset_size") if dataset_size is None else dataset_size
        _noise_lines(ax, places, x == "learning_rate", size)
    return figure


def _check_size(values: np.ndarray, what: str) -> None:
    largest = float(np.abs(values).max())
    if largest > _LARGEST:
        raise ValueError(
            f"Argument `data` must have {what} of at most {_LARGEST:g}, but it has {largest:.3g}.  Take logarithms."
        )


def _sides(dims: tuple[Any, ...], x: str | None, y: str | None) -> tuple[str, str]:
    first = str(dims[1]) if x is None and "learning_rate" not in dims else x or "learning_rate"
    if x is None and y == first:
        first = str(next(d for d in dims if d != y))
    second = y or str(next((d for d in dims if d != first), first))
    if {first, second} != set(dims):
        raise ValueError(f"Arguments `x` and `y` must be the dimensions {dims}, but they are {first!r} and {second!r}.")
    return first, second


def _label(array: Any, name: str) -> str:
    return str(array.attrs.get("long_name", name))


def _even_in_log(values: np.ndarray) -> bool:
    """Whether ascending positive values lie more evenly on a logarithmic axis."""
    if len(values) < 3 or np.any(values <= 0) or np.ptp(values) == 0:
        return False
    spread = lambda v: np.ptp(np.diff(v)) / np.abs(np.mean(np.diff(v)))
    return bool(spread(np.log(values)) < spread(values))


def _noise_lines(ax: Axes, places: list[np.ndarray], rate_across: bool, size: Any) -> None:
    # On a mesh finer than that of the data, so that the lines are smooth.
    fine = [_refined(place) for place in places]
    across, up = np.meshgrid(*fine)
    rate, batch = (across, up) if rate_across else (up, across)
    decades = np.log10(rate) + np.log10(size or 1.0) - np.log10(batch)
    if np.ptp(decades) == 0:
        return
    levels = np.linspace(decades.min(), decades.max(), _LINES + 2)[1:-1]
    lines = ax.contour(*fine, decades, levels=levels, colors="white", linewidths=0.9, alpha=0.8)
    ax.clabel(lines, fmt=lambda v: f"{np.power(10, v):.2g}", fontsize="small")
    ax.set_title("lines: noise scale ηN/B" if size else "lines: ηN/B for N = 1", fontsize="medium", color=GREY)


def _refined(values: np.ndarray) -> np.ndarray:
    between = np.geomspace if _even_in_log(values) else np.linspace
    return between(values.min(), values.max(), 200)
