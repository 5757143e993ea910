"""Pages that explain: names in them exist, numbers come from measurements, pictures show what there is."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geomap.testing import write_raster

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FIGURES = DOCS / "figures"
PAGES = [
    *sorted((DOCS / "concepts").glob("*.md")),
    *(DOCS / f"{name}.md" for name in ("papers", "model-card", "architecture", "scaling")),
]
PACKAGES = ("geomap", "train", "tiles")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def extension():
    """Modules of docs/_ext and of docs/figures, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "_ext"))
        patch.syspath_prepend(str(FIGURES))
        yield importlib.import_module


@pytest.fixture(scope="module")
def cost_model(extension):
    return extension("cost_pages").model()


MADE_UP = {
    "encode": {"cells_per_s": 1000.0},
    "chips": {"net": {"images_per_s": 10.0}},
    "scores": {"adapter": {"cells_per_s": 10_000.0}, "product": {"cell_species_per_s": 1e6}},
    "fit": {
        "s_per_step_and_species": 1e-5,
        "s_per_step": 0.01,
        "null_s_per_fold": 9.0,
        "scores_s_per_species": 0.005,
    },
    "map": {
        "california-plants": {
            "cells": 1000, "s_per_map": 0.5, "cog_bytes_per_cell": 4.0, "item_bytes": 1000.0,
        },
        "north-america-birds": {"cells": 100},
    },
    "tile": {"s_per_tile": 0.001, "bytes_per_tile": {"4": 5000.0, "5": 15_000.0}},
    "bytes": {
        "field_bytes_per_cell": {"california": 40.0},
        "embedding_numbers": 192,
        "adapter_output_bytes_per_cell": 200.0,
        "adapter_bytes": 1e6,
        "head_bytes_per_species": 1500.0,
    },
}  # fmt: skip


def resolves(name: str) -> bool:
    """Whether a dotted name of ours is a module, or something that a module or class defines."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:cut])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return defines(ast.parse(file.read_text(encoding="utf-8")), parts[cut:])
    return False


def defines(node: ast.AST, parts: list[str]) -> bool:
    if not parts:
        return True
    for each in getattr(node, "body", []):
        if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == parts[0]:
            return defines(each, parts[1:])
        targets = each.targets if isinstance(each, ast.Assign) else [getattr(each, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == parts[0] for t in targets):
            return len(parts) == 1
    return False


def named(text: str) -> list[str]:
    """What stands in backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_functions_that_pages_name_exist(page, extension):
    text = extension("generated").fill(page.read_text(encoding="utf-8"))
    missing = []
    for name in named(text):
        if re.fullmatch(r"test_\w+\.py", name):
            found = (ROOT / "tests" / name).is_file()
        elif re.fullmatch(r"test_\w+\.test_\w+", name):
            found = resolves(f"tests.{name}")
        elif re.fullmatch(r"(geomap|train|tiles)(\.\w+)+", name):
            found = resolves(name)
        elif re.fullmatch(r"(geomap|train|tiles|docs|tests|benchmarks)/[\w./-]+", name):
            found = (ROOT / name).exists()
        else:
            continue
        missing += [] if found else [name]
    assert missing == []


def test_the_oracle_of_names_sees_what_is_not_there():
    assert resolves("train.objectives.crisp.Crisp.forward")
    assert resolves("train.objectives.csp.PAPER_INAT")
    assert resolves("tests.test_pitfalls.test_every_pitfall_is_listed")
    assert not resolves("train.objectives.crisp.Crisp.backward")
    assert not resolves("train.objectives.clip")


def test_every_objective_and_encoder_stands_in_the_papers():
    text = (DOCS / "papers.md").read_text(encoding="utf-8")
    shared = {"__init__", "contrast", "paired", "pair", "pixels", "location"}  # named by what uses them
    for folder in ("objectives", "encoders"):
        for path in (ROOT / "train" / folder).glob("*.py"):
            name = f"train.{folder}.{path.stem}"
            if path.stem not in shared and path.stem != "aerial":
                assert name in text or name.replace(".", "/") in text, name


def test_pitfalls_of_the_page_are_those_of_the_tests(extension):
    pages = extension("pitfall_pages")
    assert sorted(pages.SEEN) == [int(name.split()[0]) for name in pages.pitfalls()] == list(range(1, 24))
    text = pages.text()
    for tests in pages.pitfalls().values():
        for test in tests:
            assert f"`{test}`" in text


