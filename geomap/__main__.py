"""The console script without installation: python -m geomap COMMAND ..."""

from __future__ import annotations

import sys

from geomap.cli import main

if __name__ == "__main__":
    sys.exit(main())
