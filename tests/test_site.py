"""The documentation site: complete in its pages and names, true in its numbers; its link check sees what is broken."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = ["", *("budget hardware landscapes measure optim planes plot proposals quantization".split())]
NAV = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
LOADED_LATE = {"sweep", "to_dataset"}


@pytest.fixture
def links():
    """The link checker of `make docs`."""
    spec = importlib.util.spec_from_file_location("site_links", DOCS / "tools/links.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages |= {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.md")}
    pages |= {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages |= {"index.md", "validation.md", "contributing.md", "changelog.md"}
    assert len(NAV) == len(set(NAV)) and set(NAV) == pages


def test_every_public_name_is_in_the_api():
    re_exports = re.compile(r"\b([A-Za-z]\w*) as \1\b")
    public = {f"rxjax.{name}" for name in LOADED_LATE}
    for package in PACKAGES:
        text = (ROOT / "rxjax" / package / "__init__.py").read_text()
        # Everything but the packages themselves, which the root imports from `.`.
        text = re.sub(r"^ *from \. import (\(.*?\)|.*?$)", "", text, flags=re.M | re.S)
        public |= {f"rxjax.{package}.{name}".replace("..", ".") for name in re_exports.findall(text)}
    public |= {f"rxjax.solvers.{name}" for name in re_exports.findall((ROOT / "rxjax/solvers.py").read_text())}
    shown = [n for path in (DOCS / "api").glob("*.md") for n in re.findall(r"^::: (\S+)$", path.read_text(), re.M)]
    assert len(public) > 180 and len(shown) == len(set(shown))
    assert set(shown) == public, sorted(set(shown) ^ public)


def test_assumptions_are_marked_and_their_numbers_recorded():
    text = (DOCS / "assumptions.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| (?!assumption)", line)]
    assert len(rows) > 30 and {row[1] for row in rows} == {"mathematical", "of convenience"}
    number = "{:.4g}".format
    checked = 0
    for row in rows:
        for name, claims in re.findall(r"validation/README\.md#(\w+)\)((?:,? `[^`]+`: \S+ for [^\s,;|]+)+)", row[3]):
            recorded = json.loads((ROOT / f"validation/results/{name}.json").read_text())["rows"]
            for setting, measured, predicted in re.findall(r"`([^`]+)`: (\S+) for ([^\s,;|]+)", claims):
                pairs = {(number(r["measured"]), number(r["predicted"])) for r in recorded if setting in r["setting"]}
                assert (measured, predicted) in pairs, (name, setting, pairs)
                checked += 1
    assert checked == len(re.findall(r"`: \S+ for ", text)) > 25


def test_the_link_check_sees_what_is_broken(links, tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#here">b</a><a href="https://example.org">x</a>'
    )
    (tmp_path / "b.html").write_text('<a id="here" href="a.html#top">a</a><a href="#here">here</a>')
    assert links.faults(tmp_path) == ([], 2, 3)
    broken = {
        '<a href="c.html">': "does not exist",
        '<a href="a.html#bottom">': "has no anchor #bottom",
        '<a href="../outside.html">': "does not exist",
        '<img src="figure.png">': "does not exist",
        '<img src="https://example.org/figure.png">': "is fetched from elsewhere",
        '<script src="//example.org/script.js">': "is fetched from elsewhere",
    }
    for tag, problem in broken.items():
        (tmp_path / "b.html").write_text('<p id="here">' + tag)
        (fault,) = links.faults(tmp_path)[0]
        assert fault.startswith("b.html") and fault.endswith(problem)
        assert links.main(str(tmp_path)) == 1