# Figures


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_are_there_small_and_described(page):
    for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        with Image.open(path) as picture:
            assert picture.width >= 900
        assert path.stat().st_size < 150_000
        assert len(words) > 40, "a picture says in words what it shows"


def test_figures_are_small_together_and_all_in_use():
    pictures = sorted(FIGURES.glob("*.webp"))
    assert sum(path.stat().st_size for path in pictures) < 700_000
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [path.name for path in pictures if path.name not in text] == []


def test_the_program_makes_every_figure_and_number(extension):
    made = extension("make")
    names = {*made.OF_BUNDLE, *made.OF_RECORDS}
    assert names == set(json.loads((FIGURES / "numbers.json").read_text(encoding="utf-8")))
    assert names == {path.stem for path in FIGURES.glob("*.webp")}


def test_numbers_of_the_null_model_and_thresholds_are_those_of_the_bundle(extension):
    """The ones that can be had from the bundle at once; the figures beside them come from the same call."""
    numbers = extension("finding_pages").numbers()
    for heads in extension("card_pages").groups():
        said, table = numbers["null"][heads.name], heads.species.dropna(subset=["auc", "null_auc"])
        gain = table["auc"] - table["null_auc"]
        assert said["species"] == len(table)
        assert said["auc_median"] == pytest.approx(table["auc"].median(), rel=1e-3)
        assert said["null_auc_median"] == pytest.approx(table["null_auc"].median(), rel=1e-3)
        assert said["auc_better"] == pytest.approx((gain > 0).mean(), abs=1e-3)
        assert said["worst_auc"] == pytest.approx(table["auc"][gain.idxmin()], rel=1e-3)
        if heads.name == "california-plants":
            poppy = table.iloc[heads.index("Eschscholzia californica")]
            for name in ("mtp", "p10", "lpt5", "maxsss"):
                assert numbers["thresholds"][name]["value"] == pytest.approx(poppy[name], rel=1e-3)
                assert numbers["thresholds"][name]["area_km2"] == pytest.approx(
                    poppy[f"area_km2_{name}"], rel=1e-3
                )


def test_prose_agrees_with_what_was_found(extension):
    numbers = extension("finding_pages").numbers()
    page = (DOCS / "concepts/null-models.md").read_text(encoding="utf-8")
    assert numbers["null"]["north-america-birds"]["worst"] in page
    assert numbers["null"]["north-america-birds"]["worst_auc"] < 0.05
    hawaii = numbers["novelty"]["Hawaii"]
    assert hawaii["wrentit_max"] > numbers["novelty"]["wrentit_p10"], (
        "the map of Hawaii is wrong, as the page says"
    )
    assert hawaii["novel_all"] == 1
    assert 0.3 < hawaii["novel_looks"] < 0.7, "by looks alone half of Hawaii is familiar"
    means = numbers["background"]["auc_mean"]
    assert means["0"] > means["0.5"] > means["0.95"]
    plants, birds = (numbers["resolution"][name] for name in ("plants, 1 km", "birds drawn at 1 km"))
    assert abs(plants["effective_km_median"] / birds["effective_km_median"] - 1) < 0.2


def test_variance_inside_blocks_by_hand(extension):
    within = extension("from_bundle").within_blocks
    steps = np.kron(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones((4, 4)))[None]
    assert within(steps, 4) == pytest.approx([0.0], abs=1e-12)
    assert within(steps, 8) == pytest.approx([1.0])
    chess = np.indices((8, 8)).sum(axis=0)[None] % 2.0
    assert within(chess, 2) == pytest.approx([1.0])
    noise = np.random.default_rng(0).normal(size=(1, 240, 240))
    assert within(noise, 4) == pytest.approx([15 / 16], abs=0.01)
    noise[0, :3] = np.nan
    assert np.isfinite(within(noise, 4)).all()


def test_dissimilarity_is_small_among_sites_and_large_elsewhere(extension):
    rng = np.random.default_rng(0)
    sites = rng.normal(size=(300, 4))
    fold = rng.integers(0, 5, 300)
    (near, far, own), limit = extension("from_records").dissimilarity(
        sites, [rng.normal(size=(100, 4)) * 0.5, rng.normal(size=(100, 4)) + 12, sites], fold
    )
    assert own == pytest.approx(np.zeros(300), abs=1e-9)
    assert (near < limit).mean() > 0.95
    assert (far > 3 * limit).all()


