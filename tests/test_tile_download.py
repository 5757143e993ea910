"""Maps as files: the same bytes as geomap.render writes, in parts, once a version; and pictures of them."""

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from fastapi.testclient import TestClient
from PIL import Image
from tile_extras import OAK, POPPY, REDWOOD, app_of, make_shelf

from geomap import render
from geomap.colour import CLEAR
from geomap.testing import file_server
from tiles import download, ranges
from tiles.app import create_app
from tiles.settings import Settings
from tiles.sources import Options

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def client(shelf, patch):
    with TestClient(app_of(shelf, patch)) as client:
        yield client


def test_a_rendered_map_goes_out_as_it_lies_there(client, shelf):
    answer = client.get(f"/species/{OAK}/download?grid=california")
    assert answer.content == (shelf / "maps" / "california" / f"{OAK}.tif").read_bytes()
    assert answer.headers["content-type"] == COG
    assert answer.headers["content-disposition"] == f'attachment; filename="{OAK}.california.tif"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-encoding" not in answer.headers
    assert answer.headers["cache-control"] == "public, max-age=300"


def test_a_live_map_is_made_as_geomap_render_makes_it(client, shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(shelf / "bundle"))
    answer = client.get(f"/species/{POPPY}/download")
    assert answer.status_code == 200
    field = shelf / "bundle" / "fields" / "california.zarr.zip"
    chosen = ["--species", "Eschscholzia californica", "--heads", "california-plants", "--field", str(field)]
    assert render.main([*chosen, "--out", str(tmp_path)]) == 0
    assert answer.content == (tmp_path / "california" / f"{POPPY}.tif").read_bytes()
    with rasterio.MemoryFile(answer.content) as file, file.open() as source:
        assert source.tags()["GEOMAP_SPECIES"] == "Eschscholzia californica"
        assert source.overviews(1) is not None
    version = client.get(f"/species/{POPPY}/info").json()["version"]
    assert [path.name.split(".")[:2] for path in (shelf / "cache" / "downloads").glob("*.tif")] == [
        [POPPY, version]
    ]
    forever = client.get(f"/species/{POPPY}/download?v={version}")
    assert forever.headers["cache-control"].endswith("immutable")
    assert client.get(f"/species/{POPPY}/download?v={'0' * 12}").status_code == 404


