"""What ``matched_clock`` looks up of samples before any weight is read: where a candidate occurs in the clocks, and the counts of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from core.hours import DAY_HOURS
from training.batch import DAY_MINUTES, Batch
from training.config import RankerConfig
from training.time_modules.base import Tables, circular_distance, same_kind_of_day, slot_centres
from training.time_modules.runs import Entries, Runs
from training.time_of_day_counts import MEMORY_HOURS

WEEK_MINUTES, WEEK_SIGMA_HOURS = 7 * DAY_MINUTES, 2.0
SHORTEST_HOURS, NEVER_HOURS = 0.1, 5000.0


class Windowed(NamedTuple):
    """Sums under a Gaussian window round the 24 h circle, which weighs 1 on average, and their slopes by its σ.

    The slope is known in closed form, ``∂/∂σ Σ c g = Σ c g d²/σ³ − (Σ c g)/σ``: that of the exponentials need not be traced.
    """

    sums: Tensor
    slopes: Tensor | None

    def of_sigma(self, sigma: Tensor) -> Tensor:
        """The sums, with their gradient by ``sigma``."""
        return self.sums if self.slopes is None else self.sums + self.slopes * (sigma - sigma.detach())

    def per_sample(self, runs: Runs) -> Windowed:
        """The sums of runs for each of their samples."""
        return Windowed(runs.per_sample(self.sums), None if self.slopes is None else runs.per_sample(self.slopes))


class Occurrences(NamedTuple):
    """Counts of attributes at times of day.

    Attributes:
        owner: sample or run of each count, shape (E,).
        attribute: shape (E,).
        square: squared distance to the moment on the circle, hours², shape (E,).
        weight: the count, shape (E,).
        now: whether it may count as now, shape (E,); on a weekend the slots of other days do not.
    """

    owner: Tensor
    attribute: Tensor
    square: Tensor
    weight: Tensor
    now: Tensor | None = None

    def of_now(self) -> Occurrences:
        """Those that may count as now."""
        if self.now is None:
            return self
        parts = self.owner, self.attribute, self.square, self.weight
        return Occurrences(*(part[self.now] for part in parts))


@dataclass(frozen=True)
class AttributeCounts:
    """Counts of A attributes by N owners (samples or runs): sums over the day, and those of now, sparse.

    Attributes:
        all_day: shape (N, A).
        entries: of each count of now: its cell in (N, A), squared distance to the moment, and the count.
    """

    all_day: Tensor
    entries: Entries

    @classmethod
    def of(cls, parts: Sequence[Occurrences], count: int, attributes: int) -> AttributeCounts:
        """Counts of ``count`` owners; the owners of each part ascend."""
        all_day = parts[0].weight.new_zeros(count * attributes)
        for part in parts:
            all_day.index_add_(0, part.owner * attributes + part.attribute, part.weight)
        kept = [p.of_now() for p in parts]
        owner, attribute, square, weight = (
            torch.cat(columns)
            for columns in zip(*((p.owner, p.attribute, p.square, p.weight) for p in kept), strict=True)
        )
        owner, order = owner.sort(stable=True)
        cell = owner * attributes + attribute[order]
        return cls(all_day.view(count, -1), Entries.of(owner, count, cell, square[order], weight[order]))

    def slice(self, start: int, stop: int) -> AttributeCounts:
        """Those of the owners [start, stop)."""
        part = self.entries.slice(start, stop)
        cell, *others = part.columns
        moved = cell - start * self.all_day.shape[1]
        return AttributeCounts(self.all_day[start:stop], Entries(part.ends, (moved, *others)))

    @torch.no_grad()
    def now(self, sigma: Tensor, *, slopes: bool) -> Windowed:
        """Sums around the moment for a σ of each attribute, each (N, A)."""
        cell, square, weight = self.entries.columns
        attributes = self.all_day.shape[1]
        part = weight * torch.exp(square * (-0.5 / sigma.square()).index_select(0, cell % attributes))
        scale = DAY_HOURS / (sigma * math.sqrt(2 * math.pi))
        nothing = part.new_zeros(self.all_day.numel())
        sums = nothing.index_add(0, cell, part).view(-1, attributes) * scale
        if not slopes:
            return Windowed(sums, None)
        spread = nothing.index_add(0, cell, part * square).view(-1, attributes) * scale
        return Windowed(sums, spread / sigma**3 - sums / sigma)


@dataclass(frozen=True)
class Matches:
    """Of B samples in R runs with A attributes, the item's last.

    Attributes:
        runs: samples of one user at one minute.
        gaps: squared distance of each run's moment to the center of each hour, hours², shape (R, 24).
        everybody: positives, and all samples, of each attribute by hour, shape (B, A, 2, 24).
        everybody_all_day: their sums, shape (B, A, 2).
        totals: positives, and all samples, of everything by hour, shape (2, 24).
        scores: the user's scores with the candidate's attributes, by sample.
        events: the user's events, by run.
        again: log of the hours since the user had the item last, and of how often at this time of the week, shape (B, 2).
    """

    runs: Runs
    gaps: Tensor
    everybody: Tensor
    everybody_all_day: Tensor
    totals: Tensor
    scores: AttributeCounts
    events: AttributeCounts
    again: Tensor

    @classmethod
    def of(cls, batch: Batch, tables: Tables, config: RankerConfig) -> Matches:
        """Look a batch up."""
        runs, read = Runs.of(batch), tables.time_of_day_counts.read
        counts = [read(tables.values, batch.facets), read(tables.items, batch.items[:, None])]
        everybody = torch.cat([torch.stack([good, good + bad], dim=2) for good, bad in counts], dim=1)
        good, bad = tables.time_of_day_counts.totals(tables.items)
        centers = torch.arange(DAY_HOURS, device=batch.minutes.device) + 0.5
        slot_scores, slot_events = _slots(batch, runs, config)
        recent_scores, recent_events, again = _recent(batch, runs)
        return cls(
            runs=runs,
            gaps=circular_distance(runs.moment.hours[:, None], centers).square(),
            everybody=everybody,
            everybody_all_day=everybody.sum(dim=3),
            totals=torch.stack([good, good + bad]),
            scores=AttributeCounts.of([slot_scores, recent_scores], len(batch), everybody.shape[1]),
            events=AttributeCounts.of([slot_events, recent_events], len(runs), everybody.shape[1]),
            again=again,
        )

    def slice(self, start: int, stop: int) -> Self:
        """Those of the samples [start, stop)."""
        first, last = self.runs.range_of(start, stop)
        return type(self)(
            self.runs.slice(start, stop), self.gaps[first:last], self.everybody[start:stop],
            self.everybody_all_day[start:stop], self.totals, self.scores.slice(start, stop),
            self.events.slice(first, last), self.again[start:stop],
        )  # fmt: skip

    @torch.no_grad()
    def everybody_now(self, sigma: Tensor, *, slopes: bool) -> tuple[Windowed, Windowed]:
        """``everybody`` and ``totals`` around the moment for a σ of each attribute, (B, A, 2) each."""
        scale = (DAY_HOURS / (sigma * math.sqrt(2 * math.pi)))[:, None]
        window = torch.exp(self.gaps[:, None] * (-0.5 / sigma.square())[:, None]) * scale  # (R, A, 24)
        spread = window * self.gaps[:, None] if slopes else None

        def under(weights: Tensor) -> tuple[Tensor, Tensor]:
            return (self.everybody * self.runs.per_sample(weights)[:, :, None]).sum(dim=3), weights @ self.totals.T

        sums = under(window)
        if spread is None:
            counts, totals = (Windowed(part, None) for part in sums)
        else:
            cube, sigma = (sigma**3)[:, None], sigma[:, None]
            counts, totals = (Windowed(s, p / cube - s / sigma) for s, p in zip(sums, under(spread), strict=True))
        return counts, totals.per_sample(self.runs)


def _slots(batch: Batch, runs: Runs, config: RankerConfig) -> tuple[Occurrences, Occurrences]:
    """Scores of the candidate's facets in the user's slots, by sample, and events of the slots, by run."""
    at, facets = runs.user_position, batch.facets.shape[1]
    centers = slot_centres(config, batch.minutes.device)
    square = circular_distance(runs.moment.hours[:, None], centers[None, :]).square()  # (R, S)
    same_day = same_kind_of_day(runs.moment, config)
    top = batch.clock_values.shape[3]
    values = runs.per_sample(batch.clock_values.index_select(0, at).flatten(2))  # (B, S, F·K)
    sought = torch.where(batch.facets > 0, batch.facets, -1).repeat_interleave(top, dim=1)
    sample, slot, place = (values == sought[:, None, :]).nonzero().unbind(dim=1)
    run, facet, rank = runs.of_sample[sample], place // top, place % top
    score = batch.clock_scores[at[run], slot, facet, rank]
    scores = Occurrences(sample, facet, square[run, slot], score, same_day[run, slot] if same_day is not None else None)
    events = batch.slot_events.index_select(0, at)
    run, slot = events.nonzero().unbind(dim=1)
    each = torch.arange(facets, device=at.device).repeat(len(run))
    run, slot = run.repeat_interleave(facets), slot.repeat_interleave(facets)
    return scores, Occurrences(
        run, each, square[run, slot], events[run, slot], same_day[run, slot] if same_day is not None else None
    )


def _recent(batch: Batch, runs: Runs) -> tuple[Occurrences, Occurrences, Tensor]:
    """Recent behaviors with the candidate, by sample; all of them, by run; and ``again``."""
    at, item = runs.user_position, batch.facets.shape[1]
    minutes = batch.recent_minutes.index_select(0, at)  # (R, L)
    hours = runs.moment.hours

    def counted(owner: Tensor, run: Tensor, then: Tensor) -> Occurrences:
        gap = circular_distance(hours[run], (then % DAY_MINUTES).float() / 60)
        age = ((runs.minutes[run] - then) / 60).clamp(min=0)
        return Occurrences(owner, torch.full_like(owner, item), gap.square(), torch.exp(-age / MEMORY_HOURS))

    run, place = (minutes >= 0).nonzero().unbind(dim=1)
    events = counted(run, run, minutes[run, place])
    items = torch.where(minutes >= 0, batch.recent_items.index_select(0, at), 0)
    same = (runs.per_sample(items) == batch.items[:, None]) & (batch.items > 0)[:, None]
    sample, place = same.nonzero().unbind(dim=1)
    run = runs.of_sample[sample]
    then = minutes[run, place]
    gap = runs.minutes[run] - then
    never = events.weight.new_full((len(batch),), NEVER_HOURS)
    last = never.scatter_reduce(0, sample, (gap / 60).clamp(min=SHORTEST_HOURS), "amin")
    around = torch.remainder(gap, WEEK_MINUTES)
    around = torch.minimum(around, WEEK_MINUTES - around) / 60
    near = torch.exp(-0.5 * (around / WEEK_SIGMA_HOURS) ** 2)
    often = torch.zeros_like(never).index_add_(0, sample, near)
    return counted(sample, run, then), events, torch.stack([last.log(), (often + 0.1).log()], dim=1)
