"""docs/solvers.md says what was measured, and names what there is."""

import re
from pathlib import Path

import rxjax as rx

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "solvers.md").read_text()


def rows(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_the_table_is_the_measured_one():
    shown = rows(PAGE.split("## Measured")[1].split("\n## ")[0])
    assert len(shown) > 30 and shown == rows((ROOT / "benchmarks" / "solvers.md").read_text())


def test_every_name_exists():
    before = PAGE.split("## What others have")[0]
    names = set(re.findall(r"`(?:rx\.solvers\.)?([A-Za-z_]{4,})(?=[(`])", before))
    words = {"solve", "Rational", "Strang", "ShiftInvert", "spectrum"}
    assert words <= names
    others = {"method", "asked", "max_steps", "sqrt"}
    missing = {n for n in names - others if not hasattr(rx.solvers, n) and not hasattr(rx.solvers.RESULTS, n)}
    assert not missing
