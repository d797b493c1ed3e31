"""Strict numerics for every test: float64, no rank or dtype promotion behind our back."""

import os

import jax
import pytest
import quick

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser):
    parser.addoption("--optimize", action="store_true", help="compile all tests with XLA's optimisations, as users do")


_FLAGS = os.environ.get("XLA_FLAGS", "")


# From 0.11.1 on there is no other way to compile fusions, and XLA ends the program at a flag that it does not know.
_EMITTERS = "--xla_cpu_use_fusion_emitters={}" if jax.__version_info__ < (0, 11, 1) else ""
# How much of XLA's optimisations: what compiles soonest, what compiles and then runs soonest, and what users have.
_PARTS = f"{_EMITTERS.format('false')} --xla_cpu_parallel_codegen_split_count=1"
_LEVELS = {
    "none": _PARTS,
    "some": f"{_PARTS} --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true",
    "all": f"{_EMITTERS.format('true')} --xla_cpu_parallel_codegen_split_count=32",
}


def _optimize(level):
    # XLA reads its flags again before each compilation; the environment is also that of programs a test starts.
    jax.config.update("jax_disable_most_optimizations", level == "none")
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(level == "none"))
    os.environ["XLA_FLAGS"] = f"--xla_flags_reset=true {_LEVELS[level]} {_FLAGS}"


def _usual(config):
    return "all" if config.getoption("--optimize") else "none"


def pytest_configure(config):
    # Compiling takes most of the time.  XLA's optimisations are on where rounding under them is the subject, and on the
    # README's page; `make test-all` has them on everywhere.
    _optimize(_usual(config))


@pytest.fixture
def optimized(request):
    """Compile as users do."""
    _optimize("all")
    yield
    _optimize(_usual(request.config))


@pytest.fixture
def long_runs(request):
    """For a test that runs for longer than a few optimisations take."""
    _optimize("all" if request.config.getoption("--optimize") else "some")
    yield
    _optimize(_usual(request.config))


def pytest_collection_finish():
    quick.freeze()


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
