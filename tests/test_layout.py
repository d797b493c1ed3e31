"""The house and its rules: who imports whom, what the wheel holds, what the project file promises."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import rxjax as rx

# Rounding is the subject here, so these compile as users do.
pytestmark = pytest.mark.usefixtures("optimized")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_the_numerics_never_import_the_theory():
    files = list((ROOT / "solvers").rglob("*.py"))
    assert len(files) > 10
    for path in files:
        assert not [name for name in imported(path) if name.split(".")[0] == "rxjax"], path


def test_the_package_imports_only_what_it_declares():
    declared = {d.split(">")[0].split("=")[0] for d in PROJECT["project"]["dependencies"]}
    names = {"scikit-learn": "sklearn", "pillow": "PIL", "orbax-checkpoint": "orbax"}
    declared = {names.get(d, d) for d in declared}
    allowed = declared | set(sys.stdlib_module_names) | {"rxjax", "rxjax_solvers", "ml_dtypes"}
    for package in (ROOT / "rxjax", ROOT / "solvers"):
        for path in package.rglob("*.py"):
            unknown = {name.split(".")[0] for name in imported(path)} - allowed
            assert not unknown, (path, unknown)


def test_one_concept_a_file():
    for package in (ROOT / "rxjax", ROOT / "solvers", ROOT / "tests"):
        for path in package.rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_the_wheel_holds_two_packages(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"rxjax", "rxjax_solvers"}
    assert "rxjax/py.typed" in names and "rxjax_solvers/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_project_file_names_what_exists():
    for entry in PROJECT["tool"]["pyright"]["include"] + PROJECT["tool"]["pyright"]["extraPaths"]:
        assert (ROOT / entry).is_dir(), entry
    for path in PROJECT["tool"]["pytest"]["ini_options"]["testpaths"]:
        assert (ROOT / path).is_dir()
    for name in ("jax", "jaxlib"):
        (bound,) = [d for d in PROJECT["project"]["dependencies"] if d.split(">")[0] == name]
        assert "!=0.10.2" in bound
    readme = (ROOT / "README.md").read_text()
    assert PROJECT["project"]["requires-python"] == ">=3.11" and "Python 3.11" in readme


def test_the_readme_shows_what_was_measured():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| 256x256")]
    measured = (ROOT / "benchmarks" / "flow.md").read_text().splitlines()
    assert len(rows) == 4 and set(rows) <= set(measured)


def test_the_face_shows_all_of_the_numerics():
    import rxjax_solvers

    public = {n for n in vars(rxjax_solvers) if not n.startswith("_")}
    assert public == {n for n in vars(rx.solvers) if not n.startswith("_")}


def test_importing_is_light():
    heavy = ["matplotlib", "xarray", "sklearn", "typer", "rich", "scipy.fft", "scipy.special"]
    code = f"import sys, rxjax; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_what_is_offered_is_listed():
    """What loads when it is asked for too, and nothing that was merely imported."""
    names = {name for name in dir(rx) if not name.startswith("_")}
    assert {"plot", "sweep", "to_dataset", "solvers", "Monitor"} <= names
    assert all(rx.__name__ in getattr(getattr(rx, name), "__module__", rx.__name__) for name in names)
    assert not names & {"importlib", "TYPE_CHECKING"}


def test_compiled_equals_eager_beyond_16384_rows():
    """jaxlib 0.10.2 fails this on a CPU, in silence: jax-ml/jax#39103."""
    m = jax.random.normal(jax.random.key(0), (6, 6))
    rows = jax.random.normal(jax.random.key(1), (20_000, 6))
    f = jax.vmap(lambda r: jnp.sum((m @ r) ** 2))
    np.testing.assert_allclose(jax.jit(f)(rows), ((np.asarray(rows) @ np.asarray(m).T) ** 2).sum(1), rtol=1e-10)


def test_a_wrong_rank_is_refused():
    """jaxtyping is active for this package while testing."""
    with pytest.raises(jaxtyping.TypeCheckError):
        rx.probability_flow(
            rx.landscapes.DoubleWell(),
            rx.Hyperparameters(0.01, 1, 10),
            1.0,
            rx.solvers.Grid(-2, 2, 8),
            jnp.ones(8) / 4,
            jnp.ones((2, 2)),
        )


@pytest.mark.parametrize("kind", [int, float])
def test_a_function_defined_again_is_checked_as_before(kind):
    """Its checkers are made once (quick.py), and those of another annotation are others."""

    def make(kept):
        @jaxtyping.jaxtyped(typechecker=beartype.beartype)
        def scaled(x: jaxtyping.Float[jax.Array, " n"], by: kind = kept) -> jaxtyping.Float[jax.Array, " n"]:
            return x * by if by else x[1:]

        return scaled

    for default in (kind(2), kind(3)):
        scaled = make(default)
        assert jnp.array_equal(scaled(jnp.ones(3)), jnp.full(3, float(default)))
        other = {int: 2.5, float: "2"}[kind]
        for wrong in ((jnp.ones((3, 3)),), (jnp.ones(3), other)):
            with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
                scaled(*wrong)
        with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
            scaled(jnp.ones(3), kind(0))
