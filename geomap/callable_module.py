"""Modules that are commands and functions at once: `python -m geomap.render`, and geomap.render("Wrentit").

`geomap.render` is a module, because it runs as a command. Python looks up `__call__` on the class of what is
called, so giving such a module a class of its own with that method makes `geomap.render(...)` work whether
or not the module was imported before; nothing else about it changes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Let a call of a module be a call of a function; its signature and docstring show in `help`.

    Args:
        name: `__name__` of the module.
        function: What a call runs.
    """

    def call(self: ModuleType, *args: Any, **options: Any) -> Any:
        return function(*args, **options)

    module = sys.modules[name]
    signature = inspect.signature(function)
    module.__class__ = type("CallableModule", (ModuleType,), {"__call__": call})
    module.__dict__["__signature__"] = signature
    said = f"From Python: geomap.{function.__name__}{signature}\n\n{inspect.getdoc(function)}"
    module.__doc__ = f"{inspect.cleandoc(module.__doc__ or '')}\n\n{said}\n"
