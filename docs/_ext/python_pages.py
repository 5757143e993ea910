"""Functions of `import geomap` that are modules as well, for which autodoc would take them."""

from __future__ import annotations

import inspect
import textwrap

from docstrings import literal, signature_of
from sphinx.ext.napoleon import Config, GoogleDocstring

import geomap
from geomap import api


def text() -> str:
    """geomap.render, fit and predict with their signatures and docstrings."""
    return "```{eval-rst}\n" + "\n".join(map(function, geomap.COMMANDS)) + "\n```\n"


def function(name: str) -> str:
    """One function as reStructuredText."""
    made = signature_of(getattr(api, name))
    assert made is not None
    parameters, returned = made
    lines = literal((inspect.getdoc(getattr(api, name)) or "").splitlines())
    said = str(GoogleDocstring(lines, Config(napoleon_use_rtype=False)))
    head = f".. py:function:: geomap.{name}{parameters} -> {returned}\n"
    # The module of the names in the signature, for their links.
    return f".. py:currentmodule:: geomap.api\n\n{head}   :module: geomap\n\n{textwrap.indent(said, '   ')}\n"
