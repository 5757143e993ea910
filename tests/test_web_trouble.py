"""The web map where things go wrong: lost tiles, unknown species, and a proxy that takes its prefix off."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect
from webpage import FRESNO, PATIENCE_MS, served, visiting

pytestmark = pytest.mark.browser
POPPY = "eschscholzia-californica"
PREFIX = "/user/ann/proxy/8000"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("web")) as url:
        yield url


def test_lost_tiles_are_told_and_can_be_asked_for_again(browser, address):
    with visiting(browser, address) as visit:
        visit.page.route("**/value?**", lambda route: route.fulfill(status=500, body="{}"))
        visit.page.goto(f"{address}#species={POPPY}")
        toast = visit.page.locator(".toast")
        expect(toast).to_contain_text("status 500", timeout=PATIENCE_MS)
        assert toast.count() == 1
        visit.page.unroute("**/value?**")
        toast.get_by_role("button", name="Try again").click()
        visit.painted()
        expect(toast).to_have_count(0)
        assert visit.pixel(FRESNO)[3] == 255


def test_unknown_species_is_told_in_three_parts(browser, address):
    with visiting(browser, address) as visit:
        visit.page.goto(f"{address}#species=eschscholzia-californicum")
        expect(visit.page.locator(".toast")).to_contain_text(POPPY, timeout=PATIENCE_MS)  # the nearest


def test_behind_a_proxy_that_takes_its_prefix_off(browser, address):
    with forwarding(address) as front, visiting(browser, f"{front}{PREFIX}/") as visit:
        visit.go(f"#species={POPPY}&place=36.8,-119.8")
        expect(visit.page.locator("#here .answer")).to_be_visible(timeout=PATIENCE_MS)
        assert visit.pixel(FRESNO)[3] == 255
        assert visit.complaints == []
        assert all(url.startswith(f"{front}{PREFIX}/") for url in visit.asked)


class forwarding:
    """A proxy that passes on what is below PREFIX, and answers 404 to all else."""

    def __init__(self, target):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        class Forward(BaseHTTPRequestHandler):
            def do_GET(self):
                if not self.path.startswith(PREFIX + "/"):
                    self.send_error(404)
                    return
                try:
                    answer = opener.open(target.rstrip("/") + self.path.removeprefix(PREFIX), timeout=30)
                except urllib.error.HTTPError as error:
                    answer = error
                body = answer.read()
                self.send_response(answer.status)
                for name in ("Content-Type", "Cache-Control", "Content-Security-Policy"):
                    if answer.headers[name]:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
