"""Check a built site: every internal link, anchor, picture and script resolves, and nothing is fetched from elsewhere.

`python docs/tools/links.py site` prints what it checked, or every fault and exits with 1.  External links are left
alone: they are a reader's choice, and the site works without a network.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose target a browser fetches by itself, by tag.
FETCHED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class _Page(HTMLParser):
    """The anchors of a page and all its references."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value for key, value in attrs if value is not None}
        self.anchors |= {values[key] for key in ("id", "name") if key in values and tag != "meta"}
        attribute = "href" if tag == "a" else FETCHED.get(tag)
        # A canonical address or a hint to a neighbour is not fetched, but must be right too.
        if attribute in values:
            self.references.append((tag, values[attribute]))


def faults(site: Path) -> tuple[list[str], int, int]:
    """What is wrong with a site, the number of its pages, and the number of references that were checked."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found, checked = [], 0
    for path, page in pages.items():
        for tag, reference in page.references:
            problem = _problem(site, path, pages, tag, reference)
            checked += problem is not None
            if problem:
                found.append(f"{path.relative_to(site)}: {reference} {problem}")
    return found, len(pages), checked


def _problem(site: Path, path: Path, pages: dict[Path, _Page], tag: str, reference: str) -> str | None:
    """What is wrong with one reference: nothing (empty), or `None` if it is an external link."""
    parts = urlsplit(reference)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        return "is fetched from elsewhere" if tag in FETCHED else None
    # The page of errors is served at any depth, so it refers to the root of the site.
    base = site if parts.path.startswith("/") else path.parent
    target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path.resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site.resolve()) or not target.is_file():
        return "does not exist"
    page = pages.get(site / target.relative_to(site.resolve()))
    anchor = unquote(parts.fragment)
    return f"has no anchor #{anchor}" if anchor and page and anchor not in page.anchors else ""


def main(folder: str) -> int:
    found, pages, checked = faults(Path(folder))
    for fault in found:
        print(fault)
    print(f"{pages} pages, {checked} internal links, anchors, pictures and scripts: {len(found)} do not resolve")
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
