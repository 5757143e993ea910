"""What a run writes down: log.csv, TensorBoard events, and the loss curves as a picture.

All values of a step go into one row of log.csv. A resumed run first cuts the rows after its checkpoint off,
so the file reads as if nothing had happened.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
from tensorboardX import SummaryWriter

LOG, PICTURE, EVENTS = "log.csv", "losses.png", "events"
PAUSE = 30.0  # seconds between two pictures


class RunLog:
    """Log of a run.

    Args:
        run: Folder of the run.
        step: Steps done before; rows and events after it are removed.
    """

    def __init__(self, run: Path, step: int = 0) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []
        self.drawn = time.monotonic()
        path = run / LOG
        if step and path.is_file():
            before = pd.read_csv(path)
            self.rows = before[before["step"] <= step].to_dict("records")
        self.events = SummaryWriter(str(run / EVENTS), purge_step=step + 1 if step else None)
        self._save()

    def add(self, step: int, values: dict[str, float]) -> None:
        """One row: training losses of a step, or validation losses (keys "validation/...")."""
        self.rows.append({"step": step, **values})
        for name, value in values.items():
            self.events.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def flush(self) -> None:
        """Brings everything to disk; the picture of the curves at most twice a minute."""
        self._save()
        self.events.flush()
        if time.monotonic() - self.drawn > PAUSE:
            self._draw()

    def close(self) -> None:
        """Flushes and lets go of the files."""
        self.flush()
        self._draw()
        self.events.close()

    def _save(self) -> None:
        partial = self.run / f".{LOG}.partial"
        table = pd.DataFrame(self.rows, columns=None if self.rows else ["step"])
        table.to_csv(partial, index=False)
        partial.replace(self.run / LOG)

    def _draw(self) -> None:
        from matplotlib.figure import Figure  # imported here: a run that is refused needs no figure

        table = pd.DataFrame(self.rows)
        names = [name for name in table if name == "loss" or str(name).startswith("validation/loss")]
        if not names:
            return
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss")
        for name in names:
            known = table[["step", name]].dropna()
            marks = "-" if len(known) > 1 else "o"
            axes.plot(known["step"], known[name], marks, label=str(name))
        axes.legend()
        figure.savefig(self.run / PICTURE, dpi=100)
        self.drawn = time.monotonic()