def test_reliability_adds_up(extension):
    found = extension("from_records").Reliability()
    scores = np.array([[0.1, 1.0], [0.95, 0.0]])
    found.add(scores, np.array([[1.0, 10.0], [9.0, 0.0]]), np.array([10.0, 10.0]))
    assert found.trials.sum() == 40
    assert found.met.sum() == 20
    assert found.said.sum() == pytest.approx(10 * (0.1 + 1.0 + 0.95))
    assert found.error == pytest.approx(abs(19.5 - 19) / 40)  # 0.95 and 1.0 share a bin


# Import pictures


@pytest.fixture(scope="module")
def pictures(extension):
    return extension("import_picture")


def test_all_packages_and_sub_packages_are_drawn(pictures):
    whole = pictures.diagram()
    assert {label.partition(":")[0] for label in whole.links} == set(PACKAGES)
    counts = {label.partition(":")[0]: int(re.findall(r"\d+", label)[0]) for label in whole.links}
    for package in PACKAGES:
        files = [path for path in (ROOT / package).rglob("*.py") if "static" not in path.parts]
        assert counts[package] == len(files) - 1, "every module but the package itself"
        drawn = {name for label in pictures.diagram(package).links for name in label.split(", ")}
        below = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert below <= drawn


def test_the_packages_point_one_way(pictures):
    links = {
        a.partition(":")[0]: {b.partition(":")[0] for b in others}
        for a, others in pictures.diagram().links.items()
    }
    assert "geomap" in links["tiles"]
    assert links["geomap"] == {"train"}
    assert links["train"] == set()


@pytest.mark.parametrize("package", ["", *PACKAGES])
def test_a_picture_is_valid_svg_whose_lines_all_point_down(pictures, package):
    shown = pictures.diagram(package)
    root = ET.fromstring(pictures.svg(shown))
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text
    width, height = (float(number) for number in root.get("viewBox").split()[2:])
    top = {}
    for group in root.findall(f"{SVG}g"):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text").text
        left, right = float(rect.get("x")), float(rect.get("x")) + float(rect.get("width"))
        assert left >= 0
        assert right <= width
        assert float(rect.get("y")) + float(rect.get("height")) <= height
        for other, (a, b, y) in top.items():
            assert y != float(rect.get("y")) or b <= left or right <= a, (text, other)
        top[text] = (left, right, float(rect.get("y")))
    assert set(top) == set(shown.links)
    lines = {(path.get("data-from"), path.get("data-to")) for path in root.findall(f"{SVG}path")}
    assert lines == {(a, b) for a, others in shown.links.items() for b in others}
    assert all(top[a][2] < top[b][2] for a, b in lines)


def test_lines_that_follow_from_others_are_left_out_and_cycles_share_a_box(pictures):
    links = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": {"c"}, "e": set()}
    whole = pictures.merged({name: frozenset(others) for name, others in links.items()})
    assert whole == {"a": {"b", "c, d"}, "b": {"c, d"}, "c, d": frozenset(), "e": frozenset()}
    assert pictures.chosen(whole, whole) == {"a": {"b"}, "b": {"c, d"}, "c, d": frozenset(), "e": frozenset()}
    assert pictures.chosen(whole, ["a", "c, d"]) == {"a": {"c, d"}, "c, d": frozenset()}


def test_an_unknown_package_is_refused(pictures):
    with pytest.raises(ValueError, match="none of tiles, geomap, train"):
        pictures.diagram("numpy")


# Costs


