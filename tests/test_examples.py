"""Every example that a reader can copy is run: docstrings, README, docs, notebooks."""

import doctest
import importlib
import os
import re
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


FLOAT = re.compile(r"[-+]?\d+\.\d*(?:e[-+]?\d+)?|[-+]?\d+e[-+]?\d+")


class ToTheDigitsWritten(doctest.OutputChecker):
    """A float agrees if it rounds to the digits that the example writes: the last bits differ from CPU to CPU."""

    def check_output(self, want, got, optionflags):
        if super().check_output(want, got, optionflags):
            return True
        want, got = (re.sub(r" (?=[\]),])|(?<=[\[(]) ", "", " ".join(s.split())) for s in (want, got))
        pairs = list(zip(FLOAT.findall(want), FLOAT.findall(got), strict=False))
        same_words = FLOAT.sub("#", want) == FLOAT.sub("#", got)
        return same_words and all(abs(float(w) - float(g)) <= 0.51 * last_digit(w) for w, g in pairs)


def last_digit(number):
    """The unit of the last digit of a number as written."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def run_examples(text_or_module, name):
    """How many examples of a page or a module fail, and how many there are."""
    runner = doctest.DocTestRunner(ToTheDigitsWritten(), optionflags=FLAGS)
    if isinstance(text_or_module, str):
        tests = [doctest.DocTestParser().get_doctest(text_or_module, {}, name, name, 0)]
    else:
        tests = doctest.DocTestFinder().find(text_or_module, name)
    for test in tests:
        runner.run(test)
    return runner.summarize()


@pytest.fixture(autouse=True)
def defaults(float32):
    """Examples run in the precision that a reader has, JAX's own."""


@pytest.fixture(scope="module", autouse=True)
def programs_left():
    """What was compiled in a reader's precision serves all examples, and no other test: it goes after the last."""
    yield
    jax.clear_caches()


def test_the_checker_tells_numbers_apart():
    checker = ToTheDigitsWritten()
    same = lambda want, got: checker.check_output(want + "\n", got + "\n", FLAGS)
    assert same("[[ 35.9   8.5]]", "[[ 35.9        8.5     ]]") and same("0.1111", "0.111099996")
    assert same("1.2e-07", "1.21e-07") and not same("1.2e-07", "1.3e-07")
    assert not same("0.1111", "0.1112") and not same("3", "4") and not same("[1. 2.]", "[1. 2. 3.]")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstrings(name):
    failed, tried = run_examples(importlib.import_module(name), name)
    assert tried > 0 and failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages(page, tmp_path, monkeypatch, request):
    if page.name == "README.md":
        request.getfixturevalue("optimized")
    monkeypatch.chdir(tmp_path)
    failed, tried = run_examples(page.read_text(), page.name)
    assert tried > 0 and failed == 0


# Run before each notebook: no name is left, and JAX's settings are its own again.
FRESH = """
%reset -f
import jax, quick
quick.freeze()  # each time: what the last notebook left is not looked through by each reset from here on
quick.settings = getattr(quick, "settings", None) or dict(jax.config.values)
for name, value in quick.settings.items():
    if jax.config.values[name] != value:
        jax.config.update(name, value)
%reset -f
"""


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """One kernel for all notebooks: to start one and import everything takes as long as many a notebook."""
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebooks"))}}
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=240, resources=folder)
    path = os.pathsep.join([str(ROOT / "tests"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    with client.setup_kernel(env={**os.environ, "RXJAX_NOTEBOOK_SIZE": "small", "PYTHONPATH": path}):
        yield client


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks(path, jupyter):
    jupyter.nb = nbformat.read(path, as_version=4)
    jupyter.nb.cells.insert(0, nbformat.v4.new_code_cell(FRESH))
    jupyter.reset_execution_trackers()
    for number, cell in enumerate(jupyter.nb.cells):
        jupyter.execute_cell(cell, number)
