"""Makes the figures of the concept pages and the numbers they quote, from the shipped bundle.

    python docs/figures/make.py [--only NAME ...] [--shared ../shared/data]

`thresholds`, `null` and `resolution` need nothing but the bundle; `meaning`, `background` and `novelty`
need the records and surveys of the data folder too, and take some minutes: they fit heads anew. Look at a
figure before it is committed. Numbers go into numbers.json, from where the pages take them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import drawing

drawing.prepare()  # before anything draws

import from_bundle  # noqa: E402
import from_records  # noqa: E402

HERE = Path(__file__).parent
NUMBERS = HERE / "numbers.json"
OF_BUNDLE = {
    "thresholds": from_bundle.thresholds,
    "null": from_bundle.null,
    "resolution": from_bundle.resolution,
}
OF_RECORDS = {
    "meaning": from_records.meaning,
    "background": from_records.backgrounds,
    "novelty": from_records.novelty,
}


def rounded(value: Any) -> Any:
    """Floats to four digits, however deep."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Draw, and bring the numbers up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[*OF_BUNDLE, *OF_RECORDS], help="names of figures")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="data folder")
    args = parser.parse_args()
    for name in args.only:
        drawing.say(f"{name}:")
        found = OF_BUNDLE[name](HERE) if name in OF_BUNDLE else OF_RECORDS[name](args.shared, HERE)
        numbers = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
        numbers[name] = rounded(found)
        NUMBERS.write_text(json.dumps(dict(sorted(numbers.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
