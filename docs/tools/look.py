"""Look at the built site in headless Chromium: `python docs/tools/look.py site out/look`.

Serves the site to itself, lets nothing else be fetched, opens every page, and fails on what no link check can see:
a script's error, a formula that MathJax refuses, a picture that does not load or is one flat colour, a page without
text, a search that finds nothing.  Screenshots of the pages are left in the folder for the eye.
"""

import functools
import http.server
import io
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Formulae are in the page once MathJax says so.
READY = "() => window.MathJax && MathJax.startup && MathJax.startup.promise.then(() => true)"
LOADED = "img => img.complete && img.naturalWidth > 0 && img.naturalHeight > 0"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def look(page: Page, address: str, shot: Path) -> tuple[list[str], int, int]:
    """Faults of one page, and how many pictures and formulae it shows."""
    faults: list[str] = []
    listen = lambda event, words: page.on(event, lambda x: faults.append(f"{words}: {getattr(x, 'url', x)}"))
    listen("pageerror", "an error of a script")
    listen("requestfailed", "a request failed")
    page.goto(address)
    page.wait_for_function(READY)
    figures = page.locator("article img").all()
    for figure in figures:
        name = figure.get_attribute("src")
        figure.scroll_into_view_if_needed()
        page.wait_for_timeout(20)
        if not figure.evaluate(LOADED):
            faults.append(f"picture {name} did not load")
        elif np.ptp(np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("L"))) < 32:
            faults.append(f"picture {name} is one flat colour")
    formulae = page.locator("mjx-container").count()
    expected = page.locator("article .arithmatex").count()
    if page.locator("mjx-merror, [data-mjx-error]").count():
        faults.append("MathJax refuses a formula")
    if formulae < expected:
        faults.append(f"{expected} formulae, of which {formulae} are set")
    if len(page.locator("article").inner_text()) < 100:
        faults.append("the page is empty")
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.screenshot(path=shot, full_page=False)
    return faults, len(figures), formulae


def search(page: Page, root: str, word: str) -> int:
    """How many pages the site's own search finds."""
    page.goto(root + "index.html")
    page.click("input.md-search__input")
    page.keyboard.type(word, delay=20)
    page.wait_for_selector(".md-search-result__item")
    return page.locator(".md-search-result__item").count()


def main(site: Path, out: Path) -> int:
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        print("No Chromium is found: install one, on Debian `apt-get install chromium`, and run `make look` again.")
        return 2
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    # Port 0 is any free one.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        context.route(lambda url: not url.startswith(root), lambda route: route.abort())
        names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.stem != "404")
        for name in names:
            page = context.new_page()
            shot = out / f"{name.removesuffix('.html').replace('/', '_')}.png"
            faults, figures, formulae = look(page, root + name, shot)
            print(f"{name:36} {figures:3} pictures {formulae:4} formulae  {'; '.join(faults) or 'fine'}")
            failed += bool(faults)
            page.close()
        found = search(context.new_page(), root, "committor")
        print(f"the search finds `committor` on {found} pages")
        chromium.close()
    server.shutdown()
    print(f"{len(names)} pages, {failed} with a fault; screenshots in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
