"""Errors of the trainer, and the three-part form every error of the project has.

ThreePartError          what cannot be done, the value found, what to change
└── TrainError          anything the trainer refuses
    ├── CheckpointError a checkpoint or card that is missing, truncated or of another kind
    ├── SpecError       input that does not match what an encoder eats
    └── DivergedError   a loss or parameter that is no longer finite
"""

from __future__ import annotations


class ThreePartError(Exception):
    """A refusal that says what cannot be done, what was found and what to change.

    Args:
        what: What cannot be done, as a clause ("cannot read the records").
        found: The value found.
        change: What the user can change to make it work.
    """

    def __init__(self, what: str, found: str, change: str) -> None:
        super().__init__(what, found, change)
        self.what = what
        self.found = found
        self.change = change

    def __str__(self) -> str:
        return f"{self.what}: {self.found}. {self.change}"


class TrainError(ThreePartError):
    """Anything the trainer refuses."""


class CheckpointError(TrainError, ValueError):
    """A checkpoint that is missing, truncated, or not what its card says."""


class SpecError(TrainError, ValueError):
    """Input that does not match what an encoder eats (bands, size, units)."""


class DivergedError(TrainError, ArithmeticError):
    """A loss or parameter that is no longer finite."""
