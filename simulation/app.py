"""The app: who comes when, what is shown, how people react to it.

There are two ways to use it. ``App.day`` simulates an app whose log does not depend on a ranker (its experiment's effect is
planted); ``simulation.visits`` lets people react to what a ranker shows them.

A user's taste for an item at local time t is, summed over the facets f,

    base[u, f, v(i)] + strength * sum_j K(t - center[u, j]) * 1[favorite[u, j, f] = v(i)]

with K a Gaussian around the user's four dayparts j on the 24 h circle; at weekends the dayparts come
later and some favorites change. The logging policy knows the all-day taste and popularity only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np

from simulation.config import SimulatorConfig
from simulation.random import normal, uniform
from stats.assignment import assign
from stats.circle import circular_distance, gaussian

FACETS = ("genre", "mood", "language")
DAYPARTS = np.array([8.0, 12.5, 18.5, 22.5])
LUCK = 1_000_003
"""Distance between the seeds of one ``luck`` and the next."""
MAX_SESSIONS = 6
MAX_IMPRESSIONS = 60
# One stream number per purpose keeps draws for different purposes independent.
(ARRIVAL, ZONE, ACTIVITY, HABIT, CENTER, FAVORITE, WEEKEND, BASE, ITEM, QUALITY, LENGTH, RELEASE, OPEN, COUNT,
 WHEN, SIZE, PICK, RECEIVE, PLAY, REACT, DRIFT, LOOK, LEAVE, RECALL) = range(24)  # fmt: skip


@dataclass(frozen=True)
class Impressions:
    """Impressions in no particular order; every array has shape (impressions,).

    ``moment`` is in seconds since 1970 UTC. ``chance`` is the true probability of a finish.
    """

    user: np.ndarray
    item: np.ndarray
    moment: np.ndarray
    session: np.ndarray
    position: np.ndarray
    played: np.ndarray
    finish: np.ndarray
    like: np.ndarray
    dislike: np.ndarray
    share: np.ndarray
    chance: np.ndarray


@dataclass(frozen=True)
class Reception:
    """How users react to impressions; every array has their shape. ``chance`` is the true probability of a finish."""

    chance: np.ndarray
    played: np.ndarray
    finish: np.ndarray
    skip: np.ndarray
    like: np.ndarray
    dislike: np.ndarray
    share: np.ndarray


class App:
    """The simulated app.

    Args:
        config: its parameters.
        arm: variant that every user is forced into, for the counterfactual truth; None: the experiment's split.
    """

    def __init__(self, config: SimulatorConfig, arm: str | None = None) -> None:
        self.config, seed = config, config.seed
        self.draws = config.seed + LUCK * config.luck
        users, items = np.arange(config.users), np.arange(config.items)
        arrival_draw = uniform(seed, ARRIVAL, users)
        self.arrival_day = np.where(
            arrival_draw < config.arriving_share,
            np.ceil(arrival_draw / max(config.arriving_share, 1e-12) * (config.days - 1)),
            0,
        ).astype(int)
        zones = sorted(config.zones.items(), key=lambda zone: (-zone[1], zone[0]))  # however the file orders them
        self.zone_names = [name for name, _ in zones]
        share = np.cumsum([share for _, share in zones])
        self.zone = np.searchsorted(share / share[-1], uniform(seed, ZONE, users), side="right")
        level = np.log(config.daily_activity / (1 - config.daily_activity))
        self.activity = 1 / (1 + np.exp(-(level + 0.9 * normal(seed, ACTIVITY, users))))
        habit = np.exp(0.8 * normal(seed, HABIT, users[:, None], np.arange(4)[None]))
        self.habit = np.cumsum(habit / habit.sum(axis=1, keepdims=True), axis=1)
        self.center = DAYPARTS + 1.0 * normal(seed, CENTER, users[:, None], np.arange(4)[None])
        self.sizes = (config.genres, config.moods, config.languages)
        parts, facets = np.arange(4)[None, :, None], np.arange(3)[None, None, :]
        self.favorite = np.floor(uniform(seed, FAVORITE, users[:, None, None], parts, facets) * self.sizes).astype(int)
        change_draw = uniform(seed, WEEKEND, users[:, None, None], parts, facets)
        new_favorite = np.floor(change_draw / 0.3 * self.sizes).astype(int)
        self.favorite_weekend = np.where(change_draw < 0.3, new_favorite, self.favorite)
        self._favorites_of: dict[tuple[int, bool], np.ndarray] = {}
        self.base = [
            config.base_strength * normal(seed, BASE, f, users[:, None], np.arange(size)[None])
            for f, size in enumerate(self.sizes)
        ]
        self.item_values = np.stack(
            [np.floor(uniform(seed, ITEM, f, items) ** 1.5 * size).astype(int) for f, size in enumerate(self.sizes)],
            axis=1,
        )
        self.quality = 0.5 * normal(seed, QUALITY, items)
        self.length = np.round(120 + 180 * uniform(seed, LENGTH, items))
        release_draw = uniform(seed, RELEASE, items)
        self.release_day = np.where(
            release_draw < config.arriving_share,
            np.ceil(release_draw / max(config.arriving_share, 1e-12) * (config.days - 1)),
            0,
        ).astype(int)
        self.popularity = (1 / (np.arange(config.items) + 10)) * np.exp(0.5 * self.quality)
        rule = config.experiment
        shares = {rule.control: 1 - rule.treatment_share, rule.treatment: rule.treatment_share}
        self.variant = (
            np.full(config.users, arm)
            if arm
            else assign(rule.name, rule.salt, shares, [self.user_key(int(u)) for u in users])
        )

    def user_key(self, user: int) -> str:
        """The user's id in the log."""
        return f"u{user:06d}" if self.config.ids == "text" else str(user + 1)

    def item_key(self, item: int) -> str:
        """The item's id in the log."""
        return f"t{item:06d}" if self.config.ids == "text" else str(item + 1)

    @cached_property
    def active(self) -> np.ndarray:
        """Whether each user opens the app on each local day, shape (users, days)."""
        config, rule = self.config, self.config.experiment
        users = np.arange(config.users)
        active = np.zeros((config.users, config.days), dtype=bool)
        exposed = np.zeros(config.users, dtype=bool)
        treated = self.variant == rule.treatment
        for day in range(config.days):
            weekend = 1.1 if config.is_weekend(day) else 1.0
            lift = np.where(exposed & treated, 1 + rule.activity_lift, 1.0)
            chance = np.minimum(self.activity * weekend * lift, 1) * (self.arrival_day <= day)
            active[:, day] = uniform(self.draws, OPEN, day, users) < chance
            if day >= rule.start_day:
                exposed |= active[:, day]
        return active

    def sessions(self, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sessions that begin on a local day.

        Returns:
            User, number of the session, start (local hours) and number of impressions, shape (sessions,) each.
        """
        config, seed, rule = self.config, self.draws, self.config.experiment
        user, number, start = self.openings(day, np.flatnonzero(self.active[:, day]))
        treated = (self.variant[user] == rule.treatment) & (day >= rule.start_day)
        mean = config.impressions * np.where(treated, 1 + rule.session_lift, 1.0)
        size = np.minimum(_geometric(uniform(seed, SIZE, day, user, number), mean), MAX_IMPRESSIONS)
        return user, number, start, size

    def openings(self, day: int, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sessions that the active users begin on a local day.

        Returns:
            User, number of the session and start (local hours), shape (sessions,) each.
        """
        config, seed = self.config, self.draws
        count = np.minimum(_geometric(uniform(seed, COUNT, day, active), config.sessions), MAX_SESSIONS)
        user = np.repeat(active, count)
        number = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        part = (uniform(seed, WHEN, 0, day, user, number)[:, None] > self.habit[user]).sum(axis=1).clip(max=3)
        start = self.center[user, part] + self._weekend_shift(day) + 1.3 * normal(seed, WHEN, 1, day, user, number)
        return user, number, np.mod(start, 24)

    def day(self, day: int) -> Impressions:
        """All impressions of the sessions that begin on local day ``day`` (counted from the start)."""
        user, number, start, size = self.sessions(day)
        moment = self.instants(day, user, start)
        session = np.repeat(np.arange(len(user)), size)
        position = np.arange(len(session)) - np.repeat(np.cumsum(size) - size, size)
        user, number = user[session], number[session]
        item = self._shown(day, user, number, position)
        reception = self.reception(day, user, number, position, item, start[session])
        begun = np.cumsum(reception.played) - reception.played
        offset = begun - np.repeat(begun[np.cumsum(size) - size], size) if len(size) else begun
        return Impressions(
            user=user, item=item, moment=moment[session] + offset, session=session, position=position,
            played=np.round(reception.played, 1), finish=reception.finish, like=reception.like,
            dislike=reception.dislike, share=reception.share, chance=reception.chance,
        )  # fmt: skip

    def reception(
        self, day: int, user: np.ndarray, number: np.ndarray, position: np.ndarray, item: np.ndarray, hour: np.ndarray
    ) -> Reception:
        """How users react to items.

        Args:
            day: local day, counted from the start.
            user, number, position: user, number of their session that day, and position in it, shape (pairs,).
            item: what they are shown, shape (pairs,).
            hour: local hours, shape (pairs,).
        """
        seed = self.draws
        chance = 1 / (1 + np.exp(-(self.taste(user, item, hour, day=day) - 1.0)))
        received, play, react = (uniform(seed, what, day, user, number, position) for what in (RECEIVE, PLAY, REACT))
        finish = received < chance
        length = self.length[item]
        skip = ~finish & (received > chance + 0.45 * (1 - chance))
        played = np.where(
            finish, length * (0.9 + 0.1 * play), np.where(skip, 0.5 + 4.4 * play, 5 + play * (0.85 * length - 5))
        )
        return Reception(
            chance, played, finish, skip, like=finish & (react < 0.25 * chance), dislike=skip & (react > 0.97),
            share=finish & (react > 0.99),
        )  # fmt: skip

    def taste(self, user: np.ndarray, item: np.ndarray, hour: np.ndarray, *, day: int) -> np.ndarray:
        """True affinity in logits of users and items at local hours of a local day, shape (pairs,)."""
        kernel, favorite = self._kernel(user, hour, day), self._favorites(day)[user]
        total = self.quality[item].copy()
        for f in range(len(self.sizes)):
            value = self.item_values[item, f]
            match = favorite[:, :, f] == value[:, None]
            total += self.base[f][user, value]
            total += self.config.daypart_strength * np.minimum((kernel * match).sum(axis=1), 1.0)
        return total

    def facet_taste(self, user: np.ndarray, hour: float, facet: int, *, day: int) -> np.ndarray:
        """What each value of one facet adds to the affinity at a local hour, logits, shape (users, values)."""
        kernel, favorite = self._kernel(user, np.full(len(user), hour), day), self._favorites(day)[user]
        match = favorite[:, :, facet, None] == np.arange(self.sizes[facet])
        pull = np.minimum((kernel[:, :, None] * match).sum(axis=1), 1.0)
        taste: np.ndarray = self.base[facet][user] + self.config.daypart_strength * pull
        return taste

    def _kernel(self, user: np.ndarray, hour: np.ndarray, day: int) -> np.ndarray:
        """How close an hour is to each of the users' dayparts, shape (pairs, dayparts)."""
        gap = np.abs(hour[:, None] - self.center[user] - self._weekend_shift(day))
        return gaussian(circular_distance(gap), self.config.daypart_width)

    def _weekend_shift(self, day: int) -> float:
        """Hours by which dayparts come later on a local day."""
        return 1.2 if self.config.is_weekend(day) else 0.0

    def _favorites(self, day: int) -> np.ndarray:
        """Favorite values of the users' dayparts on a local day, shape (users, dayparts, facets)."""
        week, weekend = (day // 7 if self.config.drift else 0), self.config.is_weekend(day)
        if (week, weekend) not in self._favorites_of:
            users, parts, facets = np.ogrid[: self.config.users, :4, :3]
            favorites = self.favorite_weekend if weekend else self.favorite
            for past_week in range(1, week + 1):
                change_draw = uniform(self.config.seed, DRIFT, past_week, users, parts, facets)
                new_favorites = np.floor(change_draw / max(self.config.drift, 1e-12) * self.sizes).astype(int)
                favorites = np.where(change_draw < self.config.drift, new_favorites, favorites)
            self._favorites_of[week, weekend] = favorites
        return self._favorites_of[week, weekend]

    def _shown(self, day: int, user: np.ndarray, number: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Items that the logging policy shows: the best of four popular items by all-day taste and chance."""
        seed = self.draws
        weight = np.cumsum(self.popularity * (self.release_day <= day))
        draws = uniform(seed, PICK, day, user[:, None], number[:, None], position[:, None], np.arange(4)[None])
        items = np.searchsorted(weight / weight[-1], draws, side="right").clip(max=len(weight) - 1)
        score = sum(self.base[f][user[:, None], self.item_values[items, f]] for f in range(len(self.sizes)))
        noise = uniform(seed, PICK, 9, day, user[:, None], number[:, None], position[:, None], np.arange(4)[None])
        return items[np.arange(len(user)), np.argmax(score - 0.7 * np.log(-np.log(noise)), axis=1)]

    def first_instant(self, day: int) -> datetime:
        """The moment at which local day ``day`` begins in the first of the users' zones, UTC."""
        date = self.config.day(day)
        begins = (datetime(date.year, date.month, date.day, tzinfo=ZoneInfo(name)) for name in self.zone_names)
        return min(begins).astimezone(UTC)

    def instants(self, day: int, user: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Local hours of a local day as seconds since 1970, by each user's time zone."""
        date = self.config.day(day)
        moments = np.empty(len(user))
        hours = np.floor(start).astype(int)
        for zone, name in enumerate(self.zone_names):
            tz = ZoneInfo(name)
            table = np.array([datetime(date.year, date.month, date.day, h, tzinfo=tz).timestamp() for h in range(24)])
            in_zone = self.zone[user] == zone
            moments[in_zone] = table[hours[in_zone]] + (start[in_zone] - hours[in_zone]) * 3600
        return moments


def _geometric(u: np.ndarray, mean: np.ndarray | float) -> np.ndarray:
    """Geometric on 1, 2, … with the given mean, by inversion (so that a larger mean never gives a smaller value)."""
    return np.maximum(np.ceil(np.log(1 - u) / np.log(1 - 1 / np.asarray(mean))), 1).astype(int)
