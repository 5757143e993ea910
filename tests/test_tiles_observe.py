"""What an operator sees: log lines, the ids of requests, numbers, readiness."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import OAK, POPPY, TILE, made_bundle, opened

from geomap.errors import MapError
from tiles import observe
from tiles.settings import Settings


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with opened(made_bundle(tmp_path_factory), tmp_path_factory.mktemp("cache")) as client:
        yield client


def numbers(client):
    """Name and labels -> value."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_numbers_count_answers_by_route_and_tiles_by_memory(client):
    before = numbers(client)
    for _ in range(3):
        assert client.get(f"/species/{POPPY}/tiles/{TILE}.png").status_code == 200
    client.get("/species/puma")
    client.get("/no/such/place")
    after = numbers(client)

    def grown(*key):
        return after[key] - before.get(key, 0)

    tiles = "/species/{species}/tiles/{tms}/{z}/{x}/{y}.{format}"
    assert grown("geomap_tiles_requests_total", *sorted((tiles, "GET", "200"))) == 3
    assert grown("geomap_tiles_requests_total", *sorted(("/species/{species}", "GET", "404"))) == 1
    assert grown("geomap_tiles_requests_total", *sorted(("other", "GET", "404"))) == 1
    assert grown("geomap_tiles_cache_total", "hit") == 2
    assert grown("geomap_tiles_cache_total", "miss") == 1
    assert grown("geomap_tiles_draw_seconds_count") == 1
    assert not [key for key in after if any(POPPY in part or "puma" in part for part in key)]


def test_every_answer_has_an_id_that_its_log_line_carries(client, caplog):
    with caplog.at_level(logging.INFO, logger="tiles.access"):
        given = client.get("/species/puma", headers={"X-Request-ID": "from-proxy.1"})
        made = client.get("/species")
    assert given.headers["x-request-id"] == "from-proxy.1"
    assert len(made.headers["x-request-id"]) == 16
    lines = [record for record in caplog.records if record.name == "tiles.access"]
    assert [(line.path, line.status, line.route) for line in lines] == [
        ("/species/puma", 404, "/species/{species}"),
        ("/species", 200, "/species"),
    ]


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>"])
def test_an_id_of_another_form_is_replaced(client, given):
    assert client.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"] != given


def test_tiles_and_health_are_quiet_unless_they_fail(client, caplog):
    with caplog.at_level(logging.INFO, logger="tiles.access"):
        client.get(f"/species/{OAK}/tiles/{TILE}.png")
        client.get("/healthz")
        client.get(f"/species/{OAK}/tiles/WebMercatorQuad/99/0/0.png")
    assert [record.status for record in caplog.records if record.name == "tiles.access"] == [422]


def test_no_request_can_forge_a_log_line(client, caplog):
    with caplog.at_level(logging.INFO, logger="tiles.access"):
        client.get("/x%0a2026-01-01 error forged%1b[31m")
    (record,) = [record for record in caplog.records if record.name == "tiles.access"]
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()


def record_of(message, **extra):
    try:
        raise MapError("cannot read", "a file", "Render it")
    except MapError:
        record = logging.getLogger("tiles").makeRecord(
            "tiles.errors", logging.ERROR, "f", 1, message, ("x",), sys.exc_info(), extra=extra
        )
    return record


def test_json_lines_hold_everything():
    token = observe.REQUEST_ID.set("abc")
    try:
        line = json.loads(observe.JsonFormatter().format(record_of("failed %s", status=503, path="/a\nb")))
    finally:
        observe.REQUEST_ID.reset(token)
    assert (line["message"], line["level"], line["request"]) == ("failed x", "error", "abc")
    assert (line["status"], line["path"]) == (503, "/a\nb")
    assert "MapError" in line["exception"]
    assert line["time"].endswith("+00:00")


def test_text_lines_have_the_id_and_the_traceback():
    token = observe.REQUEST_ID.set("abc")
    try:
        text = observe.TextFormatter().format(record_of("failed %s"))
    finally:
        observe.REQUEST_ID.reset(token)
    assert " error [abc] failed x\nTraceback" in text


def test_logging_is_as_the_settings_say(capsys):
    loggers = [logging.getLogger(name) for name in observe.LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    try:
        observe.configure_logging(Settings(maps=(), log_format="json", log_level="warning"))
        logging.getLogger("tiles.access").info("quiet")
        logging.getLogger("tiles.access").warning("loud %d", 1)
        lines = capsys.readouterr().err.strip().splitlines()
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    assert [json.loads(line)["message"] for line in lines] == ["loud 1"]


def test_ready_while_a_sample_can_be_read_and_not_otherwise(client, monkeypatch, caplog):
    assert client.get("/readyz").json() == {"status": "ready"}

    def broken():
        raise MapError("cannot read the map", "/secret/x.tif", "Render it")

    monkeypatch.setattr(client.app.state.served.shown, "ready", broken)
    with caplog.at_level(logging.ERROR, logger="tiles.errors"):
        answer = client.get("/readyz")
    assert (answer.status_code, answer.headers["cache-control"]) == (503, "no-store")
    assert "secret" not in answer.text
    assert client.get("/healthz").status_code == 200
