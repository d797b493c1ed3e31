"""Theory against real SGD: the table of the studies is the one recorded, complete, and comes out again."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "validation"
SCRIPTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))


@pytest.fixture
def load(monkeypatch):
    """A module of the folder, which the studies import each other from."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def by_name(name):
        spec = importlib.util.spec_from_file_location(f"validation_{name}", FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield by_name
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(FOLDER))]:
        del sys.modules[name]


def verdicts(record):
    return [(row["setting"], row["equation"], row["verdict"], list(row["besides"])) for row in record["rows"]]


def test_the_page_is_what_was_recorded(load):
    report = load("report")
    assert report.text() == (FOLDER / "README.md").read_text()
    recorded = [record["name"] for record in report.records()]
    assert recorded == [path.stem for path in SCRIPTS] and len(recorded) >= 15
    for name in recorded:
        picture = ROOT / "docs/figures/validation" / f"{name}.png"
        assert 0 < picture.stat().st_size < 60_000 and f"docs/figures/validation/{name}.png" in report.text()
    # Verdicts follow from the numbers of their rows, and every equation that can fail has been held against SGD.
    rule = load("_study").verdict
    rows = [row for record in report.records() for row in record["rows"]]
    for row in rows:
        numbers = (row["predicted"], row["measured"], row["error"], row["tolerance"])
        assert row["verdict"] == rule(*numbers), row
    table = [line for line in report.text().splitlines() if line.startswith("| [")]
    assert len(table) == len(rows)


def test_the_rule_of_the_verdict(load):
    rule = load("_study").verdict
    assert rule(1.0, 1.03, 0.011) == "holds" and rule(1.0, 1.03, 0.009) == "fails"
    assert rule(1.0, 1.03, 0.001, 0.05) == "holds" and rule(-1.0, -1.06, 0.001, 0.05) == "fails"
    assert rule(1.0, 1.3, 0.2) == "undecided" and rule(1.0, 2.0, 0.2) == "fails"
    assert rule(1.0, 1.0, 0.0) == "holds" and rule(1.0, np.inf, 0.0) == rule(np.nan, 1.0, 1.0) == "fails"


def test_the_smallest_study_comes_out_again(load):
    study = load("_study").Study("03_critical_rates")
    load("03_critical_rates").run(study)
    recorded = json.loads((FOLDER / "results/03_critical_rates.json").read_text())
    assert verdicts(study.record()) == verdicts(recorded)
    for row, before in zip(study.record()["rows"], recorded["rows"], strict=True):
        assert row["measured"] == pytest.approx(before["measured"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_every_study_comes_out_again(script, tmp_path):
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, capture_output=True)
    again = json.loads((tmp_path / f"{script.stem}.json").read_text())
    recorded = json.loads((FOLDER / f"results/{script.stem}.json").read_text())
    assert verdicts(again) == verdicts(recorded)
