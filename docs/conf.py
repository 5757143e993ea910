"""The documentation: `make docs` builds it into docs/_build/html, without network, every warning an error.

Pages are Markdown (MyST). The reference is made from the code at build time by the modules in `_ext`, so that
it cannot say anything else than the program does. Tutorials are the notebooks, executed by
docs/run_notebooks.py.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
OURS = HERE / "_ext"
sys.path[:0] = [str(HERE.parent), str(OURS)]

project = "geomap"
author = "geomap developers"
project_copyright = "geomap developers, MIT licence"
version = release = installed("geomap")
language = "en"

extensions = [
    "myst_nb",  # Markdown, and the notebooks with their outputs
    "sphinx.ext.autodoc",  # docstrings
    "sphinx.ext.napoleon",  # in Google style
    "sphinx_design",  # cards and tabs
    "sphinx_copybutton",  # copies commands without their prompts
    # Each module of _ext that has a setup() is an extension.
    *sorted(path.stem for path in OURS.glob("*.py") if "\ndef setup(" in path.read_text("utf-8")),
]
exclude_patterns = ["_build", "_ext", "screenshots/*.py", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}

# Every reference must lead somewhere; _ext/docstrings.py leaves names of other packages as text.
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # docs/run_notebooks.py has executed them
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # by custom these scripts come from elsewhere

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # _ext/docstrings.py puts them into signatures as they are written
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False  # a colon in what a function returns is no type
napoleon_use_ivar = True  # attributes of a class stand once
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
# A list of 200 modules beside each of them helps nobody; these pages have none below or beside them.
ALONE = ("index", "quickstart", "papers", "model-card", "architecture", "scaling", "contributing")
html_sidebars = {"reference/modules/**": [], **{page: [] for page in ALONE}}
html_title = "geomap"
html_favicon = "../tiles/web/src/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["geomap.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,
    "show_prev_next": True,
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
