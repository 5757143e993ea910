"""Maps on a web server and in a bucket: what is asked for, how often, and what is said when it fails."""

import json
import logging
import shutil
import threading
from contextlib import contextmanager
from functools import partial

import boto3
import numpy as np
import pytest
import rasterio
from moto.server import ThreadedMotoServer
from rasterio.windows import Window

from geomap import render
from geomap.errors import MapError
from geomap.grid import named_grid
from geomap.testing import RangeHandler, http_server
from geomap.testing_bundle import make_bundle
from tiles import objects, remote

POPPY = "eschscholzia-californica"
SECRET = "X-Sig-SECRET"


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A folder that geomap.render wrote."""
    root = tmp_path_factory.mktemp("remote")
    grid = named_grid("california", 2000.0)
    bundle = make_bundle(root / "bundle", [grid])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMAP_BUNDLE", str(bundle))
        options = ["--species", "all", "--heads", "california-plants", "--grid", "california"]
        assert render.main([*options, "--resolution", "2000", "--out", str(root / "maps")]) == 0
    (root / "maps" / grid.name).rename(root / "maps" / "california")
    return root / "maps"


class Counting(RangeHandler):
    """A file server that notes what it is asked for, tells entity tags, and can be told to refuse."""

    def __init__(self, *args, asked, refusing, **kwargs):
        self.asked, self.refusing = asked, refusing
        super().__init__(*args, **kwargs)

    def note(self):
        self.asked.append((self.command, self.path, self.headers.get("Range")))
        if self.refusing:
            self.send_error(self.refusing[0])
        return bool(self.refusing)

    def do_GET(self):
        if not self.note():
            super().do_GET()

    def do_HEAD(self):
        if not self.note():
            super().do_HEAD()


@contextmanager
def web(folder):
    asked, refusing = [], []
    handler = partial(Counting, directory=str(folder), asked=asked, refusing=refusing)
    with http_server(handler) as address:
        yield address, asked, refusing


@pytest.fixture
def bucket(monkeypatch, caplog):
    """A bucket named `shelf` on a server of this machine that speaks S3; yields what it was asked for."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    objects._bucket.cache_clear()
    with caplog.at_level(logging.INFO, logger="werkzeug"):
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="shelf")
        yield client, lambda: [r.getMessage() for r in caplog.records if r.name == "werkzeug"]
    server.stop()
    objects._bucket.cache_clear()


@contextmanager
def opened(location):
    """A remote map, as the server opens it."""
    options = remote.gdal_options(location)
    with rasterio.Env(**options), rasterio.open(remote.gdal_path(location), driver="GTiff") as source:
        yield source


def test_a_map_on_a_web_server_opens_with_few_requests_and_its_second_tile_with_none(maps):
    path = maps / "california" / f"{POPPY}.tif"
    with web(maps) as (address, asked, _):
        location = remote.join(address, f"california/{POPPY}.tif")
        with opened(location) as far:
            values = far.read(1, window=Window(100, 100, 64, 64))
            first = list(asked)
            again = far.read(1, window=Window(120, 110, 64, 64))
            assert asked == first
        assert len(first) <= 5
        assert all(where == f"/california/{POPPY}.tif" for _, where, _ in asked)  # no listing, nothing beside
        assert all(part is not None for kind, _, part in asked if kind == "GET")  # never the whole file
    with rasterio.open(path) as near:
        assert np.array_equal(values, near.read(1, window=Window(100, 100, 64, 64)))
        assert np.array_equal(again, near.read(1, window=Window(120, 110, 64, 64)))


def test_a_map_that_was_replaced_is_read_anew(maps, tmp_path):
    grid = tmp_path / "california"
    shutil.copytree(maps / "california", grid)
    with web(tmp_path) as (address, _, _):
        location = remote.join(address, f"california/{POPPY}.tif")

        def whole():
            with opened(location) as far:
                return far.read(1)

        before = whole()
        (grid / "quercus-lobata.tif").replace(grid / f"{POPPY}.tif")
        after = whole()
    with rasterio.open(grid / f"{POPPY}.tif") as near:
        assert np.array_equal(after, near.read(1))
    assert not np.array_equal(before, after)


