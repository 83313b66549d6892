"""The built documentation in a browser: requests, mathematics, figures, search, dark mode.

`mkdocs build --strict` comes first.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.pages

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"

#: Formulas that are not drawn, errors of MathJax, images without size, and what is too wide.
PROBLEMS = """
const formulas = [...document.querySelectorAll('.arithmatex')];
const drawn = formula => formula.querySelector('mjx-container svg')?.getBoundingClientRect().width;
const none = formulas.filter(formula => !(drawn(formula) > 1));
const wrong = [...document.querySelectorAll('[data-mml-node=merror]')];
const empty = [...document.images].filter(image => !image.complete || !image.naturalWidth);
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
return [
  ...none.map(f => 'formula not drawn: ' + f.textContent),
  ...wrong.map(e => 'formula with an error: ' + e.parentElement.textContent),
  ...empty.map(image => 'image missing: ' + image.src),
  ...(wide ? ['wider than the window'] : []),
];
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not (SITE / "index.html").exists():
        pytest.skip("the documentation is not built: mkdocs build --strict")
    sources = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "tutorials").glob("*.ipynb")]
    if max(path.stat().st_mtime for path in sources) > (SITE / "index.html").stat().st_mtime:
        pytest.skip("the documentation is older than its sources: mkdocs build --strict")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory) -> Iterator[webdriver.Chrome]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("there is no Chromium with chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("disable-dev-shm-usage", "window-size=1280,900"),
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def wait(browser, script: str, seconds: float = 60.0) -> object:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda b: b.execute_script(f"return {script}"))


def visit(browser, url: str) -> list[str]:
    """Open a page, wait until it is drawn, and return what is wrong with it."""
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(url)
    wait(browser, "window.MathJax && MathJax.startup && MathJax.startup.promise !== undefined")
    browser.execute_async_script("MathJax.startup.promise.then(() => arguments[0]())")
    wait(browser, "[...document.images].every(image => image.complete)")
    problems, sent = list(browser.execute_script(PROBLEMS)), set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        about = message["params"]
        failed = message["method"] == "Network.loadingFailed" and not about.get("canceled")
        if failed and about["requestId"] in sent:  # others are the browser's own
            problems.append(f"request failed: {about['errorText']}")
        if message["method"] == "Network.requestWillBeSent":
            sent.add(about["requestId"])
            asked = about["request"]["url"]
            if not asked.startswith((url.rpartition(":")[0], "data:", "blob:", "chrome:")):
                problems.append(f"request to another place: {asked}")
        if message["method"] == "Network.responseReceived" and about["response"]["status"] >= 400:
            problems.append(f"{about['response']['status']}: {about['response']['url']}")
    errors = [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
    ]
    return problems + errors


def test_every_page_is_drawn_without_a_failed_request(browser, address):
    found, formulas = {}, 0
    for file in sorted(SITE.rglob("*.html")):
        page = file.relative_to(SITE).as_posix()
        if problems := visit(browser, f"{address}/{page}"):
            found[page] = problems
        formulas += browser.execute_script(
            "return document.querySelectorAll('mjx-container').length"
        )
        text = browser.execute_script("return document.querySelector('.md-content').innerText")
        if page != "404.html" and (".. math::" in text or ":math:`" in text):
            found.setdefault(page, []).append("a formula for Sphinx")
    assert found == {}
    assert formulas > 100


@pytest.mark.parametrize("page", ["", "model/", "files/", "tutorials/05_populations/"])
def test_page_fits_a_telephone(browser, address, page):
    before = browser.get_window_size()
    try:
        browser.set_window_size(500, 900)
        assert visit(browser, f"{address}/{page}") == []
    finally:
        browser.set_window_size(before["width"], before["height"])


@pytest.mark.parametrize("notebook", sorted(p.stem for p in (ROOT / "tutorials").glob("*.ipynb")))
def test_tutorial_has_figures_and_links(browser, address, notebook, request):
    if "06" in notebook:
        request.getfixturevalue("shared_data")  # or else it was built without figures
    browser.get(f"{address}/tutorials/{notebook}/")
    links = browser.execute_script("return [...document.links].map(link => link.href)")
    assert f"{address}/tutorials/{notebook}.ipynb" in links
    assert any("colab.research.google.com" in link and notebook in link for link in links)
    figures = "[...document.querySelectorAll('.md-content img')].filter(i => i.naturalWidth > 200)"
    assert wait(browser, f"{figures}.length") >= 2


def test_search_finds_a_class(browser, address):
    browser.get(f"{address}/index.html?q=ConvDictionary")
    results = "document.querySelectorAll('.md-search-result__item').length"
    assert wait(browser, results) >= 1


def test_dark_mode(browser, address):
    browser.get(f"{address}/index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(f"return {colour}")
    browser.execute_script("document.querySelector('label[for=__palette_1]').click()")
    assert wait(browser, "document.body.getAttribute('data-md-color-scheme') === 'slate'")
    assert browser.execute_script(f"return {colour}") != light
