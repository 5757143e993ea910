"""What is trained together: the pair of encoders, a third view of a place, and the temperatures."""

from __future__ import annotations

from torch import Tensor, nn

from train.encoders.pair import build
from train.errors import SpecError
from train.objectives.contrast import LogScale
from train.objectives.views import pair_losses
from train.spec import EncoderCard


class Towers(nn.Module):
    """The three views of a place: aerial chip, location, and monthly composites (in training only)."""

    def __init__(self, card: EncoderCard, season_width: int) -> None:
        super().__init__()
        self.aerial, self.location = build(card)
        if card.aerial.dim != card.location.dim:
            found = f"widths {card.aerial.dim} and {card.location.dim}"
            raise SpecError("cannot contrast the encoders", found, "Give both embeddings the same width.")
        width = card.aerial.dim
        self.season = nn.Sequential(
            nn.BatchNorm1d(season_width), nn.Linear(season_width, 256), nn.GELU(), nn.Linear(256, width)
        )
        names = ("aerial", "location", "season")
        self.scales = nn.ModuleDict(
            {f"{a}|{b}": LogScale() for i, a in enumerate(names) for b in names[i + 1 :]}
        )

    def forward(
        self, chips: list[Tensor], valid: list[Tensor], lonlat: Tensor, season: Tensor
    ) -> dict[str, Tensor]:
        """Losses of a batch: every pair of views and their mean, `loss`."""
        views = {
            "aerial": self.aerial(chips, valid),
            "location": self.location(lonlat),
            "season": self.embed_season(season),
        }
        return pair_losses(views, self.scales)

    def embed_season(self, season: Tensor) -> Tensor:
        """(n, k) monthly values -> (n, d) of unit length."""
        return nn.functional.normalize(self.season(season), dim=1)
