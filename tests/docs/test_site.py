"""The built site in a headless browser: links, images, nothing from elsewhere."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from urllib.parse import urldefrag, urljoin

import pytest

import fr_jax
from tests.support.paths import ROOT

pytestmark = pytest.mark.xdist_group("site")  # built once
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FACTS = """() => ({
  title: document.title,
  links: [...document.querySelectorAll("a[href]")].map(a => a.href),
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
  broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
  unlabelled: [...document.querySelectorAll("article p img:not([alt])")].length,
  overflow: document.documentElement.scrollWidth - window.innerWidth,
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Returns the folder of the site; building it fails at any warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    done = subprocess.run(
        [*command, ROOT / "docs", folder / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_every_public_name_is_in_the_reference(site):
    text = (site / "generated/api.html").read_text()
    for name in fr_jax.__all__:
        assert f'id="fr_jax.{name}"' in text, name


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_pages_are_whole_in_a_browser(address):
    """At phone width, where a page that does not fit would scroll sideways."""
    from playwright.sync_api import sync_playwright

    foreign, links, ids = [], {}, {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:"))
                else foreign.append(request.url)
            ),
        )
        waiting = [f"{address}index.html"]
        while waiting:
            url = waiting.pop()
            response = page.goto(url)
            assert response is not None and response.ok, f"{url}, from {links}"
            facts = page.evaluate(FACTS)
            assert not facts["broken"], (url, facts["broken"])
            assert not facts["unlabelled"], url
            assert facts["overflow"] <= 0, f"{url} is wider than a phone"
            ids[url] = set(facts["ids"])
            links[url] = [
                urljoin(url, link)
                for link in facts["links"]
                if link.startswith(address)
            ]
            new = {urldefrag(link).url for link in links[url]}
            new = {link for link in new if link.endswith(".html")}
            waiting += sorted(new - ids.keys() - set(waiting))
        browser.close()
    assert not foreign
    assert len(ids) > 30
    for url, targets in links.items():
        for target in targets:
            base, anchor = urldefrag(target)
            if base in ids and anchor:
                assert anchor in ids[base], f"{url} links to {target}"
