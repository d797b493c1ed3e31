"""The table of equations is complete: every public name of the theory is in it, and every test that it names exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What else the package shows: numerics, landscapes, pictures, files, and tools around training.
NOT_THEORY = {"_dataset", "_flow", "_monitor", "_sweep", "_version"}
PICTURES = {"disconnectivity_graph"}
COLUMNS = ["equation", "function", "convention", "units", "valid range", "source", "test"]


def rows():
    """The cells of each row, by the name of its column."""
    found, header = [], None
    for line in (ROOT / "docs/theory.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            header = None
        elif header is None:
            header = cells
        elif not set(line) <= set("|-"):
            found.append(dict(zip(header, cells, strict=True)))
    return found


def public_names(package):
    """The names that a package's `__init__.py` re-exports from its private modules."""
    tree = ast.parse((ROOT / "rxjax" / package / "__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
    return {alias.asname for node in imports if node.module not in NOT_THEORY for alias in node.names}


def test_rows_are_filled_and_every_equation_has_one():
    for row in rows():
        assert [column for column in COLUMNS if not row.get(column)] == [], row["function"]
    numbers = {int(row["#"]) for row in rows() if row.get("#")}
    assert numbers == set(range(1, 18))


def test_every_public_name_of_the_theory_is_in_the_table():
    expected = {f"rx.{name}" for name in public_names("") - PICTURES}
    for package in ("proposals", "quantization", "measure", "planes"):
        expected |= {f"rx.{package}.{name}" for name in public_names(package)}
    named = {name for row in rows() for name in re.findall(r"`(rx\.[\w.]+)`", row["function"])}
    remedy = "Add a row to docs/theory.md, or its module to NOT_THEORY where it is no part of the theory."
    assert not expected - named, f"{sorted(expected - named)} missing. {remedy}"
    assert not named - expected, f"{sorted(named - expected)} not public"


def test_every_test_that_the_table_names_exists():
    for row in rows():
        tests = re.findall(r"`([^`]*)`", row["test"])
        assert tests, row["function"]
        for test in tests:
            file, _, name = test.partition("::")
            assert (ROOT / "tests" / file).is_file(), test
            assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.M), test