def test_documents_and_maps_of_a_bucket(maps, bucket):
    client, asked = bucket
    for path in (maps / "california").iterdir():
        client.upload_file(str(path), "shelf", f"2026/california/{path.name}")
    location = "s3://shelf/2026"
    before = len(asked())
    (found,) = remote.collections(location)
    assert found == "s3://shelf/2026/california/collection.json"
    document, tag = remote.read_json(found)
    assert document == json.loads((maps / "california" / "collection.json").read_text())
    assert remote.read_json(found)[1] == tag
    assert len(asked()) - before <= 7
    name = remote.join(location, f"california/{POPPY}.tif")
    before = len(asked())
    with opened(name) as far:
        values = far.read(1, window=Window(100, 100, 64, 64))
        first = len(asked()) - before
        far.read(1, window=Window(120, 110, 64, 64))
        assert len(asked()) - before == first <= 5
    with rasterio.open(maps / "california" / f"{POPPY}.tif") as near:
        assert np.array_equal(values, near.read(1, window=Window(100, 100, 64, 64)))
    part = objects.open_part(name, 100, 300)
    data = (maps / "california" / f"{POPPY}.tif").read_bytes()
    assert b"".join(part.chunks) == data[100:300]
    assert (part.first, part.stop, part.size) == (100, 300, len(data))
    assert not [line for line in asked() if "list-type" in line or "prefix=" in line]
    assert SECRET not in "".join(asked())


def test_a_bucket_that_refuses_says_so_without_its_keys(bucket):
    with pytest.raises(remote.MissingError) as refusal:
        remote.read_json("s3://shelf/none/collection.json")
    assert refusal.value.found == "nothing at s3://shelf/none/collection.json (404)"
    with pytest.raises(MapError) as refusal:
        remote.read_json("s3://of-nobody/collection.json")
    assert SECRET not in str(refusal.value)


def test_documents_that_did_not_change_are_not_sent_again(tmp_path):
    class Tagged(Counting):
        def end_headers(self):
            self.send_header("ETag", '"one"')
            super().end_headers()

        def do_GET(self):
            if self.headers.get("If-None-Match") == '"one"':
                self.asked.append("304")
                self.send_response(304)
                self.end_headers()
            else:
                super().do_GET()

    (tmp_path / "collection.json").write_text('{"links": []}')
    asked = []
    with http_server(partial(Tagged, directory=str(tmp_path), asked=asked, refusing=[])) as address:
        location = remote.join(address, "collection.json")
        assert remote.read_json(location) == ({"links": []}, '"one"')
        assert remote.read_json(location) == ({"links": []}, '"one"')
    assert [entry if isinstance(entry, str) else entry[0] for entry in asked] == ["GET", "304"]


