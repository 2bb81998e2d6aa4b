"""People who react to a ranker: what they are shown decides how long they stay and whether they come back.

``Visits`` simulates hour by hour. A session asks for slates: the app's recall stage draws candidates by popularity, the
ranker scores them, the user looks down the slate, finishes, skips and likes by their true taste at that time, and leaves or
asks for the next one. How satisfying a session was moves the user's loyalty, and with it the chance of coming back tomorrow.

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
    """Requests for R slates, all within one hour.

    Attributes:
        user, number: the user, and the session's number within the user's local day, shape (R,).
        slate: how many slates the sessions have seen before, the same for all.
        day: local day of the session, counted from the app's start, shape (R,).
        moment: seconds since 1970 UTC, shape (R,).
        local_hour: hour of day on the user's wall clock, in [0, 24), shape (R,).
        local_minutes: minutes since 1970 on the user's wall clock, shape (R,).
        candidates: items, −1 for an empty place, shape (R, C).
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
        """Row of the request and item of every candidate, shape (pairs,) each."""
        row, column = np.nonzero(self.candidates >= 0)
        return row, self.candidates[row, column]


Rank = Callable[[Slates], np.ndarray]
"""Scores of the candidates, shape (R, C); empty places may have any score."""


@dataclass(frozen=True)
class Sessions:
    """Planned sessions; every array has shape (sessions,). ``offset`` is the time zone's, seconds."""

    user: np.ndarray
    number: np.ndarray
    day: np.ndarray
    moment: np.ndarray
    offset: np.ndarray

    @classmethod
    def none(cls) -> Sessions:
        return cls(NOBODY, NOBODY, NOBODY, np.empty(0), np.empty(0))

    def take(self, rows: np.ndarray) -> Sessions:
        return Sessions(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def joined(cls, *parts: Sessions) -> Sessions:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


class Visits:
    """The users' visits from an hour on, hour by hour.

    Args:
        app: people, items and tastes.
        start: first hour; sessions that began before it on the same local day are left out.
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
        self.later = _no_impressions()

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next hour depends on."""
        parts = {"sessions": self.sessions, "later": self.later}
        arrays = {f"{n}.{f.name}": getattr(part, f.name) for n, part in parts.items() for f in fields(part)}  # type: ignore[arg-type]
        return {
            **arrays, "loyalty": self.loyalty, "planned_day": self.planned_day, "next": np.array(self.next.number),
        }  # fmt: skip

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a state that ``state`` returned."""
        self.loyalty, self.planned_day = state["loyalty"].copy(), state["planned_day"].copy()
        self.next = Hour(int(state["next"]))
        self.sessions = Sessions(*(state[f"sessions.{f.name}"] for f in fields(Sessions)))
        self.later = Impressions(*(state[f"later.{f.name}"] for f in fields(Impressions)))

    def simulate_hour(self, rank: Rank) -> Impressions:
        """Simulate the next hour.

        A session that begins in the hour is simulated to its end; its impressions after the hour's end are kept for
        the hours that follow.

        Args:
            rank: the ranker.

        Returns:
            The impressions of the hour, ordered by time.
        """
        return self.simulate_until(self.next + 1, rank)

    def simulate_until(self, end: Hour, rank: Rank) -> Impressions:
        """Simulate all hours before ``end`` in one step; what happens in them does not change who comes in them.

        Args:
            end: the hour after the last one.
            rank: the ranker.

        Returns:
            The impressions of these hours, ordered by time.
        """
        end_time = end.start.timestamp()
        self._plan(end_time)
        begins = self.sessions.moment < end_time
        beginning, self.sessions = self.sessions.take(begins), self.sessions.take(~begins)
        beginning = beginning.take(np.lexsort((beginning.number, beginning.user, beginning.moment)))
        impressions = _joined(self.later, self._simulate(beginning, rank))
        in_hours = impressions.moment < end_time
        self.later = _subset(impressions, ~in_hours)
        self.next = end
        order = np.flatnonzero(in_hours)
        return _subset(impressions, order[np.lexsort((impressions.session[order], impressions.moment[order]))])

    def _midnight(self, day: int, zone: str) -> float:
        date = self.app.config.day(day)
        return datetime(date.year, date.month, date.day, tzinfo=ZoneInfo(zone)).timestamp()

    def _plan(self, end: float) -> None:
        """Decide who comes on every local day that begins before ``end``, seconds since 1970."""
        app, config = self.app, self.app.config
        rule = config.reaction
        for zone, name in enumerate(app.zone_names):
            while self._midnight(day := int(self.planned_day[zone]) + 1, name) < end:
                self.planned_day[zone] = day
                residents = np.flatnonzero((app.zone == zone) & (app.arrival_day <= day))
                self.loyalty[residents] *= rule.loyalty_kept
                logit = np.log(app.activity[residents] / (1 - app.activity[residents])) + self.loyalty[residents]
                chance = 1 / (1 + np.exp(-logit)) * (1.1 if config.is_weekend(day) else 1.0)
                chance *= rule.holiday_activity if day in rule.holidays else 1.0
                user, number, start = app.openings(
                    day, residents[uniform(self.app.draws, OPEN, day, residents) < chance]
                )
                moment = app.instants(day, user, start)
                local = self._local_midnight(day) + start * 3600
                planned = Sessions(user, number, np.full(len(user), day), moment, local - moment)
                self.sessions = Sessions.joined(self.sessions, planned.take(moment >= self.next.start.timestamp()))

    def _local_midnight(self, day: int) -> float:
        """Midnight of a local day as if the zone were UTC, seconds since 1970."""
        date = self.app.config.day(day)
        return datetime(date.year, date.month, date.day, tzinfo=UTC).timestamp()

    def _simulate(self, sessions: Sessions, rank: Rank) -> Impressions:
        """Simulate sessions to their end."""
        config, rule = self.app.config, self.app.config.reaction
        satisfaction, songs = np.zeros(len(sessions.user)), np.zeros(len(sessions.user))
        moment, position = sessions.moment.copy(), np.zeros(len(sessions.user), dtype=np.int64)
        seen = np.full((len(sessions.user), 0), -1)
        active_rows = np.arange(len(sessions.user))
        parts: list[Impressions] = []
        for slate in range(rule.slates):
            if not len(active_rows):
                break
            active = sessions.take(active_rows)
            local = moment[active_rows] + active.offset
            slates = Slates(
                user=active.user, number=active.number, slate=slate, day=active.day, moment=moment[active_rows],
                local_hour=local % DAY_SECONDS / 3600, local_minutes=(local // 60).astype(np.int64),
                candidates=self._recall(active, slate, seen[active_rows]),
            )  # fmt: skip
            shown = best(slates, rank(slates), rule.slate)
            seen = np.concatenate([seen, np.full((len(seen), rule.slate), -1)], axis=1)
            seen[active_rows, -rule.slate :] = shown
            looked_at, left, seconds = self._look(slates, shown, position[active_rows])
            rows = active_rows[looked_at.session]
            user_days = sessions.day[rows] * config.users + sessions.user[rows]
            parts.append(_with_sessions(looked_at, user_days * MAX_SESSIONS + sessions.number[rows]))
            np.add.at(satisfaction, rows, looked_at.finish.astype(float) - (looked_at.played < 5))
            np.add.at(songs, rows, 1)
            moment[active_rows] += seconds
            position[active_rows] += rule.slate
            active_rows = active_rows[~left]
        self._update_loyalty(sessions.user, satisfaction, songs)
        return _joined(*parts) if parts else _no_impressions()

    def _recall(self, sessions: Sessions, slate: int, seen: np.ndarray) -> np.ndarray:
        """Candidates of slates: popular items that are released, without repetitions and without items seen in the session."""
        config = self.app.config
        candidates = np.empty((len(sessions.user), config.reaction.candidates), dtype=np.int64)
        for day in np.unique(sessions.day):
            rows = np.flatnonzero(sessions.day == day)
            weight = np.cumsum(self.app.popularity * (self.app.release_day <= day))
            draws = uniform(
                self.app.draws, RECALL, int(day), sessions.user[rows][:, None], sessions.number[rows][:, None], slate,
                np.arange(candidates.shape[1])[None],
            )  # fmt: skip
            candidates[rows] = np.searchsorted(weight / weight[-1], draws, side="right").clip(max=len(weight) - 1)
        candidates.sort(axis=1)
        candidates[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = -1
        for column in range(seen.shape[1]):
            candidates[candidates == seen[:, column : column + 1]] = -1
        return candidates

    def _look(
        self, slates: Slates, shown: np.ndarray, position: np.ndarray
    ) -> tuple[Impressions, np.ndarray, np.ndarray]:
        """What users do with slates.

        Returns:
            The impressions (``session`` is the slate's row), who leaves, and the seconds each slate took.
        """
        rule = self.app.config.reaction
        row, column = np.nonzero(shown >= 0)
        user, number, day = slates.user[row], slates.number[row], slates.day[row]
        session_position = position[row] + column
        item = shown[row, column]
        rows_by_day = [np.flatnonzero(day == d) for d in np.unique(day)]
        order = np.concatenate(rows_by_day) if rows_by_day else NOBODY
        receptions = [
            self.app.reception(
                int(day[p[0]]), user[p], number[p], session_position[p], item[p], slates.local_hour[row[p]]
            )
            for p in rows_by_day
        ]
        original_order = np.argsort(order, kind="stable")
        finish, skip, played, like, dislike, share, chance = (
            np.concatenate([getattr(g, name) for g in receptions])[original_order] if receptions else np.empty(0)
            for name in ("finish", "skip", "played", "like", "dislike", "share", "chance")
        )
        looked = uniform(self.app.draws, LOOK, day, user, number, session_position) < rule.attention**column
        bored = np.where(finish, rule.leave_finished, np.where(skip, rule.leave_skipped, rule.leave_played))
        leaves = looked & (uniform(self.app.draws, LEAVE, day, user, number, session_position) < bored)
        leaves |= looked & (session_position >= MAX_IMPRESSIONS - 1)
        last = np.full(len(shown), shown.shape[1])
        np.minimum.at(last, row[leaves], column[leaves])
        met = np.flatnonzero(looked & (column <= last[row]))
        played = np.round(played, 1)
        seconds = np.zeros(len(shown))
        np.add.at(seconds, row[met], played[met])
        total = np.cumsum(played[met]) - played[met]
        first = np.searchsorted(row[met], row[met])
        offset = total - total[first] if len(met) else total
        left = (last < shown.shape[1]) | (shown < 0).all(axis=1)
        return Impressions(
            user=user[met], item=item[met], moment=slates.moment[row[met]] + offset, session=row[met],
            position=session_position[met], played=played[met], finish=finish[met].astype(bool), like=like[met].astype(bool),
            dislike=dislike[met].astype(bool), share=share[met].astype(bool), chance=chance[met],
        ), left, seconds  # fmt: skip

    def _update_loyalty(self, user: np.ndarray, satisfaction: np.ndarray, songs: np.ndarray) -> None:
        """Move the users' loyalty by how satisfying their sessions were."""
        rule = self.app.config.reaction
        heard = songs > 0
        surplus = satisfaction[heard] / songs[heard] - rule.expected
        np.add.at(self.loyalty, user[heard], rule.loyalty_step * surplus)


def best(slates: Slates, scores: np.ndarray, count: int) -> np.ndarray:
    """The candidates with the highest scores.

    Args:
        slates: the requests.
        scores: of their candidates, shape (R, C).
        count: items per slate.

    Returns:
        Items, best first, −1 where candidates run out, shape (R, count).
    """
    scores = np.where(slates.candidates >= 0, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    shown = np.full((len(scores), count), -1)
    shown[:, : order.shape[1]] = np.take_along_axis(slates.candidates, order, axis=1)
    return shown


def by_pairs(slates: Slates, score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Scores of slates, shape (R, C), from a function of the rows and items of ``Slates.pairs``."""
    scores = np.zeros(slates.candidates.shape)
    row, item = slates.pairs()
    scores[slates.candidates >= 0] = score(row, item)
    return scores


def first_policy(app: App) -> Rank:
    """The app's policy before there is a ranker: all-day taste and chance, regardless of the time of day."""

    def rank(slates: Slates) -> np.ndarray:
        def score(row: np.ndarray, item: np.ndarray) -> np.ndarray:
            user = slates.user[row]
            taste = sum(app.base[f][user, app.item_values[item, f]] for f in range(len(app.sizes)))
            noise = uniform(app.draws, PICK, 9, slates.day[row], user, slates.number[row], slates.slate, item)
            return taste - 0.7 * np.log(-np.log(noise))

        return by_pairs(slates, score)

    return rank


def perfect_policy(app: App) -> Rank:
    """Ranks by the true taste at the time of the request: no ranker can do better on a single slate."""

    def rank(slates: Slates) -> np.ndarray:
        def score(row: np.ndarray, item: np.ndarray) -> np.ndarray:
            scores = np.empty(len(row))
            for day in np.unique(slates.day):
                rows = np.flatnonzero(slates.day[row] == day)
                scores[rows] = app.taste(slates.user[row[rows]], item[rows], slates.local_hour[row[rows]], day=int(day))
            return scores

        return by_pairs(slates, score)

    return rank


def timeless_policy(app: App) -> Rank:
    """Ranks by the true taste averaged over the user's dayparts: perfect except for the time of day."""

    def rank(slates: Slates) -> np.ndarray:
        def score(row: np.ndarray, item: np.ndarray) -> np.ndarray:
            user, scores = slates.user[row], np.zeros(len(row))
            share = np.diff(app.habit, axis=1, prepend=0)
            for day in np.unique(slates.day):
                rows = np.flatnonzero(slates.day[row] == day)
                for part in range(share.shape[1]):
                    center = app.center[user[rows], part]
                    scores[rows] += share[user[rows], part] * app.taste(user[rows], item[rows], center, day=int(day))
            return scores

        return by_pairs(slates, score)

    return rank


def _no_impressions() -> Impressions:
    numbers, flags = np.empty(0), np.empty(0, dtype=bool)
    return Impressions(NOBODY, NOBODY, numbers, NOBODY, NOBODY, numbers, flags, flags, flags, flags, numbers)


def _subset(shown: Impressions, rows: np.ndarray) -> Impressions:
    return Impressions(*(getattr(shown, f.name)[rows] for f in fields(Impressions)))


def _joined(*parts: Impressions) -> Impressions:
    return Impressions(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Impressions)))


def _with_sessions(shown: Impressions, session: np.ndarray) -> Impressions:
    return Impressions(**{**{f.name: getattr(shown, f.name) for f in fields(Impressions)}, "session": session})
