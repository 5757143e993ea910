"""Importing timm where torchvision's compiled operators cannot be loaded.

timm imports torchvision, and torchvision's Python side registers fake kernels for `torchvision::nms` and
`torchvision::qnms`. A torchvision wheel built for another flavour of torch than the one installed (a
CPU-only torch, say) cannot load its compiled library, so those operators do not exist and the import dies
with "operator torchvision::nms does not exist". Declaring their schemas first lets the import pass; nothing
here calls either operator, and one that is called still fails loudly, for it has no kernel.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # kept alive: the schemas go when it is collected


def _operator_exists(name: str) -> bool:
    try:
        getattr(torch.ops.torchvision, name)
    except (AttributeError, RuntimeError):
        return False
    return True


def _torchvision_loads_operators() -> bool:
    """Whether torchvision's compiled library can be loaded by the installed torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    try:
        for folder in spec.submodule_search_locations:
            for library in sorted(Path(folder).glob("_C*.so")):
                torch.ops.load_library(str(library))
    except OSError:
        return False
    return _operator_exists("nms")


def import_timm() -> ModuleType:
    """Imports timm, declaring torchvision's missing operators first where that is needed.

    Returns:
        The timm module.
    """
    global _library
    if _library is None and not _torchvision_loads_operators():
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in _SCHEMAS.items():
            if not _operator_exists(name):
                _library.define(schema)
    import timm

    return timm
