"""Strict numerics for every test: float64, no rank or dtype promotion behind our back."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser):
    parser.addoption("--optimize", action="store_true", help="compile all tests with XLA's optimisations, as users do")


_UNOPTIMIZED = "jax_disable_most_optimizations"


def pytest_configure(config):
    # Compiling takes most of the time.  XLA's optimisations are on where rounding under them is the subject, and on the
    # README's page; `make test-all` has them on everywhere.
    jax.config.update(_UNOPTIMIZED, not config.getoption("--optimize"))


@pytest.fixture
def optimized(request):
    """Compile as users do."""
    jax.config.update(_UNOPTIMIZED, False)
    yield
    jax.config.update(_UNOPTIMIZED, not request.config.getoption("--optimize"))


@pytest.fixture
def float32():
    """Run a test as a user does who never touched the precision switch, with default promotion rules."""
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


@pytest.fixture
def own_settings(monkeypatch, tmp_path):
    """JAX's own settings, for threads too, in an empty folder: where a user types a command."""
    names = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (False, "allow", "standard"), strict=True):
        jax.config.update(name, value)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
