"""What the image objectives share: missing views are refused, and the contrast spans all processes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from train.errors import SpecError
from train.objectives.paired import ContrastConfig, check_widths, same_pairs, view

TWO_RANKS = """
import json, os, sys
from dataclasses import replace
import torch, torch.distributed as dist, torch.multiprocessing as mp
from train.encoders.image import ImageConfig
from train.objectives.birdsat_cve import CveMae, TINY as CVE
from train.objectives.birdsat_cvm import Cvm, TINY as CVM
from train.objectives.crisp import Crisp, CrispConfig
from train.objectives.moco_geo import MocoGeo, TINY as MOCO

folder = sys.argv[1]
vit = ImageConfig("test_vit", size=32, dim=64)  # without BatchNorm, which is of each process
MODELS = {
    "crisp": (Crisp, CrispConfig(vit, vit)),
    "cve": (CveMae, replace(CVE, aerial=vit, meta=True)),
    "cvm": (Cvm, replace(CVM, meta=True)),
    "moco": (MocoGeo, replace(MOCO, ground=vit, aerial=vit, queue=5)),
}
generator = torch.Generator().manual_seed(1)
images = torch.randint(0, 256, (2, 8, 3, 32, 32), dtype=torch.uint8, generator=generator)
whole = {"ground": images[0], "aerial": images[1], "tile": torch.tensor([0, 1, 2, 3, 0, 4, 5, 6])}
whole["lonlat"] = torch.rand(8, 2, generator=generator, dtype=torch.float64) * 80
whole["date"] = torch.tensor([[6.0, 15.0]]).repeat(8, 1)
whole["label"] = torch.arange(8)

def results(kind, rank, size):
    torch.manual_seed(0)
    cls, config = MODELS[kind]
    model, part = cls(config), 8 // size
    if kind == "moco":
        model.centres.copy_(torch.eye(4, 3))
    model.train(kind == "moco")
    losses = model({name: value[rank * part : (rank + 1) * part] for name, value in whole.items()})
    losses["contrast" if kind == "cvm" else "loss"].backward()  # false pairs of cvm are of each process
    found = {f"{kind}.{n}": losses[n].item() for n in losses if n in ("contrast", "queue", "geo")}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            if size > 1:  # what DistributedDataParallel does: the mean over processes
                dist.all_reduce(parameter.grad.div_(size))
            gradient = parameter.grad.flatten()
            found[f"{kind}.{name}"] = [gradient.sum().item(), *gradient[:: 1 + len(gradient) // 20].tolist()]
    if kind == "moco":
        found |= {f"moco.{n}": getattr(model, n).flatten().tolist() for n in ("queue", "next_place")}
    return found

def run(rank, size):
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    found = {}
    for kind in MODELS:
        found |= results(kind, rank, size)
    with open(f"{folder}/{size}-{rank}.json", "w") as stream:
        json.dump(found, stream)
    if size > 1:
        dist.barrier()
        os._exit(0)  # taking the group down can hang: its threads need the lock that its destructor holds

run(0, 1)
mp.start_processes(run, args=(2,), nprocs=2, start_method="fork")
"""


def test_two_processes_lose_what_one_does_on_the_whole_batch(tmp_path, repository):
    """Contrasts, gradients and the queue are those of one process; one tile lies on both."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_RANKS, str(tmp_path)],
        cwd=repository, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    wanted = {"crisp.contrast", "cve.contrast", "cvm.contrast", "moco.queue", "moco.geo", "moco.next_place"}
    assert wanted <= one.keys()
    assert "cve.metadata.location.weight" in one
    for rank in two:
        assert rank.keys() == one.keys()
        for name, value in one.items():
            np.testing.assert_allclose(rank[name], value, atol=2e-5, err_msg=name)


def test_what_cannot_be_contrasted_is_refused():
    with pytest.raises(SpecError, match=r"cannot encode the view 'aerial': the data give ground, row\."):
        view({"ground": torch.zeros(1), "row": torch.zeros(1)}, "aerial")
    with pytest.raises(SpecError, match="the data give nothing"):
        view({}, "ground")
    with pytest.raises(SpecError, match="widths 3 and 4"):
        check_widths(3, 4)
    assert check_widths(4, 4) is None


def test_pairs_are_the_same_by_tile_and_where_asked_by_species():
    batch = {"tile": torch.tensor([1, 1, 2, -1, -1]), "label": torch.tensor([-1, 5, 5, -1, 7])}
    by_tile = torch.eye(5, dtype=torch.bool)
    by_tile[0, 1] = by_tile[1, 0] = True
    assert torch.equal(same_pairs(batch, ContrastConfig()), by_tile)
    by_tile[1, 2] = by_tile[2, 1] = True
    assert torch.equal(same_pairs(batch, ContrastConfig(same_species=True)), by_tile)
    assert same_pairs({}, ContrastConfig()) is None