def test_arithmetic_of_the_cost_model_by_hand(cost_model):
    hour = 3600
    assert cost_model.encode_hours(3.6e6, MADE_UP) == pytest.approx(1)
    assert cost_model.chip_hours(36_000, MADE_UP, "net", chips=2) == pytest.approx(2)
    assert cost_model.product_hours(3.6e6, 1000, MADE_UP) == pytest.approx(1)
    assert cost_model.map_hours(7200, 1000, MADE_UP) == pytest.approx(1)
    steps = 6 * 3000 * (2 * 0.01 + 5000 * 1e-5)  # two groups, six fits
    assert cost_model.fit_hours(5000, MADE_UP) * hour == pytest.approx(steps + 2 * 5 * 9 + 2 * 5000 * 0.005)
    assert cost_model.adapter_hours(3.6e7, 2, MADE_UP) == pytest.approx(2)
    assert cost_model.embedding_gigabytes(1e9, 1000, MADE_UP) == pytest.approx(40)
    assert cost_model.embedding_gigabytes(1e9, 10, MADE_UP) == pytest.approx(192)
    assert cost_model.heads_gigabytes(4001, MADE_UP) == pytest.approx((4001 * 1500 + 2e6) / 1e9)
    assert cost_model.cog_gigabytes(1e6, 1000, MADE_UP) == pytest.approx(4.001)
    assert cost_model.wall_hours(70, 10, 0.7) == pytest.approx(10)


def test_a_bill_adds_up(cost_model):
    prices = cost_model.Prices(core_hour=1.0, gigabyte_month=2.0, egress_gigabyte=3.0, million_requests=4.0)
    case = cost_model.Scenario("x", 3.6e6, 1000, 1000, "")
    bill = cost_model.bill(case, MADE_UP, prices)
    fit = cost_model.fit_hours(1000, MADE_UP)
    assert bill["live_once"] == pytest.approx(1 + fit)
    assert bill["files_once"] == pytest.approx(1 + fit + 0.1 + 500)
    kept = 3.6e6 * 40 / 1e9 + (1000 * 1500 + 1e6) / 1e9
    files = (3.6e6 * 4 + 1000) * 1000 / 1e9
    assert bill["live_month"] == pytest.approx(2 * kept)
    assert bill["files_month"] == pytest.approx(2 * (kept + files))
    assert bill["live_thousand"] == pytest.approx(bill["live_once"] + 12 * bill["live_month"])
    assert bill["cache_gb"] == pytest.approx(3.6e6 * 200 / 1e9)
    views = cost_model.Views(tiles=50, hits=0.5, cells_of_first_look=1e6)
    visit = cost_model.view_cost(MADE_UP, prices, views)
    assert visit["requests"] == pytest.approx(1000 * 50 / 1e6 * 4)
    assert visit["egress"] == pytest.approx(1000 * 50 * 10_000 / 1e9 * 3)
    assert visit["compute"] == pytest.approx(1000 * (25 * 0.001 + 100 + 1) / 3600)
    assert visit["all"] == pytest.approx(visit["compute"] + visit["requests"] + visit["egress"])


def test_zooms_and_tiles(cost_model):
    assert cost_model.finest_zoom(156_543.04) == 0
    assert cost_model.finest_zoom(1000) == 8
    assert cost_model.finest_zoom(10) == 14
    assert cost_model.tiles_to_zoom(2, 1.0) == 1 + 4 + 16


def test_the_page_quotes_the_measurements(extension, cost_model):
    pages = extension("cost_pages")
    kept = json.loads((ROOT / "benchmarks/results/cost.json").read_text(encoding="utf-8"))
    assert kept["quick"] is False
    assert pages.measured() == kept["measured"]
    text = extension("generated").fill((DOCS / "scaling.md").read_text(encoding="utf-8"))
    assert "<!-- generated: cost" not in text
    assert f"{pages.number(kept['measured']['encode']['cells_per_s'])} cells" in text
    for case, bill in pages.bills():
        assert case.name in text
        assert f"| {pages.number(bill['live_thousand'])} |" in text
        assert pages.size(bill["files_gb"]) in text
    for subject in pages.SUBJECTS:
        assert pages.text(subject) in text, subject


def test_what_the_page_of_costs_says_in_words_holds(extension):
    """Sentences without a number that rest on the measurements."""
    pages = extension("cost_pages")
    world = {case.name: bill for case, bill in pages.bills()}["Two million species, all land, 1 km"]
    assert world["files_hours"] > 10 * world["product_hours"]
    assert world["embeddings_gb"] + world["heads_gb"] < 100, "fits on a laptop's disk"
    assert 1e3 < world["cache_gb"] < 1e5, "would fill terabytes"
    assert world["fit_hours"] > 10 * world["encode_hours"]
    dense = pages.measured()["encode"]["cells_per_s"]
    times = [dense / chips["images_per_s"] for chips in pages.measured()["chips"].values()]
    assert 80 < min(times) < max(times) < 15_000, "a hundred to ten thousand times"
    visit = pages.model().view_cost(pages.measured(), pages.model().Prices(), pages.model().Views())
    assert visit["requests"] + visit["egress"] > visit["compute"]
    assert pages.measured()["encode"]["peak_mb"] < 1000


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (0.01234, "0.012"), (3.456, "3.5"), (12.7, "13"), (123_456, "120,000")]
)
def test_numbers_are_said_with_two_digits(extension, value, said):
    assert extension("cost_pages").number(value) == said


