"""The STAC catalogue of the tile server: valid, true to what is served, and walked by real clients."""

import json
from functools import partial

import httpx
import pystac
import pystac_client
import pytest
import rasterio
from fastapi.testclient import TestClient
from pystac.stac_object import STACObjectType
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from tile_extras import OAK, POPPY, REDWOOD, app_of, make_shelf, running

from geomap.stac import UNDATED

get = partial(httpx.get, timeout=100)  # a file may have to be made first
PLANTS = "california.california-plants"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def address(shelf):
    with pytest.MonkeyPatch.context() as patch, running(app_of(shelf, patch)) as address:
        yield address


@pytest.fixture(scope="module")
def item(address):
    """The Item of a live map."""
    return get(f"{address}/stac/collections/{PLANTS}/items/{POPPY}").json()


def assert_valid(document, kind):
    """Against pystac's own copies of the core schemas; nothing is fetched."""
    assert JsonSchemaSTACValidator().validate_core(document, kind, "1.1.0") is not None


def test_every_document_is_valid(address):
    catalog = get(f"{address}/stac").json()
    assert_valid(catalog, STACObjectType.CATALOG)
    children = [link["href"] for link in catalog["links"] if link["rel"] == "child"]
    assert len(children) == 3
    for child in children:
        collection = get(child).json()
        assert_valid(collection, STACObjectType.COLLECTION)
        for link in (link for link in collection["links"] if link["rel"] == "item"):
            answer = get(link["href"])
            assert answer.headers["content-type"] == "application/geo+json"
            assert_valid(answer.json(), STACObjectType.ITEM)


def test_the_check_itself_finds_what_is_wrong(item):
    with pytest.raises(pystac.STACValidationError):
        assert_valid({**item, "geometry": "everywhere"}, STACObjectType.ITEM)


def test_pystac_walks_the_catalogue(address):
    catalog = pystac.Catalog.from_file(f"{address}/stac")
    found = {item.id: item for item in catalog.get_items(recursive=True)}
    assert {POPPY, OAK, REDWOOD, "chamaea-fasciata"} <= set(found)
    poppy = found[POPPY]
    assert poppy.get_parent().id == poppy.collection_id == PLANTS
    assert poppy.get_root().id == "geomap"
    assert poppy.get_self_href() == f"{address}/stac/collections/{PLANTS}/items/{POPPY}"


def test_pystac_client_opens_it_as_an_api(address):
    client = pystac_client.Client.open(f"{address}/stac")
    assert client.conforms_to("COLLECTIONS")
    assert not client.conforms_to("ITEM_SEARCH")
    assert not client.conforms_to("FEATURES")
    ids = {collection.id for collection in client.get_collections()}
    assert ids == {PLANTS, "california.north-america-birds", "california.world-birds"}
    collection = client.get_collection(PLANTS)
    with pytest.warns(pystac_client.warnings.PystacClientWarning):  # so it walks the links instead
        assert {item.id for item in collection.get_items()} == {POPPY, OAK, REDWOOD}


def test_what_it_says_of_conformance_is_the_same_in_both_places(address):
    stated = get(f"{address}/stac/conformance").json()["conformsTo"]
    assert get(f"{address}/stac").json()["conformsTo"] == stated
    assert all(link["rel"] != "search" for link in get(f"{address}/stac").json()["links"])


def test_the_landing_page_links_to_what_answers(address):
    for link in get(f"{address}/stac").json()["links"]:
        answer = get(link["href"])
        assert answer.status_code == 200, link
        expected = "openapi" if "openapi" in link["type"] else link["type"]
        assert answer.headers["content-type"].startswith(
            "application/json" if expected == "openapi" else expected
        )


def test_an_item_says_what_the_map_is(item, address):
    said = item["properties"]
    info = get(f"{address}/species/{POPPY}/info?grid=california").json()
    assert said["geomap:species"] == info["scientificName"]
    assert said["geomap:meaning"] == info["meaning"]
    assert said["geomap:map_version"] == info["version"]
    assert said["geomap:thresholds"]["p10"]["value"] == info["thresholds"]["p10"]["value"]
    assert said["geomap:scores"]["auc"] == info["scores"]["auc"]
    assert said["license"] == "CC-BY-NC-4.0"
    assert said["start_datetime"] == UNDATED and "Nothing is known" in said["description"]
    assert said["renders"]["map"]["rescale"] == [[0.0, 1.0]]


