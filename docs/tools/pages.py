"""The site's hook: pages that live outside docs/, links between files of the repository, links of names to the API.

Every page keeps the one place that it has: the README is the first page of the site, and its links, which are right
where it lies, are turned into links of the site.  A link to a file that the site does not hold ends the build.
"""

import base64
import importlib.util
import os
import posixpath
import re
from pathlib import Path

import nbformat
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Files of the repository and the pages that they become.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "validation/README.md": "validation.md",
}
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
REFERENCE = re.compile(r'<autoref (?=[^>]*origin="(?P<origin>[^"]+)")(?P<before>[^>]*)identifier="(?P<name>[^"]+)"')
NAME = re.compile(r"<code>rx\.([A-Za-z_.]+)(?:\([^<]*\))?</code>")
ENTRY = re.compile(r"^::: (\S+)$", re.M)


def origins() -> dict[str, str]:
    """The repository's path of every page, by its path in the site."""
    pages = {page: path for path, page in OUTSIDE.items()}
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        pages[f"benchmarks/{path.name}"] = f"benchmarks/{path.name}"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = f"notebooks/{path.name}"
    for path in sorted((ROOT / "docs").rglob("*")):
        if path.is_file() and "tools" not in path.parts:
            pages[path.relative_to(ROOT / "docs").as_posix()] = path.relative_to(ROOT).as_posix()
    return pages


ORIGINS = origins()
# A folder stands for its first page.
PAGES = {"benchmarks": "benchmarks/flow.md"} | {path: page for page, path in ORIGINS.items()}
# Public names in the API's pages, by what a reader writes after `rx.`.
PUBLIC = {
    name.removeprefix("rxjax."): name
    for path in sorted((ROOT / "docs/api").glob("*.md"))
    for name in ENTRY.findall(path.read_text())
}


def on_config(config):
    """Doctests are highlighted as a console's, whatever page or docstring they stand in."""
    config.markdown_extensions.append(_Consoles())
    return config


def on_files(files, config):
    """Add the pages from outside, the pictures of the notebooks, and MathJax."""
    for page, path in ORIGINS.items():
        if path.endswith(".ipynb"):
            text, pictures = notebook_page(ROOT / path)
            for name, data in pictures.items():
                files.append(File.generated(config, f"notebooks/{name}", content=data))
            files.append(File.generated(config, page, content=text))
        elif not path.startswith("docs/"):
            files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    spec = importlib.util.find_spec("mathjax")
    if spec is None or not spec.submodule_search_locations:
        raise PluginError("MathJax is missing: install the docs group, `pip install --group docs`.")
    script = Path(spec.submodule_search_locations[0]) / "static/mathjax/es5/tex-svg.js"
    files.append(File.generated(config, "assets/tex-svg.js", abs_src_path=str(script)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links are those of the repository: turn them into those of the site."""
    here = page.file.src_uri

    def turned(link):
        target, _, anchor = link[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(ORIGINS[here]), target))
        if path not in PAGES:
            raise PluginError(f"{ORIGINS[here]} links to {target}, which is no page of the site.")
        new = os.path.relpath(PAGES[path], posixpath.dirname(here) or ".")
        return link[1] + new + ("#" + anchor if anchor else "") + link[3]

    # Code between fences is left alone.
    parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.M | re.S)
    return "".join(part if i % 2 else LINK.sub(turned, part) for i, part in enumerate(parts))


def on_page_content(html, page, config, files):
    """Resolve the short names of docstrings, and link names in the text to the API."""
    here = set(re.findall(r'id="(rxjax\.[\w.]+)"', html))

    def resolved(match):
        scope, name = match["origin"].split("."), match["name"]
        # From the inside out, as Python looks names up, then any class of the page, then the other pages.
        paths = [".".join([*scope[:n], name]) for n in range(len(scope), 0, -1)]
        paths += sorted(x for x in here if x.endswith("." + name))
        full = next((x for x in paths if x in here), PUBLIC.get(name, name))
        return f'<autoref {match["before"]}identifier="{full}"'

    def linked(match):
        name = PUBLIC.get(match[1])
        return f'<autoref identifier="{name}">{match[0]}</autoref>' if name else match[0]

    html = REFERENCE.sub(resolved, html)
    # Not inside links, nor headings, which are links in the tables of contents.
    parts = re.split(r"(<h[1-6].*?</h[1-6]>|<a .*?</a>|<autoref .*?</autoref>)", html, flags=re.S)
    return "".join(part if i % 2 else NAME.sub(linked, part) for i, part in enumerate(parts))


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown with its saved output, and its pictures by name.  Nothing is executed."""
    parts, pictures = [], {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f'<img src="{name}" alt="Output of the cell above">')
            else:
                text = output.get("text", data.get("text/plain", ""))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


class _ConsoleFences(Preprocessor):
    def run(self, lines):
        text = "\n".join(lines)
        return re.sub(r"^( *)```python\n( *>>> )", r"\1```pycon\n\2", text, flags=re.M).split("\n")


class _Consoles(Extension):
    def extendMarkdown(self, md):
        # Before fences are taken out.
        md.preprocessors.register(_ConsoleFences(md), "consoles", 100)
