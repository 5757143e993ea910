"""The training loop of every objective: one readable function, and what it needs.

The randomness of a step (dropout, masks, random locations) follows from (seed, step, rank), so a run that is
killed and resumed ends with the parameters of one that was not.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.batch import Observations, to_device
from train.checkpoint import last_step, load_step, save_model, save_step
from train.distributed import World
from train.errors import DivergedError, SpecError
from train.feed import Feed, seed_generators, seed_of
from train.recipe import TrainingConfig
from train.runlog import RunLog

VALIDATION_BATCHES = 8  # at most; enough to see a curve


class Interrupted(Exception):
    """The user asked to stop; the last step is saved."""


@dataclass
class Session:
    """A model on its device with everything that a step needs."""

    model: nn.Module  # the bare one
    run: nn.Module  # the one that is called: wrapped for several processes
    optimiser: torch.optim.AdamW
    config: TrainingConfig
    world: World
    feed: Feed
    steps: int
    precision: torch.dtype


def train(
    model: nn.Module,
    data: Observations,
    held: Observations | None,
    config: TrainingConfig,
    card: dict[str, Any],
    run: Path,
    world: World,
    resume: bool,
) -> dict[str, float]:
    """Trains a model and leaves its weights and card in the folder of the run.

    Args:
        model: An objective of train.objectives.
        data: What it learns from.
        held: What its validation loss is measured on.
        config: How.
        card: Kept in every checkpoint; the losses are added.
        run: Folder of the run.
        world: This process among those of the run.
        resume: Go on from the last checkpoint, if there is one.

    Returns:
        The last losses.

    Raises:
        SpecError: data and configuration do not fit.
        DivergedError: a loss is not finite; the last checkpoint stays.
        Interrupted: by SIGINT or SIGTERM, after the step was saved.
    """
    session = start(model, data, config, world)
    first = restore(session, run) if resume else 0
    log = RunLog(run, first) if world.first else None
    last: dict[str, float] = {}
    batches = session.feed.batches(first, session.steps, config.workers, world.device.type == "cuda")
    with progress(session, first) as advance, stop_signals() as stopped:
        for step in range(first + 1, session.steps + 1):
            last = one_step(session, batches, step)
            at_end = step % session.feed.steps_of_epoch == 0 or step == session.steps
            if log and (step % config.log_every == 0 or at_end):
                log.add(step, last)
            if at_end and held is not None:
                watched = validate(session, held)
                last |= watched
                if log:
                    log.add(step, watched)
            stop = world.any(bool(stopped))
            if step % config.save_every == 0 or stop:
                save(session, step, {**card, "losses": last}, run, log)
            if stop:
                raise Interrupted(f"stopped after step {step} of {session.steps}; go on with --resume")
            advance(last)
    if log:
        save_model(model, {**card, "losses": last, "steps": session.steps}, run)
        log.close()
    world.wait()
    return last


def start(model: nn.Module, data: Observations, config: TrainingConfig, world: World) -> Session:
    """Model on its device, optimiser, and the order of the data."""
    feed = Feed(data, config.batch, config.accumulate, config.seed, world.rank, world.size)
    needed = set(getattr(model, "views", ())) - set(data.views)
    if needed:
        found = f"no {', '.join(sorted(needed))} in the data, which has {', '.join(data.views)}"
        raise SpecError("cannot train this objective", found, "Give data that carries what the model reads.")
    model.to(world.device)
    if world.device.type == "cuda":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run: nn.Module = model
    if world.size > 1:
        devices = [world.device] if world.device.type == "cuda" else None
        run = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)
    optimiser = torch.optim.AdamW(
        parameter_groups(model, config), config.learning_rate, betas=(0.9, 0.98), fused=True
    )
    steps = config.epochs * feed.steps_of_epoch
    return Session(model, run, optimiser, config, world, feed, steps, precision_of(config, world.device))


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases, norms, scales and tokens without."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]


def precision_of(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Number type of the forward pass: bf16 on a GPU that has it, or where it is asked for."""
    auto = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return (
        torch.bfloat16
        if config.precision == "bf16" or (config.precision == "auto" and auto)
        else torch.float32
    )


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Rate of step 1..steps: a linear warm-up, then a cosine down to nothing."""
    warm = max(1, round(config.warmup * steps)) if config.warmup else 0
    if step <= warm:
        return config.learning_rate * step / warm
    share = (step - warm) / max(1, steps - warm)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def one_step(session: Session, batches: Iterator[dict[str, Tensor]], step: int) -> dict[str, float]:
    """Forward, backward and update of one step; gives its mean losses over parts and ranks."""
    config, world = session.config, session.world
    if not session.run.training:
        session.run.train()
    for group in session.optimiser.param_groups:
        group["lr"] = learning_rate(config, step, session.steps)
    total: dict[str, float] = {}
    for part in range(config.accumulate):
        seed_generators(seed_of(config.seed, step, part, world.rank), world.device)
        losses = forward(session, next(batches))
        (losses["loss"] / config.accumulate).backward()
        for name, value in losses.items():
            total[name] = total.get(name, 0.0) + float(value.detach()) / config.accumulate
    total = world.mean(total)
    if not all(map(math.isfinite, total.values())):
        found = f"losses {total} in step {step}"
        change = (
            "Lower training.learning_rate, look for broken images, or use --set training.precision=float32."
        )
        raise DivergedError("cannot go on training", found, change)
    if config.clip:
        torch.nn.utils.clip_grad_norm_(session.model.parameters(), config.clip)
    session.optimiser.step()
    session.optimiser.zero_grad(set_to_none=True)
    return total


def forward(session: Session, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of a batch in the precision of the run."""
    device, low = session.world.device, session.precision != torch.float32
    with torch.autocast(device.type, session.precision, enabled=low):
        losses: dict[str, Tensor] = session.run(to_device(batch, device))
    return losses


