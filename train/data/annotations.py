"""JSON of iNaturalist's competitions: `images`, `annotations`, `categories`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.errors import SpecError

CHANGE = "Give the file as it was published."


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        SpecError: It is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise SpecError(what, f"no file {path}", "Give the folder that holds it.") from error
    except (OSError, ValueError) as error:
        raise SpecError(what, f"{path}: {error}", CHANGE) from error


def listed(data: Any, key: str, path: Path, what: str) -> list[dict[str, Any]]:
    """A list of records under a key (or the data themselves, where they are a list and `key` is empty).

    Raises:
        SpecError: There is no such list.
    """
    records = data if not key else data.get(key) if isinstance(data, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise SpecError(what, f"{path} has no list {key or 'of records'}", CHANGE)
    return records


def values(records: list[dict[str, Any]], key: str, path: Path, what: str) -> list[Any]:
    """One value of every record.

    Raises:
        SpecError: A record lacks it.
    """
    try:
        return [record[key] for record in records]
    except KeyError as error:
        raise SpecError(what, f"a record of {path} has no {key!r}", CHANGE) from error


def degrees(records: list[dict[str, Any]], key: str, path: Path, what: str) -> NDArray[np.float64]:
    """(n,) float64 values of every record; NaN where they are null.

    Raises:
        SpecError: A value is missing or no number.
    """
    found = values(records, key, path, what)
    try:
        return np.array([np.nan if value is None else float(value) for value in found], np.float64)
    except (TypeError, ValueError) as error:
        raise SpecError(what, f"{key} in {path}: {error}", "Give numbers, or null.") from error


def class_names(
    categories: list[dict[str, Any]], path: Path, what: str
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Labels and names of categories, in the order of their ids.

    Returns:
        Id -> label, and the names; the ids where there are no names or some are equal.

    Raises:
        SpecError: An id is missing, no number, or given twice.
    """
    try:
        ids = [int(value) for value in values(categories, "id", path, what)]
    except (TypeError, ValueError) as error:
        raise SpecError(what, f"a category id in {path}: {error}", CHANGE) from error
    if len(set(ids)) < len(ids):
        raise SpecError(what, f"a category id stands twice in {path}", CHANGE)
    order = np.argsort(ids)
    names = [str(categories[k].get("name", ids[k])) for k in order]
    if len(set(names)) < len(names):
        names = [str(ids[k]) for k in order]
    return {ids[k]: label for label, k in enumerate(order.tolist())}, tuple(names)


def category_of(data: Any, path: Path, what: str) -> NDArray[np.int64]:
    """(images,) the category id of every image, by the `image_id` of the annotations.

    Annotations without `image_id` stand in the order of the images.

    Raises:
        SpecError: An image has no annotation, or the numbers differ.
    """
    images = listed(data, "images", path, what)
    notes = listed(data, "annotations", path, what)
    category = values(notes, "category_id", path, what)
    if notes and "image_id" not in notes[0]:
        if len(notes) != len(images):
            found = f"{len(images)} images and {len(notes)} annotations in {path}"
            raise SpecError(what, found, CHANGE)
        return np.array(category, np.int64)
    by_image = dict(zip(values(notes, "image_id", path, what), category, strict=True))
    ids = values(images, "id", path, what)
    bare = [each for each in ids if each not in by_image]
    if bare:
        found = f"{len(bare)} images of {path} have no annotation, the first has id {bare[0]}"
        raise SpecError(what, found, CHANGE)
    return np.array([by_image[each] for each in ids], np.int64)
