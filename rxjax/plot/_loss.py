"""The mean loss along a flow."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._flow import Flow
from ._style import INK, TIME, own_figure


def loss(flow: Flow, ax: Axes | None = None, *, label: str | None = None, log: bool = False) -> Figure:
    """Draw the mean loss along the flow, against time below and SGD steps above.

    **Arguments:**

    - `flow`: what `rxjax.probability_flow` returned.
    - `ax`: draw here; several flows on one `ax` share it, and the steps above are those of the first.
    - `label`: for a legend.
    - `log`: time on a logarithmic axis, from the first positive time on, for a fast fall before a slow crossing.

    **Returns:** the figure.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> bowl = rx.landscapes.Quadratic(1.0)
        >>> run = rx.Hyperparameters(learning_rate=0.05, batch_size=1, dataset_size=1000)
        >>> grid = rx.solvers.Grid(-3.0, 3.0, 64)
        >>> flow = rx.probability_flow(bowl, run, 2.0, grid, grid.gaussian(2.0, 0.2), jnp.linspace(0, 5, 6))
        >>> figure = rx.plot.loss(flow)
        >>> figure.axes[0].get_xlabel(), figure.axes[0].child_axes[0].get_xlabel()
        ('time  (learning rate × steps)', 'steps')

        ```
    """
    ts, mean = np.asarray(flow.ts), np.asarray(flow.loss)
    if ts.ndim != 1:
        raise ValueError(f"Argument `flow` must be one flow, but its times have shape {ts.shape}.")
    if log:
        ts, mean = ts[ts > 0], mean[ts > 0]
        if not len(ts):
            raise ValueError("Argument `flow` must have a positive time when `log=True`, but it has none.")
    figure, ax = own_figure(ax, (6.4, 3.6))
    first = not ax.lines
    colour = INK if first else None
    ax.plot(ts, mean, color=colour, lw=2.0, marker="o" if len(ts) < 20 else None, ms=4, label=label)
    ax.set_xlabel(TIME)
    ax.set_ylabel("mean loss")
    ax.margins(x=0.02)
    if log:
        ax.set_xscale("log")
    ax.spines[["right"]].set_visible(False)
    if first:
        run = flow.hyperparameters
        rate = float(run.learning_rate / (1 - run.momentum))
        above = ax.secondary_xaxis("top", functions=(lambda t: np.asarray(t) / rate, lambda s: np.asarray(s) * rate))
        above.set_xlabel("steps")
    if label is not None:
        ax.legend(frameon=False)
    return figure
