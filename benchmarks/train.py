"""Speed of the training loop: every objective against the bare forward and backward pass of its model.

    python benchmarks/train.py [--steps 20] [--recipes crisp-tiny csp-tiny ...]

For each recipe, in one run and with the same threads:

    bare        forward and backward of the model on tensors that lie in memory; no data, no optimiser
    loop        the same through the training loop: data, augmentation, clipping, optimiser, seeds
    data        the batches alone

`loop_to_bare` should be 0.85 or more; `data_to_loop` above 1 says that loading is not the bottleneck. Rounds
of the three alternate, of --steps steps or of 0.5 s; ratios are taken within a round, and the median of the
rounds counts. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # else this file were `train`

from train.distributed import World  # noqa: E402
from train.loop import one_step, start  # noqa: E402
from train.recipe import build_model, open_data, read_recipe, shipped  # noqa: E402

ROUNDS = 9
LEAST_S = 0.5  # a round of shorter steps has more of them: what a loop costs once would weigh too much
TARGET = 0.85
ALONE = World(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if ALONE.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(name: str, steps: int) -> dict[str, Any]:
    """Observations per second of one recipe."""
    recipe = read_recipe(name, ["data.options.n=2000"])
    data, config = open_data(recipe)["train"], recipe.training
    model = build_model(recipe)
    prepare = getattr(model, "prepare", None)
    if callable(prepare):
        prepare(data)
    session = start(model, data, config, ALONE)
    ready = list(session.feed.batches(0, 2, 0, pin=False))

    def bare() -> None:
        session.run.train()
        for step in range(steps):
            session.run(ready[step % len(ready)])["loss"].backward()
            session.optimiser.zero_grad(set_to_none=True)

    def loop() -> None:
        batches = session.feed.batches(0, steps, config.workers, pin=False)
        for step in range(1, steps + 1):
            one_step(session, batches, step)

    def loading() -> None:
        for _ in session.feed.batches(0, steps, config.workers, pin=False):
            pass

    works = {"bare": bare, "loop": loop, "data": loading}
    steps = max(steps, round(steps * LEAST_S / max(min(seconds(loop) for _ in range(2)), 1e-3)))
    rounds = [{key: seconds(work) for key, work in works.items()} for _ in range(ROUNDS)]
    loop_to_bare = median(each["bare"] / each["loop"] for each in rounds)
    data_to_loop = median(each["loop"] / each["data"] for each in rounds)
    per_second = {
        f"{key}_per_s": round(steps * config.batch / median(each[key] for each in rounds)) for key in works
    }
    ratios = {"loop_to_bare": loop_to_bare, "data_to_loop": data_to_loop}
    return {**per_second, **{key: round(value, 3) for key, value in ratios.items()}}


def main() -> None:
    """Measures the recipes and prints the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--recipes", nargs="*", default=[n for n in shipped() if n.endswith("-tiny")])
    options = parser.parse_args()
    found = {name: measure(name, options.steps) for name in options.recipes}
    met = all(each["loop_to_bare"] >= TARGET and each["data_to_loop"] > 1 for each in found.values())
    print(
        json.dumps(
            {"benchmark": "train", "threads": torch.get_num_threads(), "target": TARGET, "met": met, **found}
        )
    )


if __name__ == "__main__":
    main()
