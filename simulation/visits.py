"""People who react to a ranker: what they are shown decides how long they stay and whether they come back.

``Visits`` goes hour by hour. A session asks for slates: the app's recall stage draws candidates by popularity, the ranker
scores them, the user looks down the slate, finishes, skips and likes by the true taste of the moment, and leaves or asks
for the next one. What a session was like moves the user's loyalty, and with it the chance of coming back tomorrow.

Every draw is a function of the seed and of what it is drawn for, so two rankers meet the same people, moods and
candidates: the difference between two runs is the rankers' effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from core.hours import Hour
from simulation.app import LEAVE, LOOK, MAX_IMPRESSIONS, MAX_SESSIONS, OPEN, PICK, RECALL, App, Impressions
from simulation.random import uniform

DAY_SECONDS = 86400
NOBODY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Slates:
    """Requests for R slates, of one hour.

    Attributes:
        user, number: the user, and the number of the session in the user's local day, shape (R,).
        slate: how many slates the session has seen, the same for all.
        day: local day of the session, counted from the app's start, shape (R,).
        moment: seconds since 1970 UTC, shape (R,).
        local_hour: hour of day on the user's wall clock, in [0, 24), shape (R,).
        local_minutes: minutes since 1970 on the user's wall clock, shape (R,).
        candidates: items, −1 where there is none, shape (R, C).
    """

    user: np.ndarray
    number: np.ndarray
    slate: int
    day: np.ndarray
    moment: np.ndarray
    local_hour: np.ndarray
    local_minutes: np.ndarray
    candidates: np.ndarray

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Row of the request and item of every candidate that is there."""
        row, column = np.nonzero(self.candidates >= 0)
        return row, self.candidates[row, column]


Rank = Callable[[Slates], np.ndarray]
"""Scores of the candidates, shape (R, C); those that are −1 may have any."""


@dataclass(frozen=True)
class Sessions:
    """Planned sessions; every array has shape (sessions,). ``offset`` is the zone's, seconds."""

    user: np.ndarray
    number: np.ndarray
    day: np.ndarray
    moment: np.ndarray
    offset: np.ndarray

    @classmethod
    def none(cls) -> Sessions:
        return cls(NOBODY, NOBODY, NOBODY, np.empty(0), np.empty(0))

    def take(self, which: np.ndarray) -> Sessions:
        return Sessions(*(getattr(self, f.name)[which] for f in fields(self)))

    @classmethod
    def joined(cls, *parts: Sessions) -> Sessions:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


