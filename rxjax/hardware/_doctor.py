"""What is installed, what it can do, and what is known to be wrong with it."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import jax
import jax.numpy as jnp
import numpy as np

from .._version import __version__
from ._measure import Hardware, measure

PACKAGES = ("jax", "jaxlib", "equinox", "diffrax", "optax", "lineax", "optimistix", "numpy", "scipy", "xarray", "zarr")
# Package, version, what is wrong with it.
_KNOWN_BAD = (
    ("jax", "0.10.2", "silently wrong values on a CPU beyond 16,384 rows (jax-ml/jax#39103); use another"),
    ("jaxlib", "0.10.2", "silently wrong values on a CPU beyond 16,384 rows (jax-ml/jax#39103); use another"),
)


@dataclass(frozen=True)
class Report:
    """What `rxjax doctor` prints: versions, devices as measured, whether x64 is on, and what to worry about."""

    versions: dict[str, str]
    devices: list[Hardware]
    x64: bool
    problems: list[str]


def report(*, measured: bool = True) -> Report:
    """Versions, every local device measured, x64 state, known problems of the versions and self-tests.

    **Arguments:**

    - `measured`: measure the first device of each kind; without it the list of devices is empty.
    """
    versions = {"python": platform.python_version(), "rxjax": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    kinds = {d.device_kind: d for d in reversed(jax.local_devices())}
    devices = [measure(d) for d in kinds.values()] if measured else []
    x64 = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    return Report(versions, devices, x64, known_problems(versions) + self_tests())


def known_problems(versions: Mapping[str, str]) -> list[str]:
    """What is known to be wrong with these versions, or with their combination.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> rx.hardware.known_problems({"jax": "0.10.2", "jaxlib": "0.10.1"})[0][:41]
        'jax 0.10.2: silently wrong values on a CP'

        ```
    """
    found = [f"{name} {bad}: {what}." for name, bad, what in _KNOWN_BAD if versions.get(name) == bad]
    found += [f"{name} is not installed." for name, v in versions.items() if v == "missing"]
    jax_version, jaxlib_version = (versions.get(name, "").split(".")[:2] for name in ("jax", "jaxlib"))
    if "missing" not in (*jax_version, *jaxlib_version) and jax_version != jaxlib_version:
        found.append(f"jax {versions['jax']} and jaxlib {versions['jaxlib']} differ in release: install one of both.")
    return found


def self_tests() -> list[str]:
    """What this installation computes wrongly: compiled against NumPy, in the shapes that have failed before."""
    rng = np.random.default_rng(0)
    m, rows = rng.normal(size=(6, 6)).astype(np.float32), rng.normal(size=(20_000, 6)).astype(np.float32)
    found = jax.jit(jax.vmap(lambda r: jnp.sum((jnp.asarray(m) @ r) ** 2)))(rows)
    if np.allclose(np.asarray(found), ((rows @ m.T) ** 2).sum(axis=1), rtol=1e-3):
        return []
    return ["A compiled, vmapped product of a matrix and 20,000 vectors is wrong: see jax-ml/jax#39103."]
