"""The table at the end of a run."""

import numpy as np
from rich.console import Console
from rich.table import Table

from .._basins import basins, shares
from ..plot._frames import short
from ._run import Run

# Basins listed one by one; the others are added up.
_LISTED = 6


def report(run: Run, console: Console) -> None:
    """Print what the run was and what came out of it."""
    table = Table(title=f"Probability flow: {run.problem.title}", title_justify="left", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(run).items():
        table.add_row(name, value)
    console.print(table)
    listed, words = basin_rows(run)
    basin_table = Table(title="\nShare of the density in each basin", title_justify="left", box=None)
    for heading in ("minimum at", "loss", "start", "end"):
        basin_table.add_column(heading, justify="left" if heading == "minimum at" else "right", header_style="cyan")
    for row in listed:
        basin_table.add_row(*row)
    console.print(basin_table)
    for line in [*words, *warnings(run)]:
        console.print(line, style="yellow", highlight=False, soft_wrap=True)


def rows(run: Run) -> dict[str, str]:
    """The numbers of a run, name to text."""
    flow, settings = run.flow, run.settings
    mass = np.asarray(flow.stats["mass"], np.float64)
    absorbs = any("absorbing" in sides for sides in flow.grid.boundary)
    covariance = "measured" if run.measured else " ".join(f"{c:g}" for c in settings.covariance or ())
    momentum = f", momentum {settings.momentum:g}" if settings.momentum else ""
    table = {
        "training": f"learning rate {settings.learning_rate:g}, batch size {settings.batch_size:g} of "
        f"{settings.dataset_size:g}{momentum}",
        "gradient covariance, one example": covariance,
        "temperature kT": f"{float(flow.temperature):.4g}",
        "noise scale": f"{run.noise_scale:.4g}",
        "learning rate × curvature": f"{float(flow.eta_h):.3g}",
        **run.ready.facts,
        "grid": f"{' x '.join(map(str, flow.grid.shape))} cells, {flow.ps.dtype.name}",
        "time": f"{short(float(flow.ts[-1]))} = {float(flow.steps[-1]):,.0f} SGD steps",
        "solver steps": f"{int(flow.stats['num_accepted_steps'])} and {int(flow.stats['num_rejected_steps'])} rejected",
        ("mass left" if absorbs else "mass error"): (
            f"{mass[-1]:.6f}" if absorbs else f"{np.max(np.abs(mass - mass[0])):.1e}"
        ),
        "lowest density": f"{float(flow.stats['min']):.1e}",
        "mean loss": f"{float(flow.loss[0]):.4g} at the start, {float(flow.loss[-1]):.4g} at the end",
    }
    if run.ready.facts:
        table["time to prepare"] = f"{run.seconds['prepare']:.1f} s"
    table["time to compile and to run"] = f"{run.seconds['compile']:.1f} s and {run.seconds['run']:.2f} s"
    return table


def basin_rows(run: Run) -> tuple[list[tuple[str, ...]], list[str]]:
    """Rows of the table of basins, the fullest at the end first, and what there is to say about them."""
    flow, grid = run.flow, run.flow.grid
    energy = np.asarray(flow.energy, np.float64)
    labels = basins(energy, grid, 0.5 * max(float(flow.temperature), 0.0))
    minima = np.unique(labels)
    first, last = shares(flow.ps[0], labels), shares(flow.ps[-1], labels)
    order = np.lexsort((energy.reshape(-1)[minima], -last.round(3)))
    points = np.asarray(grid.points).reshape(-1, grid.dim)
    listed = []
    for k in order[:_LISTED]:
        place = ", ".join(f"{x:.3g}" for x in points[minima[k]])
        near = [label for label, p in run.ready.points.items() if labels[_cell(grid, p)] == minima[k]]
        name = f"({place})" + (f"  {', '.join(near)}" if near else "")
        listed.append((name, f"{energy.reshape(-1)[minima[k]]:.4g}", f"{first[k]:.1%}", f"{last[k]:.1%}"))
    rest = order[_LISTED:]
    if len(rest):
        listed.append((f"{len(rest)} others", "", f"{first[rest].sum():.1%}", f"{last[rest].sum():.1%}"))
    words = []
    home = int(np.argmax(first))
    if len(minima) > 1 and first[home] > 0.99 and last[home] > 0.99:
        words.append(
            "The density is still in the basin where it started: at this temperature the barriers hold it for longer "
            "than this run.  Raise --learning-rate or --covariance, or lower --batch-size, to see it leave."
        )
    return listed, words


def _cell(grid, point) -> tuple[int, ...]:
    """The cell that holds a point, or the one nearest to it."""
    share = (np.asarray(point) - np.asarray(grid.lower)) / np.asarray(grid.spacing)
    return tuple(int(np.clip(np.floor(s), 0, n - 1)) for s, n in zip(share, grid.shape, strict=True))


def warnings(run: Run) -> list[str]:
    """What of the run is to be taken with care."""
    lines = []
    if not bool(run.flow.valid):
        lines.append(
            f"Learning rate x curvature is {float(run.flow.eta_h):.3g}, above 0.2: steps this large are no diffusion, "
            "and real SGD spreads more.  Lower --learning-rate."
        )
    return lines
