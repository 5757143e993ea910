"""Tiles over HTTP: what is drawn, how long it may be kept, and that it is drawn once."""

from __future__ import annotations

import io
import threading
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from serving import FINCH, OAK, POPPY, SQUARE, TILE, entries, made_bundle, opened, waited

from geomap.cog import GAP
from geomap.colour import CLEAR, STEPS, palette
from tiles import cuts, paint, routes_compare
from tiles.headers import FOREVER, MINUTES
from tiles.warp import Tile


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with opened(made_bundle(tmp_path_factory), tmp_path_factory.mktemp("cache")) as client:
        yield client


@pytest.fixture
def poppy(client):
    return client.app.state.served.shown.find(POPPY)


def test_colours_are_those_of_the_legend(client, poppy):
    expected = paint.tile_levels(poppy, "WebMercatorQuad", 6, 10, 24)
    answer = client.get(f"/species/{POPPY}/tiles/{TILE}.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert (entries(answer.content) == expected).all()
    assert (expected != CLEAR).any()
    rgba = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    assert (rgba[expected != CLEAR] == palette()[expected[expected != CLEAR]]).all()
    assert (rgba[expected == CLEAR][:, 3] == 0).all()
    legend = client.get(f"/species/{POPPY}/legend.json").json()["palette"]
    assert legend == ["#{:02x}{:02x}{:02x}".format(*entry) for entry in palette()[: STEPS + 1, :3].tolist()]


@pytest.mark.parametrize("colormap", ["greys", "orrd"])
def test_colour_maps_by_choice(client, poppy, colormap):
    expected = palette(colormap)[paint.tile_levels(poppy, "WebMercatorQuad", 6, 10, 24)]
    for kind in ("png", "webp"):
        answer = client.get(f"/species/{POPPY}/tiles/{TILE}.{kind}?colormap={colormap}")
        assert answer.headers["content-type"] == f"image/{kind}"
        rgba = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
        seen = expected[..., 3] > 0
        assert (rgba[seen] == expected[seen]).all()
        assert (rgba[~seen][:, 3] == 0).all()


def steps_of(poppy):
    """Steps of the cells under the pixels of the tile, by the way that the engine takes."""
    warp = paint.WARPS.get(paint.cells_of(poppy), Tile("WebMercatorQuad", 6, 10, 24, 256))
    return warp.take(poppy.steps(warp.window, warp.level, 0), GAP)


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("threshold", ["p10", "maxsss", "0.61", "0.6103", "0"])
def test_below_a_threshold_lies_the_lightest_colour_and_no_data_stays_clear(client, poppy, threshold, kind):
    limits = poppy.about.thresholds
    value = limits[threshold].value if threshold in limits else float(threshold)
    values = steps_of(poppy) / 10_000
    there = steps_of(poppy) != GAP
    plain = paint.tile_levels(poppy, "WebMercatorQuad", 6, 10, 24)
    expected = np.where(
        there & (values < value - 1e-9), 0, np.where(there, np.maximum(plain, value > 0), CLEAR)
    )
    answer = client.get(f"/species/{POPPY}/tiles/{TILE}.{kind}?threshold={threshold}")
    assert answer.status_code == 200
    rgba = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    assert (rgba[there] == palette()[expected[there]]).all()
    assert (rgba[~there][:, 3] == 0).all()
    if value > 0:
        assert 0 < (expected[there] == 0).mean() < 1
    else:
        assert (expected == plain).all()


def test_a_threshold_says_the_same_in_tiles_at_a_place_and_in_a_polygon(client, poppy):
    limit = poppy.about.thresholds["p10"].value
    cut = paint.cut_table(cuts.cut_of(poppy.about, 0, "p10"))
    assert (cut[round(limit * 10_000)] > 0, cut[round(limit * 10_000) - 1], cut[GAP]) == (True, 0, CLEAR)
    by_name = client.get(f"/species/{POPPY}/tiles/{TILE}.png?threshold=p10")
    by_value = client.get(f"/species/{POPPY}/tiles/{TILE}.png?threshold={limit}")
    assert by_name.content == by_value.content
    assert by_name.headers["etag"] == by_value.headers["etag"]
    told = client.post(f"/species/{POPPY}/summary?threshold={limit}", json=SQUARE).json()["above"]
    assert told[str(limit)] == told["p10"]
    assert 0 < told["p10"]["share"] < 1


def test_a_threshold_is_refused_with_those_that_there_are(client):
    answer = client.get(f"/species/{POPPY}/tiles/{TILE}.png?threshold=p90").json()
    assert answer["found"] == "no threshold 'p90' of the layer suitability"
    assert answer["change"] == "Give mtp, p10, lpt5, maxsss or a value from 0 to 1."
    answer = client.post(f"/species/{POPPY}/summary?threshold=2", json=SQUARE)
    assert (answer.status_code, answer.json()["found"]) == (422, "threshold 2")


@pytest.mark.parametrize("tile", [TILE, "WorldCRS84Quad/5/10/9"])
def test_value_tiles_hold_the_palette_entries(client, poppy, tile):
    tms, z, x, y = tile.split("/")
    answer = client.get(f"/species/{POPPY}/tiles/{tile}/value")
    assert Image.open(io.BytesIO(answer.content)).mode == "L"
    expected = paint.tile_levels(poppy, tms, int(z), int(x), int(y))
    assert (entries(answer.content) == expected).all()
    assert (expected != CLEAR).any()


def test_a_tile_beside_the_map_is_clear_and_small(client):
    answer = client.get(f"/species/{POPPY}/tiles/WebMercatorQuad/6/40/24.png")
    assert answer.status_code == 200
    assert len(answer.content) < 300
    assert Image.open(io.BytesIO(answer.content)).convert("RGBA").getextrema()[3] == (0, 0)


def test_the_current_version_may_be_kept_for_ever_and_an_old_one_is_gone(client, poppy):
    address = f"/species/{POPPY}/tiles/{TILE}.png"
    assert client.get(f"{address}?v={poppy.about.version}").headers["cache-control"] == FOREVER
    assert client.get(address).headers["cache-control"] == MINUTES
    old = client.get(f"{address}?v=000000000000")
    assert (old.status_code, old.headers["cache-control"]) == (404, "no-store")
    assert poppy.about.version in old.json()["change"]


@pytest.mark.parametrize("form", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
def test_what_the_client_has_is_neither_sent_nor_drawn_again(client, form, monkeypatch):
    address = f"/species/{OAK}/tiles/WebMercatorQuad/7/20/49.png?colormap=greys"
    first = client.get(address)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    client.app.state.served.finished.clear()
    monkeypatch.setattr(paint, "tile_levels", None)  # a drawing would fail
    again = client.get(address, headers={"If-None-Match": form.format(tag=tag)})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert again.headers["cache-control"] == first.headers["cache-control"]


def test_an_etag_tells_tiles_apart(client):
    addresses = [
        f"/species/{POPPY}/tiles/{TILE}.png",
        f"/species/{POPPY}/tiles/{TILE}.webp",
        f"/species/{POPPY}/tiles/{TILE}/value",
        f"/species/{POPPY}/tiles/{TILE}.png?colormap=greys",
        f"/species/{POPPY}/tiles/{TILE}.png?threshold=p10",
        f"/species/{POPPY}/tiles/{TILE}.png?threshold=0.5",
        f"/species/{POPPY}/tiles/WebMercatorQuad/6/10/25.png",
        f"/species/{OAK}/tiles/{TILE}.png",
    ]
    tags = [client.get(address).headers["etag"] for address in addresses]
    assert len(set(tags)) == len(addresses)


def test_head_is_get_without_the_body(client):
    address = f"/species/{POPPY}/tiles/{TILE}.png"
    head, get = client.head(address), client.get(address)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type", "cache-control"):
        assert head.headers[name] == get.headers[name]


def test_a_finished_tile_is_not_drawn_again(client, monkeypatch):
    address = f"/species/{FINCH}/tiles/WebMercatorQuad/7/21/50.png"
    first = client.get(address).content
    monkeypatch.setattr(paint, "tile_levels", None)
    assert client.get(address).content == first


def test_a_tile_that_many_ask_for_at_once_is_drawn_once(client, monkeypatch):
    drawn, all_asked = [], threading.Event()
    gate = client.app.state.served.gate
    draw = paint.tile_levels

    def slowly(*tile):
        drawn.append(tile)
        assert all_asked.wait(30)
        return draw(*tile)

    monkeypatch.setattr(paint, "tile_levels", slowly)
    answers = []

    def ask():
        answers.append(client.get(f"/species/{OAK}/tiles/WebMercatorQuad/8/41/100.png").content)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert waited(lambda: gate.sharing == 6)
    all_asked.set()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 6
    assert len(set(answers)) == 1
    assert len(drawn) == 1


def test_tiles_of_two_species_show_where_each_reaches_its_threshold(client):
    legend = client.get(f"/compare/{POPPY}/{OAK}/legend.json").json()
    answer = client.get(legend["tiles"].format(z=6, x=10, y=24))
    assert answer.headers["cache-control"] == FOREVER
    found = entries(answer.content)
    a, b = (
        entries(client.get(f"/species/{species}/tiles/{TILE}/value").content).astype(int)
        for species in (POPPY, OAK)
    )
    over_a = (a != CLEAR) & (a >= round(legend["a"]["value"] * STEPS))
    over_b = (b != CLEAR) & (b >= round(legend["b"]["value"] * STEPS))
    there = (a != CLEAR) | (b != CLEAR)
    assert (found[there] == (over_a + 2 * over_b)[there]).all()
    assert (found[~there] == routes_compare.NOTHING).all()
    assert set(np.unique(found)) >= {routes_compare.NEITHER, routes_compare.NOTHING}
    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    for k, entry in enumerate(legend["classes"]):
        if (found == k).any():
            assert "#{:02x}{:02x}{:02x}".format(*picture[found == k][0, :3]) == entry["color"]
    assert (picture[found == routes_compare.NOTHING][:, 3] == 0).all()
    assert client.get(f"/compare/{POPPY}/{OAK}/tiles/{TILE}.png?v=000000000000").status_code == 404


def test_colours_of_a_comparison_differ_in_lightness():
    def luminance(color):
        linear = [(part / 255) ** 2.2 for part in color[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    shades = sorted(luminance(color) for color in routes_compare.COLORS[:4])
    assert all(light > 1.5 * dark + 0.01 for dark, light in pairwise(shades))


def test_the_memory_of_finished_tiles_is_bounded(client):
    served = client.app.state.served
    assert served.finished.maxsize == served.settings.tile_cache_mb * 2**20
    for x in range(30):
        client.get(f"/species/{POPPY}/tiles/WebMercatorQuad/8/{x}/100.png")
    assert served.finished.currsize <= served.finished.maxsize
    held = sum(len(tile.body) for tile in served.finished.values())
    assert held < served.finished.currsize
