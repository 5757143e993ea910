"""The learning rate over a run."""

from __future__ import annotations

import torch

WARM_UP = 0.1  # share of the steps


def one_cycle(
    optimiser: torch.optim.Optimizer, peak: float | list[float], steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """One cycle (Smith and Topin 2019): up to `peak` over a tenth of the steps, then down to nothing.

    Both ways take at least one step, for torch divides by their lengths.

    Args:
        optimiser: Whose learning rate is set; call `step()` on the result after each of its steps.
        peak: Highest learning rate, or that of each group of parameters.
        steps: Steps of the run.
    """
    steps = max(steps, 3)
    share = max(WARM_UP, 2 / steps)
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=share)