@torch.no_grad()
def validate(session: Session, held: Observations) -> dict[str, float]:
    """Mean losses on held-out observations, the same ones with the same randomness each time."""
    size = min(
        session.config.batch // session.config.accumulate,
        len(held) // session.world.size * session.world.size,
    )
    if size < 2 * session.world.size:
        return {}
    feed = Feed(held, size, 1, session.config.seed, session.world.rank, session.world.size)
    steps = min(VALIDATION_BATCHES, feed.steps_of_epoch)
    session.run.eval()
    total: dict[str, float] = {}
    for number, batch in enumerate(feed.batches(0, steps, 0, pin=False)):
        seed = seed_of(session.config.seed, -1, number, session.world.rank)
        seed_generators(seed, session.world.device)
        for name, value in forward(session, batch).items():
            total[f"validation/{name}"] = total.get(f"validation/{name}", 0.0) + float(value) / steps
    session.run.train()
    return session.world.mean(total)


def restore(session: Session, run: Path) -> int:
    """Fills the session from the last checkpoint of the run; steps done, 0 without one."""
    folder = last_step(run)
    if folder is None:
        return 0
    return load_step(session.model, session.optimiser, folder)


def save(session: Session, step: int, card: dict[str, Any], run: Path, log: RunLog | None) -> None:
    """A checkpoint by the first rank, while the others wait."""
    if log:
        log.flush()  # first: rows after a checkpoint are cut on resuming, missing ones would stay missing
        save_step(session.model, session.optimiser, step, card, run)
    session.world.wait()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that becomes non-empty on SIGINT or SIGTERM; a second signal stops at once."""
    seen: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(session: Session, first: int) -> Iterator[Any]:
    """A bar of the first rank, on stderr, for stdout holds results; gives the function that moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not session.world.first) as bar:
        task = bar.add_task("training", total=session.steps, completed=first)

        def advance(losses: dict[str, float]) -> None:
            bar.update(task, advance=1, description=f"loss {losses['loss']:.3f}")

        yield advance
