"""The table of pitfalls in docs/papers.md: what public code does, and the tests of tests/test_pitfalls.py."""

from __future__ import annotations

import ast
from pathlib import Path

from md_text import plain, table

TESTS = Path(__file__).parents[2] / "tests"
SEEN = {
    1: "GeoCLIP takes latitude first, CSP and SINR longitude: here always longitude first, in degrees",
    2: "SatCLIP's copy of Sphere2Vec leaves out the conversion to radians; a notebook gives CSP fractions",
    3: "grid and GeoCLIP features jump at 180 degrees: each encoding says whether it has a seam",
    4: "the doubled angle of geo_prior and BirdSAT makes both poles one point",
    5: "CSP's `spherical` sampler draws from one quadrant, `sphericalold` too many places near the poles",
    6: "BirdSAT's masking permutes tokens even where nothing is hidden, so equal calls differ",
    7: "CRISP's prototype probes in training mode: BatchNorm of a frozen backbone moves",
    8: "BirdSAT's retrieval gives the query the gallery's place and date",
    9: "BirdSAT's retrieval encodes the gallery anew for each batch of queries",
    10: "SINR's normalisation of coordinates changes its argument",
    11: "CRISP's prototype puts noise in place of a missing image, BirdSAT another sample for a grey one",
    12: "geo_prior and SINR map on linspace grids that count 180 degrees twice",
    13: "deepbiosphere's maps have seams between the quads they are made in",
    14: "geo_prior multiplies with a mask: sea and absence are both zero",
    15: "deepbiosphere writes one interleaved file of 2,221 bands without overviews",
    16: "BirdSAT contrasts cosines without a temperature; CSP's scripts with one of 20",
    17: "CRISP's prototype takes photos of one tile for each other's negatives",
    18: "few-label subsets of CSP are stored files; ours follow a seed, nested, one of each class at least",
    19: "closed-form spherical harmonics overflow beyond degree 30 or so",
    20: "SatCLIP's perceptron head is a list multiplied: all its layers share one set of weights",
    21: "CRISP's prototype leaves aerial bands unscaled beside photos in 0..1",
    22: "deepbiosphere samples climate at a window's corner",
    23: "checkpoints that are pickles, or carry neither the list of classes nor the normalisation",
}  # fmt: skip


def pitfalls() -> dict[str, list[str]]:
    """Pitfall -> its tests, as tests/test_pitfalls.py lists them."""
    tree = ast.parse((TESTS / "test_pitfalls.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PITFALLS"
    )
    found: dict[str, list[str]] = ast.literal_eval(value)
    return found


def text() -> str:
    """Every pitfall, where it was seen, and what holds us to better."""
    rows = []
    for name, tests in pitfalls().items():
        number, _, what = name.partition(" ")
        rows.append([number, plain(what), plain(SEEN[int(number)]), ", ".join(f"`{test}`" for test in tests)])
    return table(("", "pitfall", "where it was seen, and what we do", "tests"), rows)
