"""timm is imported whether or not torchvision's compiled operators fit the installed torch."""

from __future__ import annotations

import pytest
import torch

from train import timm_compat


def test_gives_timm_and_may_be_asked_again():
    first = timm_compat.import_timm()
    assert first.__name__ == "timm"
    assert timm_compat.import_timm() is first
    net = first.create_model("convnext_atto", pretrained=False, num_classes=3, depths=(1, 1, 1, 1))
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_knows_which_operators_there_are():
    timm_compat.import_timm()  # after it, torchvision's own or the declared ones
    assert timm_compat._operator_exists("nms")
    assert not timm_compat._operator_exists("no_such_operator")


@pytest.fixture
def declared(monkeypatch):
    """What is declared, by a library that takes notes; as in a fresh process."""
    notes = []

    class Notes:
        def __init__(self, namespace, kind):
            notes.append((namespace, kind))

        def define(self, schema):
            notes.append(schema.split("(")[0])

    monkeypatch.setattr(timm_compat, "_library", None)
    monkeypatch.setattr(torch.library, "Library", Notes)
    return notes


def test_operators_that_load_are_not_declared_again(declared, monkeypatch):
    monkeypatch.setattr(timm_compat, "_torchvision_loads_operators", lambda: True)
    timm_compat.import_timm()
    assert declared == []


def test_missing_operators_are_declared_once(declared, monkeypatch):
    monkeypatch.setattr(timm_compat, "_torchvision_loads_operators", lambda: False)
    monkeypatch.setattr(timm_compat, "_operator_exists", lambda name: name == "qnms")
    timm_compat.import_timm()
    timm_compat.import_timm()
    assert declared == [("torchvision", "FRAGMENT"), "nms"]


def test_a_library_that_does_not_load_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "_C.so").write_bytes(b"not a library")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(timm_compat.importlib.util, "find_spec", lambda name: Spec)
    assert not timm_compat._torchvision_loads_operators()


def test_no_torchvision_is_left_to_timm_to_complain_of(monkeypatch):
    monkeypatch.setattr(timm_compat.importlib.util, "find_spec", lambda name: None)
    assert timm_compat._torchvision_loads_operators()


def test_a_declared_operator_without_a_kernel_fails_loudly():
    library = torch.library.Library("geomap_test", "FRAGMENT")
    library.define("nothing(Tensor x) -> Tensor")
    with pytest.raises(NotImplementedError):
        torch.ops.geomap_test.nothing(torch.zeros(1))