class Visits:
    """The users' visits from an hour on, one hour after the other.

    Args:
        app: people, items and tastes.
        start: first hour; sessions of the running local day that began before it are left out.
    """

    def __init__(self, app: App, start: Hour) -> None:
        self.app, self.next = app, start
        self.loyalty = np.zeros(app.config.users)
        self.planned_day = np.full(len(app.zone_names), -1)
        for zone, name in enumerate(app.zone_names):
            day = 0
            while self._midnight(day + 1, name) < (start + 1).start.timestamp():
                day += 1
            self.planned_day[zone] = day - 1
        self.sessions = Sessions.none()
        self.later = _nothing()

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next hour depends on."""
        parts = {"sessions": self.sessions, "later": self.later}
        found = {f"{n}.{f.name}": getattr(part, f.name) for n, part in parts.items() for f in fields(part)}  # type: ignore[arg-type]
        return {
            **found, "loyalty": self.loyalty, "planned_day": self.planned_day, "next": np.array(self.next.number),
        }  # fmt: skip

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a state."""
        self.loyalty, self.planned_day = state["loyalty"].copy(), state["planned_day"].copy()
        self.next = Hour(int(state["next"]))
        self.sessions = Sessions(*(state[f"sessions.{f.name}"] for f in fields(Sessions)))
        self.later = Impressions(*(state[f"later.{f.name}"] for f in fields(Impressions)))

    def hour(self, rank: Rank) -> Impressions:
        """Live the next hour: the impressions that happen in it, in the order of time.

        A session that begins in the hour is lived to its end; what it does after the hour's end is kept for
        the hours that follow.
        """
        return self.until(self.next + 1, rank)

    def until(self, following: Hour, rank: Rank) -> Impressions:
        """Live the hours before ``following`` in one go: who comes is decided by what was before the first of them."""
        end = following.start.timestamp()
        self._plan(end)
        begin = self.sessions.moment < end
        now, self.sessions = self.sessions.take(begin), self.sessions.take(~begin)
        now = now.take(np.lexsort((now.number, now.user, now.moment)))
        happened = _joined(self.later, self._live(now, rank))
        inside = happened.moment < end
        self.later = _some(happened, ~inside)
        self.next = following
        order = np.flatnonzero(inside)
        return _some(happened, order[np.lexsort((happened.session[order], happened.moment[order]))])

    def _midnight(self, day: int, zone: str) -> float:
        date = self.app.config.day(day)
        return datetime(date.year, date.month, date.day, tzinfo=ZoneInfo(zone)).timestamp()

    def _plan(self, end: float) -> None:
        """Decide who comes, for every local day that begins before ``end``."""
        app, config = self.app, self.app.config
        rule = config.reaction
        for zone, name in enumerate(app.zone_names):
            while self._midnight(day := int(self.planned_day[zone]) + 1, name) < end:
                self.planned_day[zone] = day
                mine = np.flatnonzero((app.zone == zone) & (app.arrival_day <= day))
                self.loyalty[mine] *= rule.loyalty_kept
                logit = np.log(app.activity[mine] / (1 - app.activity[mine])) + self.loyalty[mine]
                chance = 1 / (1 + np.exp(-logit)) * (1.1 if config.is_weekend(day) else 1.0)
                chance *= rule.holiday_activity if day in rule.holidays else 1.0
                user, number, start = app.openings(day, mine[uniform(self.app.draws, OPEN, day, mine) < chance])
                moment = app.instants(day, user, start)
                local = self._local_midnight(day) + start * 3600
                planned = Sessions(user, number, np.full(len(user), day), moment, local - moment)
                self.sessions = Sessions.joined(self.sessions, planned.take(moment >= self.next.start.timestamp()))

    def _local_midnight(self, day: int) -> float:
        """A local day's midnight as if it were UTC, seconds."""
        date = self.app.config.day(day)
        return datetime(date.year, date.month, date.day, tzinfo=UTC).timestamp()

    def _live(self, now: Sessions, rank: Rank) -> Impressions:
        """Live sessions to their end."""
        config, rule = self.app.config, self.app.config.reaction
        satisfaction, songs = np.zeros(len(now.user)), np.zeros(len(now.user))
        moment, position = now.moment.copy(), np.zeros(len(now.user), dtype=np.int64)
        seen = np.full((len(now.user), 0), -1)
        alive = np.arange(len(now.user))
        parts: list[Impressions] = []
        for slate in range(rule.slates):
            if not len(alive):
                break
            asked = now.take(alive)
            local = moment[alive] + asked.offset
            slates = Slates(
                user=asked.user, number=asked.number, slate=slate, day=asked.day, moment=moment[alive],
                local_hour=local % DAY_SECONDS / 3600, local_minutes=(local // 60).astype(np.int64),
                candidates=self._recall(asked, slate, seen[alive]),
            )  # fmt: skip
            shown = best(slates, rank(slates), rule.slate)
            seen = np.concatenate([seen, np.full((len(seen), rule.slate), -1)], axis=1)
            seen[alive, -rule.slate :] = shown
            met, left, took = self._look(slates, shown, position[alive])
            at, played = alive[met.session], met.played
            parts.append(_renamed(met, (now.day[at] * config.users + now.user[at]) * MAX_SESSIONS + now.number[at]))
            np.add.at(satisfaction, at, met.finish.astype(float) - (played < 5))
            np.add.at(songs, at, 1)
            moment[alive] += took
            position[alive] += rule.slate
            alive = alive[~left]
        self._remember(now.user, satisfaction, songs)
        return _joined(*parts) if parts else _nothing()

    def _recall(self, asked: Sessions, slate: int, seen: np.ndarray) -> np.ndarray:
        """Candidates of slates: popular items that are out by now, none twice, none seen in the session."""
        config = self.app.config
        drawn = np.empty((len(asked.user), config.reaction.candidates), dtype=np.int64)
        for day in np.unique(asked.day):
            at = np.flatnonzero(asked.day == day)
            weight = np.cumsum(self.app.popularity * (self.app.release_day <= day))
            luck = uniform(
                self.app.draws, RECALL, int(day), asked.user[at][:, None], asked.number[at][:, None], slate,
                np.arange(drawn.shape[1])[None],
            )  # fmt: skip
            drawn[at] = np.searchsorted(weight / weight[-1], luck, side="right").clip(max=len(weight) - 1)
        drawn.sort(axis=1)
        drawn[:, 1:][drawn[:, 1:] == drawn[:, :-1]] = -1
        for column in range(seen.shape[1]):
            drawn[drawn == seen[:, column : column + 1]] = -1
        return drawn

    def _look(
        self, slates: Slates, shown: np.ndarray, position: np.ndarray
    ) -> tuple[Impressions, np.ndarray, np.ndarray]:
        """What happens on slates: impressions (``session`` is the slate's row), who leaves, and the seconds it took."""
        rule = self.app.config.reaction
        row, place = np.nonzero(shown >= 0)
        user, number, day = slates.user[row], slates.number[row], slates.day[row]
        spot = position[row] + place
        item = shown[row, place]
        parts = [np.flatnonzero(day == d) for d in np.unique(day)]
        order = np.concatenate(parts) if parts else NOBODY
        got = [
            self.app.reception(int(day[p[0]]), user[p], number[p], spot[p], item[p], slates.local_hour[row[p]])
            for p in parts
        ]
        back = np.argsort(order, kind="stable")
        finish, skip, played, like, dislike, share, chance = (
            np.concatenate([getattr(g, name) for g in got])[back] if got else np.empty(0)
            for name in ("finish", "skip", "played", "like", "dislike", "share", "chance")
        )
        looked = uniform(self.app.draws, LOOK, day, user, number, spot) < rule.attention**place
        bored = np.where(finish, rule.leave_finished, np.where(skip, rule.leave_skipped, rule.leave_played))
        leaves = looked & (uniform(self.app.draws, LEAVE, day, user, number, spot) < bored)
        leaves |= looked & (spot >= MAX_IMPRESSIONS - 1)
        last = np.full(len(shown), shown.shape[1])
        np.minimum.at(last, row[leaves], place[leaves])
        met = np.flatnonzero(looked & (place <= last[row]))
        played = np.round(played, 1)
        took = np.zeros(len(shown))
        np.add.at(took, row[met], played[met])
        total = np.cumsum(played[met]) - played[met]
        first = np.searchsorted(row[met], row[met])
        offset = total - total[first] if len(met) else total
        left = (last < shown.shape[1]) | (shown < 0).all(axis=1)
        return Impressions(
            user=user[met], item=item[met], moment=slates.moment[row[met]] + offset, session=row[met],
            position=spot[met], played=played[met], finish=finish[met].astype(bool), like=like[met].astype(bool),
            dislike=dislike[met].astype(bool), share=share[met].astype(bool), chance=chance[met],
        ), left, took  # fmt: skip

    def _remember(self, user: np.ndarray, satisfaction: np.ndarray, songs: np.ndarray) -> None:
        """Sessions move their users' loyalty."""
        rule = self.app.config.reaction
        heard = songs > 0
        better = satisfaction[heard] / songs[heard] - rule.expected
        np.add.at(self.loyalty, user[heard], rule.loyalty_step * better)


def best(slates: Slates, scores: np.ndarray, count: int) -> np.ndarray:
    """The candidates with the highest scores, best first, −1 where there are no more, shape (R, count)."""
    scores = np.where(slates.candidates >= 0, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    shown = np.full((len(scores), count), -1)
    shown[:, : order.shape[1]] = np.take_along_axis(slates.candidates, order, axis=1)
    return shown


def by_pairs(slates: Slates, score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Scores from a function of (row, item) of the candidates that are there."""
    found = np.zeros(slates.candidates.shape)
    row, item = slates.pairs()
    found[slates.candidates >= 0] = score(row, item)
    return found


def first_policy(app: App) -> Rank:
    """The app's policy before there is a ranker: all-day taste and luck; it knows no time of day."""

    def rank(slates: Slates) -> np.ndarray:
        def score(row: np.ndarray, item: np.ndarray) -> np.ndarray:
            user = slates.user[row]
            taste = sum(app.base[f][user, app.item_values[item, f]] for f in range(len(app.sizes)))
            luck = uniform(app.draws, PICK, 9, slates.day[row], user, slates.number[row], slates.slate, item)
            return taste - 0.7 * np.log(-np.log(luck))

        return by_pairs(slates, score)

    return rank


def perfect_policy(app: App) -> Rank:
    """Ranks by the true taste of the moment: no ranker can do better on a single slate."""

    def rank(slates: Slates) -> np.ndarray:
        def score(row: np.ndarray, item: np.ndarray) -> np.ndarray:
            found = np.empty(len(row))
            for day in np.unique(slates.day):
                at = np.flatnonzero(slates.day[row] == day)
                found[at] = app.taste(slates.user[row[at]], item[at], slates.local_hour[row[at]], day=int(day))
            return found

        return by_pairs(slates, score)

    return rank


def timeless_policy(app: App) -> Rank:
    """Ranks by the true taste averaged over the user's dayparts: perfect, but for the time of day."""

    def rank(slates: Slates) -> np.ndarray:
        def score(row: np.ndarray, item: np.ndarray) -> np.ndarray:
            user, found = slates.user[row], np.zeros(len(row))
            share = np.diff(app.habit, axis=1, prepend=0)
            for day in np.unique(slates.day):
                at = np.flatnonzero(slates.day[row] == day)
                for part in range(share.shape[1]):
                    center = app.center[user[at], part]
                    found[at] += share[user[at], part] * app.taste(user[at], item[at], center, day=int(day))
            return found

        return by_pairs(slates, score)

    return rank


def _nothing() -> Impressions:
    none, yes = np.empty(0), np.empty(0, dtype=bool)
    return Impressions(NOBODY, NOBODY, none, NOBODY, NOBODY, none, yes, yes, yes, yes, none)


def _some(shown: Impressions, which: np.ndarray) -> Impressions:
    return Impressions(*(getattr(shown, f.name)[which] for f in fields(Impressions)))


def _joined(*parts: Impressions) -> Impressions:
    return Impressions(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Impressions)))


def _renamed(shown: Impressions, session: np.ndarray) -> Impressions:
    return Impressions(**{**{f.name: getattr(shown, f.name) for f in fields(Impressions)}, "session": session})