def test_projection_and_bands_are_those_of_the_file_that_it_links_to(item):
    said, asset = item["properties"], item["assets"]["map"]
    answer = get(asset["href"])
    assert answer.headers["content-type"] == asset["type"]
    with rasterio.MemoryFile(answer.content) as file, file.open() as source:
        assert said["proj:code"] == f"EPSG:{source.crs.to_epsg()}"
        assert tuple(said["proj:shape"]) == source.shape
        assert tuple(said["proj:transform"]) == tuple(source.transform)[:6]
        assert tuple(said["proj:bbox"]) == tuple(source.bounds)
        (band,) = asset["bands"]
        assert (band["data_type"], band["nodata"]) == (source.dtypes[0], source.nodata)
        assert (band["description"], band["unit"]) == (source.descriptions[0], source.units[0])
        assert asset["raster:spatial_resolution"] == source.transform.a


def test_the_item_of_a_rendered_map_is_the_written_one_with_addresses(address, shelf):
    item = get(f"{address}/stac/collections/{PLANTS}/items/{OAK}").json()
    written = json.loads((shelf / "maps" / "california" / f"{OAK}.json").read_text())
    assert (
        item["properties"].items()
        >= {key: value for key, value in written["properties"].items() if value not in ("", None)}.items()
    )
    asset = item["assets"]["map"]
    assert asset["file:size"] == len(get(asset["href"]).content)
    assert {**asset, "href": 0} == {**written["assets"]["map"], "href": 0}
    assert set(written["stac_extensions"]) <= set(item["stac_extensions"])


def test_web_map_links_answer(item):
    links = {link["rel"]: link for link in item["links"]}
    tile = links["xyz"]["href"].replace("{z}", "5").replace("{x}", "5").replace("{y}", "12")
    assert get(tile).headers["content-type"] == links["xyz"]["type"] == "image/png"
    assert get(links["tilejson"]["href"]).json()["tilejson"].startswith("3.")
    capabilities = get(links["wmts"]["href"]).text
    assert f"<ows:Identifier>{links['wmts']['wmts:layer']}</ows:Identifier>" in capabilities
    # The render extension asks for this where both extensions are used.
    assert links["xyz"]["render"] in item["properties"]["renders"]
    assert "v=" not in tile  # a document that is kept must not name a version that passes


def test_pictures_legend_and_citation_answer_with_their_types(item):
    for key, asset in item["assets"].items():
        answer = get(asset["href"])
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(asset["type"].split(";")[0]), key


def test_every_extension_that_is_used_is_declared_and_the_other_way_round(item):
    declared = {uri.split("/")[3] for uri in item["stac_extensions"]}
    assert declared == {"projection", "raster", "render", "web-map-links"}
    used = {
        key.partition(":")[0]
        for part in (item["properties"], item["assets"]["map"], *item["links"])
        for key in part
        if ":" in key
    }
    assert used == {"proj", "raster", "geomap", "wmts"}


def test_collections_without_their_items_are_listed_together(address):
    listed = get(f"{address}/stac/collections").json()["collections"]
    assert all(link["rel"] != "item" for collection in listed for link in collection["links"])
    for collection in listed:
        assert_valid(collection, STACObjectType.COLLECTION)
    plants = next(collection for collection in listed if collection["id"] == PLANTS)
    west, south, east, north = plants["extent"]["spatial"]["bbox"][0]
    assert west < -124 < -114.5 < east and south < 33 < 41.5 < north
    assert plants["summaries"] == {"geomap:meaning": ["suitability"], "geomap:group": ["california-plants"]}


def test_addresses_have_the_prefix_of_a_proxy(shelf, monkeypatch):
    client = TestClient(app_of(shelf, monkeypatch, root_path="/maps/2026"), base_url="https://example.org")
    for address in ("/stac", f"/stac/collections/{PLANTS}", f"/stac/collections/{PLANTS}/items/{POPPY}"):
        document = client.get(address).json()
        hrefs = [link["href"] for link in document["links"]]
        hrefs += [asset["href"] for asset in document.get("assets", {}).values()]
        assert all(href.startswith("https://example.org/maps/2026/") for href in hrefs), hrefs


def test_answers_are_kept_by_their_tag(address):
    for path in ("/stac", "/stac/collections", f"/stac/collections/{PLANTS}/items/{POPPY}"):
        answer = get(address + path)
        again = get(address + path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path, status",
    [
        ("collections/none", 404), ("collections/..%2f..", 404), ("collections/%00", 422),
        (f"collections/{PLANTS}/items/none", 404), (f"collections/{PLANTS}/items/A", 422),
        (f"collections/{PLANTS}?limit=1", 422), ("search", 404), ("collections/" + "a" * 500, 422),
    ],
)  # fmt: skip
def test_what_is_not_there(address, path, status):
    answer = get(f"{address}/stac/{path}")
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