def test_a_document_without_a_tag_is_told_by_its_content(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.json").write_text('{"a": 2}')
    with web(tmp_path) as (address, _, _):
        tags = [remote.read_json(remote.join(address, name))[1] for name in ("a.json", "b.json", "a.json")]
    assert tags[0] == tags[2] != tags[1]


def test_the_query_of_a_signed_address_goes_with_every_file_and_is_never_shown(maps):
    with web(maps) as (address, asked, refusing):
        location = f"{address}/california?sig={SECRET}"
        (found,) = remote.collections(location)
        remote.read_json(found)
        name = remote.join(location, f"{POPPY}.tif")
        with opened(name) as far:
            assert far.count == 1
        assert all(where.endswith(f"?sig={SECRET}") for _, where, _ in asked)
        for status, found in ((403, "(403)"), (404, "(404)"), (418, "does not answer as it should")):
            refusing[:] = [status]
            with pytest.raises(MapError) as refusal:
                remote.read_json(remote.join(location, "other.json"))
            assert found in refusal.value.found
            assert SECRET not in str(refusal.value)
            assert isinstance(refusal.value, remote.MissingError) == (status == 404)


def test_a_server_that_is_gone_or_hangs(monkeypatch):
    monkeypatch.setattr(objects, "RETRIES", 0)
    objects._site.cache_clear()
    with pytest.raises(MapError, match="does not answer") as refusal:
        remote.read_json("http://127.0.0.1:9/collection.json")
    assert not isinstance(refusal.value, remote.MissingError)
    held = threading.Event()

    class Hanging(RangeHandler):
        def do_GET(self):
            held.wait(10)

    monkeypatch.setattr(objects, "ANSWER_S", 0.3)
    objects._site.cache_clear()
    with http_server(Hanging) as address:
        try:
            with pytest.raises(MapError, match="does not answer"):
                remote.read_json(f"{address}/collection.json")
        finally:
            held.set()
            objects._site.cache_clear()


@pytest.mark.parametrize("body", ["{", "[]", "", "\ufffe"])
def test_what_is_no_document_is_refused(tmp_path, body):
    (tmp_path / "collection.json").write_text(body)
    with web(tmp_path) as (address, _, _), pytest.raises(MapError, match=r"collection\.json"):
        remote.read_json(f"{address}/collection.json")


def test_collections_are_found_without_listing(maps, tmp_path):
    children = [
        "./a/collection.json",
        "b/collection.json",
        "../secret/collection.json",
        "/etc/collection.json",
    ]
    links = [{"rel": "child", "href": href} for href in [*children, "http://x/collection.json"]]
    (tmp_path / "catalog.json").write_text(json.dumps({"links": [*links, {"rel": "self"}]}))
    with web(maps) as (address, asked, _):
        assert remote.collections(address) == [f"{address}/california/collection.json"]
        assert remote.collections(f"{address}/california/") == [f"{address}/california/collection.json"]
        direct = f"{address}/california/collection.json"
        assert remote.collections(direct) == [direct]
        assert not [where for _, where, _ in asked if where.endswith("/")]
    with web(tmp_path) as (address, _, _):
        found = remote.collections(address)
        assert found == [f"{address}/a/collection.json", f"{address}/b/collection.json"]
        with pytest.raises(MapError, match="Name the folder of a grid"):
            remote.collections(f"{address}/nothing")


@pytest.mark.parametrize(
    "location", ["https://user:pw@host/maps", "ftp://host/maps", "https:///maps", "s3:///x", "file:///etc"]
)
def test_addresses_it_does_not_take(location):
    with pytest.raises(MapError) as refusal:
        remote.gdal_path(location)
    assert "pw" not in str(refusal.value)


def test_addresses():
    assert remote.is_remote("s3://a/b") and remote.is_remote("https://a/b")
    assert not remote.is_remote("maps") and not remote.is_remote("/a/b") and not remote.is_remote("c:/a")
    assert remote.join("https://h/a/?x=1", "b/c d.json") == "https://h/a/b/c%20d.json?x=1"
    assert remote.gdal_path("s3://bucket/a/b.tif") == "/vsis3/bucket/a/b.tif"
    assert remote.gdal_path("https://h/a.tif?x=1") == "/vsicurl/https://h/a.tif?x=1"
    assert "CPL_VSIL_CURL_ALLOWED_EXTENSIONS" not in remote.gdal_options("https://h/a?x=1")
    assert remote.gdal_options("https://h/a")["CPL_VSIL_CURL_ALLOWED_EXTENSIONS"] == ".tif"


def test_an_endpoint_is_understood_in_both_spellings(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    options = remote.gdal_options("s3://bucket/maps")
    assert (options["AWS_S3_ENDPOINT"], options["AWS_HTTPS"]) == ("127.0.0.1:9000", "NO")
    assert options["AWS_VIRTUAL_HOSTING"] == "FALSE"
    monkeypatch.setenv("AWS_S3_ENDPOINT", "store.example:9000")
    assert "AWS_S3_ENDPOINT" not in remote.gdal_options("s3://bucket/maps")  # GDAL reads it itself
    told = {"AWS_S3_ENDPOINT": "store.example:9000", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    assert objects.bucket_options({**told, "AWS_NO_SIGN_REQUEST": "YES"}) == {
        "endpoint": "http://store.example:9000",
        "virtual_hosted_style_request": False,
        "skip_signature": True,
    }
    assert objects.bucket_options({}) == {}