@pytest.mark.parametrize(
    ("gigabytes", "said"), [(0.5, "500 MB"), (2, "2 GB"), (1500, "1.5 TB"), (2.5e6, "2.5 PB")]
)
def test_sizes_have_units(extension, gigabytes, said):
    assert extension("cost_pages").size(gigabytes) == said


@pytest.mark.parametrize(("hours", "said"), [(0.001, "3.6 s"), (0.5, "30 min"), (2.0, "2 h")])
def test_durations_have_units(extension, hours, said):
    assert extension("cost_pages").duration(hours) == said


def result_of(*command: str) -> dict[str, object]:
    """The one JSON line that a benchmark prints."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result: dict[str, object] = json.loads(line)
    return result


def test_prices_are_options(tmp_path):
    measured = tmp_path / "cost.json"
    measured.write_text(json.dumps({"measured": MADE_UP}))
    run = ("benchmarks/cost_model.py", "--measured", str(measured))
    one, double = result_of(*run, "--core-hour", "1"), result_of(*run, "--core-hour", "2")
    for name, bill in one["bills"].items():
        assert double["bills"][name]["live_once"] == pytest.approx(2 * bill["live_once"], rel=2e-3)
        assert double["bills"][name]["live_month"] == bill["live_month"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_costs_are_measured(tmp_path):
    """On imagery of noise: the speed of encoders does not depend on what they see."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 600, 600)).astype(np.uint8)
    bounds = (-13_600_000.0, 4_150_000.0, -13_400_000.0, 4_350_000.0)
    imagery = write_raster(tmp_path / "noise.tif", "EPSG:3857", bounds, (600, 600), 3, pixels)
    kept = tmp_path / "cost.json"
    command = ("benchmarks/cost.py", "--quick", "--imagery", str(imagery), "--out", str(kept))
    result = result_of(*command)
    written = json.loads(kept.read_text(encoding="utf-8"))
    assert written.pop("command").startswith("python benchmarks/cost.py")
    assert written == result
    measured, shipped = (
        result["measured"],
        json.loads((ROOT / "benchmarks/results/cost.json").read_text())["measured"],
    )
    assert set(measured) == set(shipped)
    assert measured["encode"]["cells"] > 1000
    assert measured["encode"]["cells_per_s"] > 0
    assert measured["map"]["california-plants"]["cells"] == shipped["map"]["california-plants"]["cells"]
    assert 0.1 < measured["map"]["california-plants"]["cog_bytes_per_cell"] < 6
    sizes, kept_sizes = measured["bytes"], shipped["bytes"]
    assert sizes.pop("field_bytes_per_cell") == pytest.approx(kept_sizes.pop("field_bytes_per_cell"))
    assert sizes == pytest.approx(kept_sizes, rel=0.01)


# Model card


def test_the_model_card_is_that_of_the_bundle(extension):
    card = extension("card_pages")
    text = extension("generated").fill((DOCS / "model-card.md").read_text(encoding="utf-8"))
    for heads in card.groups():
        assert heads.name in text
        assert heads.card["data"]["licence"] in text
        known = heads.species.dropna(subset=["auc", "null_auc"])
        better = 100 * (known["auc"] > known["null_auc"]).mean()
        medians = f"{known['auc'].median():.3f} | {known['null_auc'].median():.3f}"
        assert f"| {heads.name} | AUC | {medians} | {better:.0f} % |" in text
    for path in (ROOT / "geomap/bundle").rglob("*"):
        if path.is_file():
            assert (
                f"`{path.relative_to(ROOT / 'geomap/bundle').as_posix()}` | {path.stat().st_size:,} |" in text
            )
            assert card.digest(path) in text
    for subject in card.SUBJECTS:
        assert card.text(subject) in text, subject