@pytest.mark.parametrize("slug", [OAK, POPPY])
def test_parts_of_a_file(client, slug):
    address = f"/species/{slug}/download"
    whole = client.get(address)
    size, tag = len(whole.content), whole.headers["etag"]
    assert not tag.startswith("W/")
    for asked, first, stop in [
        ("bytes=0-99", 0, 100), ("bytes=100-", 100, size), ("bytes=-50", size - 50, size),
        (f"bytes=5-{size * 9}", 5, size), (f"bytes=-{size * 9}", 0, size), ("bytes=0-0", 0, 1),
    ]:  # fmt: skip
        part = client.get(address, headers={"Range": asked})
        assert part.status_code == 206
        assert part.content == whole.content[first:stop]
        assert part.headers["content-range"] == f"bytes {first}-{stop - 1}/{size}"
        assert part.headers["content-length"] == str(stop - first)
        assert part.headers["etag"] == tag
    for asked in ("bytes=0-1,5-6", "bytes=-", "lines=1-2", "bytes=a-b"):  # several, or no range at all
        answer = client.get(address, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (200, whole.content)
    for asked in (f"bytes={size}-", "bytes=9-3", "bytes=-0"):
        answer = client.get(address, headers={"Range": asked})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{size}"
        assert answer.headers["cache-control"] == "no-store"


def test_a_part_of_another_version_is_not_sent(client):
    address = f"/species/{OAK}/download"
    whole = client.get(address)
    part = {"Range": "bytes=0-9"}
    same = client.get(address, headers={**part, "If-Range": whole.headers["etag"]})
    dated = client.get(address, headers={**part, "If-Range": whole.headers["last-modified"]})
    other = client.get(address, headers={**part, "If-Range": '"another"'})
    assert (same.status_code, dated.status_code, other.status_code) == (206, 206, 200)
    assert other.content == whole.content
    known = client.get(address, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_head_tells_the_size_without_a_body(client):
    whole = client.get(f"/species/{OAK}/download")
    answer = client.head(f"/species/{OAK}/download")
    assert answer.content == b""
    for name in ("content-length", "etag", "content-type", "accept-ranges"):
        assert answer.headers[name] == whole.headers[name]


def test_a_map_is_made_once_however_many_ask(shelf, patch, tmp_path, monkeypatch):
    made, begun, go = [], threading.Event(), threading.Event()

    def slow(chosen, heads, path):
        made.append(chosen.about.id)
        begun.set()
        assert go.wait(30)
        path.write_bytes(b"map")

    monkeypatch.setattr(download, "render", slow)
    app = app_of(shelf, patch, cache_dir=tmp_path, maps=())
    with TestClient(app) as client, ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(client.get, f"/species/{REDWOOD}/download") for _ in range(6)]
        assert begun.wait(30)
        go.set()
        answers = [each.result() for each in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert made == [REDWOOD]


def test_too_many_waiting_are_sent_away(shelf, patch, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAITING", 0)
    client = TestClient(app_of(shelf, patch, cache_dir=tmp_path, maps=()))
    answer = client.get(f"/species/{REDWOOD}/download")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_the_cache_folder_keeps_what_was_used_last(shelf, patch, tmp_path, monkeypatch):
    made = []

    def quick(chosen, heads, path):
        made.append(chosen.about.id)
        path.write_bytes(bytes(400_000))

    monkeypatch.setattr(Options, "of", lambda settings: Options(download_cache_mb=1))
    monkeypatch.setattr(download, "render", quick)
    client = TestClient(app_of(shelf, patch, cache_dir=tmp_path, maps=()))
    for slug in (POPPY, OAK, POPPY, REDWOOD, POPPY, OAK):  # room for two: the oak goes, then the redwood
        assert client.get(f"/species/{slug}/download").status_code == 200
    assert made == [POPPY, OAK, REDWOOD, OAK]
    there = sorted(path.name.partition(".")[0] for path in (tmp_path / "downloads").glob("*.tif"))
    assert there == [POPPY, OAK]
    assert len(list((tmp_path / "downloads").glob("*.used"))) == 2


def test_a_file_that_cannot_be_made_is_503_and_leaves_nothing(shelf, patch, tmp_path, caplog):
    bundle = shutil.copytree(shelf / "bundle", tmp_path / "bundle")
    patch.setenv("GEOMAP_BUNDLE", str(bundle))
    with TestClient(create_app(Settings(cache_dir=tmp_path / "cache", maps=(), warm=False))) as client:
        (bundle / "heads" / "california-plants" / "species.parquet").write_bytes(b"PAR1")
        answer = client.get(f"/species/{POPPY}/download")
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    assert "species.parquet" in caplog.text or "species heads" in caplog.text  # what the command said
    assert [path.name for path in (tmp_path / "cache" / "downloads").iterdir()] == ["lock"]


def test_a_map_too_large_is_refused_with_the_command_that_makes_it(shelf, patch, monkeypatch):
    monkeypatch.setattr(Options, "of", lambda settings: Options(download_cells=10))
    client = TestClient(app_of(shelf, patch, maps=()))
    answer = client.get(f"/species/{POPPY}/download")
    assert answer.status_code == 413
    assert "geomap render --species 'Eschscholzia californica'" in answer.json()["change"]
    item = client.get(f"/stac/collections/california.california-plants/items/{POPPY}").json()
    assert "map" not in item["assets"]
    assert "renders" not in item["properties"]


def test_maps_elsewhere_are_passed_through(shelf, patch):
    data = (shelf / "maps" / "california" / f"{OAK}.tif").read_bytes()
    with file_server(shelf / "maps") as address:
        client = TestClient(app_of(shelf, patch, maps=(address,)))
        answer = client.get(f"/species/{OAK}/download?grid=california")
        assert (answer.status_code, answer.content) == (200, data)
        part = client.get(f"/species/{OAK}/download", headers={"Range": "bytes=1000-1999"})
        assert (part.status_code, part.content) == (206, data[1000:2000])
        assert part.headers["etag"] == answer.headers["etag"]
    gone = client.get(f"/species/{OAK}/download")
    assert gone.status_code == 503
    assert address not in gone.text


def test_a_file_replaced_while_it_is_sent_stays_the_same(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"old" * 1000)
    source = ranges.local(path)
    (tmp_path / "b.tif").write_bytes(b"new" * 1000)
    (tmp_path / "b.tif").replace(path)
    assert b"".join(source.read(0, source.size)) == b"old" * 1000
    source.close()


def test_a_missing_file_is_503_without_its_path(shelf, patch, tmp_path):
    shutil.copytree(shelf / "maps", tmp_path / "maps")
    client = TestClient(app_of(shelf, patch, maps=(str(tmp_path / "maps"),)))
    assert client.get(f"/species/{OAK}/download").status_code == 200
    (tmp_path / "maps" / "california" / f"{OAK}.tif").unlink()
    for _ in range(2):  # what was rendered is gone: seen at once, or when the folder is looked at again
        answer = client.get(f"/species/{OAK}/download")
        assert answer.status_code in (200, 503)
        assert str(tmp_path).encode() not in answer.content


def test_pictures_are_small_and_have_the_colours_of_the_tiles(client):
    answer = client.get(f"/species/{OAK}/preview.png")
    picture = Image.open(io.BytesIO(answer.content))
    assert max(picture.size) <= 512
    entries = np.asarray(picture)
    assert (entries == CLEAR).any() and (entries < CLEAR).any()
    assert answer.headers["content-type"] == "image/png"
    again = client.get(f"/species/{OAK}/preview.png", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    grey = client.get(f"/species/{OAK}/preview.png?colormap=greys")
    assert (np.asarray(Image.open(io.BytesIO(grey.content))) == entries).all()
    assert grey.content != answer.content


@pytest.mark.parametrize(
    "query", ["url=/etc/passwd", "grid=../x", "max_size=9999", "group=%00", "grid=a&grid=b"]
)
@pytest.mark.parametrize("route", ["download", "preview.png"])
def test_parameters_it_does_not_take(client, route, query):
    assert client.get(f"/species/{OAK}/{route}?{query}").status_code == 422


@pytest.mark.parametrize("slug, status", [("no-such-species", 404), ("A", 422), ("..%2f..%2fetc", 404)])
def test_species_it_does_not_have(client, slug, status):
    assert client.get(f"/species/{slug}/download").status_code == status


def test_withheld_species_cannot_be_had(shelf, patch):
    client = TestClient(app_of(shelf, patch, withheld=(OAK,)))
    for route in ("download", "preview.png"):
        assert client.get(f"/species/{OAK}/{route}").status_code == 404
    assert OAK not in client.get("/stac/collections/california.california-plants").text
    assert client.get(f"/stac/collections/california.california-plants/items/{OAK}").status_code == 404
