"""Every example that a reader can copy is run: docstrings, README, docs, notebooks."""

import doctest
import importlib
import os
from pathlib import Path

import jax
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = [
    ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
    for source, package in ((ROOT, "rxjax"), (ROOT / "solvers", "rxjax_solvers"))
    for path in sorted((source / package).rglob("*.py"))
    if ">>> " in path.read_text()
]
PAGES = [p for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if ">>> " in p.read_text()]


@pytest.fixture(autouse=True)
def defaults(float32):
    """Examples run as a reader runs them, in JAX's own precision."""


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstrings(name):
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, optionflags=FLAGS)
    assert tried > 0 and failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=FLAGS)
    assert tried > 0 and failed == 0
    jax.clear_caches()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "RXJAX_NOTEBOOK_SIZE": "small"}
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
