"""Pictures: what they say on their axes, where they draw, what they refuse."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import rxjax as rx


def flow(dim):
    """A drifting Gaussian in place of a solve: pictures need no physics."""
    grid = rx.solvers.Grid(-2.0, 2.0, (24, 16, 8)[:dim])
    means = np.linspace(-1, 1, 6)
    ps = jnp.stack([grid.gaussian(jnp.array([m, 0.3, -0.2][:dim]), 0.4) for m in means])
    energy = jnp.sum((grid.points**2 - 1) ** 2, axis=-1)
    ts = jnp.linspace(0.0, 5.0, 6)
    settings = rx.Hyperparameters(0.01, 1, 10)
    loss = jnp.stack([grid.integrate(p * energy) for p in ps])
    number = jnp.ones(())
    return rx.Flow(
        ts, ts / 0.01, ps, loss, energy, number, number, number > 0, grid, settings, rx.solvers.RESULTS.successful, {}
    )


@pytest.fixture(scope="module", params=[1, 2, 3])
def moving(request):
    return flow(request.param)


def visible(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def inked(figure, path):
    """Draw, and ask that more than a frame is on the paper."""
    figure.savefig(path, dpi=60)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_density(moving, tmp_path):
    figure = rx.plot.density(moving, times=[0.0, 5.0])
    assert isinstance(figure, Figure) and inked(figure, tmp_path / "a.png")
    text = " ".join(t.get_text() for ax in figure.axes for t in [ax.title, ax.xaxis.label, ax.yaxis.label])
    assert "probability density" in text
    if moving.grid.dim == 1:
        lines = [line for ax in figure.axes for line in ax.lines]
        assert any(np.allclose(line.get_ydata(), moving.ps[-1]) for line in lines)
        assert any(np.allclose(line.get_ydata(), moving.energy) for line in lines)
    else:
        assert "t = 5  (500 steps)" in text and len(figure.axes) == 3
    # Panels that are chosen: first and last among them.
    chosen = rx.plot.density(moving)
    words = " ".join(t.get_text() for ax in chosen.axes for t in [ax.title, *ax.texts])
    legends = [ax.get_legend() for ax in chosen.axes]
    words += " ".join(t.get_text() for legend in legends if legend is not None for t in legend.get_texts())
    assert "t = 0" in words and "t = 5" in words
    # Where all has left through an open side.
    with np.errstate(all="raise"):
        rx.plot.density(eqx.tree_at(lambda f: f.ps, moving, 0 * moving.ps)).savefig(tmp_path / "b.png")


def test_own_axes_are_used(moving):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert rx.plot.density(moving, times=5.0, ax=left) is figure and left.has_data()
    assert rx.plot.loss(moving, ax=right, label="here") is figure and right.lines
    assert right.get_ylabel() == "mean loss" and right.get_legend() is not None
    np.testing.assert_allclose(right.lines[0].get_ydata(), moving.loss)


def test_chosen_axes_integrate_the_others_out():
    picture = rx.plot.density(flow(3), times=5.0, axes=(2, 0), names=("a", "b", "c"))
    assert {visible(picture)[0].get_xlabel(), visible(picture)[0].get_ylabel()} == {"c", "a"}
    (image,) = visible(picture)[0].images
    shown = np.asarray(image.get_array())
    data = flow(3)
    marginal = np.asarray(data.ps[-1]).sum(axis=1) * float(data.grid.spacing[1])
    assert sorted(shown.shape) == [8, 24]
    np.testing.assert_allclose(np.sort(shown.ravel()), np.sort(marginal.ravel()), rtol=1e-6)


def test_marked_points_and_loss_in_log_time(tmp_path):
    figure = rx.plot.density(flow(2), times=5.0, points={"A": (1.0, 1.0)})
    assert any(text.get_text() == "A" for text in visible(figure)[0].texts)
    assert rx.plot.loss(flow(1), log=True).axes[0].get_xscale() == "log"


def test_a_film(moving, tmp_path):
    shares = []
    path = tmp_path / "film.gif"
    figure = rx.plot.animate(moving, path, dpi=40.0, on_frame=shares.append)
    assert isinstance(figure, Figure)
    with Image.open(path) as film:
        assert getattr(film, "n_frames") == 6  # noqa: B009
        film.seek(0)
        first = np.asarray(film.convert("RGB"), float)
        film.seek(5)
        assert np.abs(np.asarray(film.convert("RGB"), float) - first).max() > 50
    np.testing.assert_allclose(shares, np.arange(1, 7) / 6)


def test_refusals(tmp_path):
    plane = flow(2)
    with pytest.raises(ValueError, match="Argument `times` must be one time when `ax` is given"):
        rx.plot.density(plane, times=[0.0, 5.0], ax=Figure().subplots())
    with pytest.raises(ValueError, match="Argument `times` must"):
        rx.plot.density(plane, times=[77.0])
    with pytest.raises(ValueError, match="Argument `axes` must be one or two different axes"):
        rx.plot.density(plane, axes=(0, 0))
    with pytest.raises(ValueError, match="Argument `points` must hold two coordinates a label, but 'A'"):
        rx.plot.density(plane, times=5.0, points={"A": (1.0,)})
    with pytest.raises(ValueError, match="Argument `flow` must hold finite densities"):
        rx.plot.density(eqx.tree_at(lambda f: f.ps, plane, plane.ps * np.nan))
    with pytest.raises(ValueError, match="Argument `path` must"):
        rx.plot.animate(plane, tmp_path / "film.txt")
    assert not list(tmp_path.iterdir())
