"""What all users do at what time of day: decayed counts of each item and facet value by local hour.

The counts are part of the ranker's state and are brought up to date after an hour was trained on, so a prediction
uses earlier hours only. Unlike an hour embedding they are not fitted to the present: the counts of
a time of day stay as they are until it comes round again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.hours import DAY_HOURS
from training.embedding import UNKNOWN, GrowingEmbedding

WIDTH = 2 * DAY_HOURS
"""Width of the statistics: positives by local hour, then negatives."""
TOTALS_WIDTH = 2
"""Width of statistics that do not tell hours apart: positives, then negatives."""
MEMORY_HOURS = 720.0
"""A count weighs 1/e after this many hours."""
LARGEST_EXPONENT = 40.0
LARGEST_SHARE = 1 - 2**-24
"""The largest number of 32 bits below 1."""


def log_odds(shares: Tensor) -> Tensor:
    """Log odds of shares below 1, finite also where many positives and hardly a negative round a share to 1."""
    return torch.logit(shares.clamp(max=LARGEST_SHARE))


class TimeOfDayCounts(nn.Module):
    """Reads and updates the ``statistics`` of tables, whose row 0 holds the sum over everything.

    A count of hour h is stored as ``e^((h − epoch)/memory)``, so that no hour has to touch the counts before it. An hour's
    samples are counted in integers and added at once, in 64 bits: a sum of 32 bits stops growing by ones at 2^24, which
    the busy hours of the day would reach first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.span = torch.zeros(2, dtype=torch.int64)  # no buffer: two numbers that Python reads stay with the CPU

    def begin(self, hour: int, tables: list[GrowingEmbedding]) -> None:
        """Let ``hour`` (since 1970 UTC) be the present; the epoch moves on before counts could overflow."""
        if not int(self.span[0]):
            self.span[0] = hour
        if (hour - int(self.span[0])) / MEMORY_HOURS > LARGEST_EXPONENT:
            for table in tables:
                table.scale_counts(self._growth(int(self.span[0]) - (hour - int(self.span[0]))))
            self.span[0] = hour
        self.span[1] = hour

    @property
    def weight(self) -> float:
        """What a sample of the present hour adds to the counts."""
        return self._growth(int(self.span[1]))

    def _growth(self, hour: int) -> float:
        return math.exp((hour - int(self.span[0])) / MEMORY_HOURS)

    def add(self, table: GrowingEmbedding, rows: Tensor, hours: Tensor, labels: Tensor) -> None:
        """Count samples of the present hour.

        Args:
            table: whose statistics are updated, by as many periods of the day as they are wide.
            rows: rows of the table, shape (B,).
            hours: local time of day in hours, shape (B,).
            labels: 0 or 1, shape (B,).
        """
        periods = table.width // 2
        column = hours.long() * periods // DAY_HOURS + (labels < 0.5).long() * periods
        table.add_counts(rows, column, self.weight)

    def read(self, table: GrowingEmbedding, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Positives and negatives by period of the day as of the present, each (…, periods); zeros for row 0."""
        scale = (rows != UNKNOWN).double() / self._growth(int(self.span[1]))
        counts = (table.statistics[rows] * scale[..., None]).float()
        return counts[..., : table.width // 2], counts[..., table.width // 2 :]

    def totals(self, table: GrowingEmbedding) -> tuple[Tensor, Tensor]:
        """The same of all samples together, each (periods,)."""
        counts = (table.statistics[UNKNOWN] / self._growth(int(self.span[1]))).float()
        return counts[: table.width // 2], counts[table.width // 2 :]
