"""What a log's columns suggest of what people did: flags, actions, ratings, the share played, and the items of a list."""

from __future__ import annotations

import json
import re

from core.duck import quoted
from events.column_words import (
    ACTION,
    BEHAVIOR_WORDS,
    CHOSEN,
    IMPRESSION,
    RATING,
    has_word,
    is_flag,
    is_list,
    list_entries,
    says_done,
)
from events.first_rows import EXAMPLES, NAME, Column, Sample
from events.mapping_text import expression, flow

LABEL = re.compile(r"-[01]$")
"""At the end of an item in a list: whether something was done with it."""


def list_behavior_lines(sample: Sample, listed: Column) -> list[str]:
    """The mapping's lines about what the list, or the columns beside it, say was done.

    Args:
        sample: first rows of the log.
        listed: column of the items that were shown together.

    Returns:
        No line where they say none of it.
    """
    if all(LABEL.search(entry.strip(" '\"")) for entry in list_entries(listed)):
        return ['  labels: {separator: "-", values: {finish: "1"}, shown: ["0"]}  # check: what the endings mean']
    words = {**BEHAVIOR_WORDS, "finish": (*BEHAVIOR_WORDS["finish"], *CHOSEN)}
    beside = {
        name: column.name for name, texts in words.items() for column in sample.columns
        if column is not listed and is_list(column) and has_word(column, texts)
    }  # fmt: skip
    return [f"  chosen: {flow(beside)}  # check: those of the list with which something was done"] if beside else []


def behavior_lines(sample: Sample, taken: list[Column], timed: bool) -> list[str]:
    """The mapping's lines about what people did: flags, actions, ratings, the share played; else that the row exists at all.

    Args:
        sample: first rows of the log.
        taken: columns that are something else; the columns that are used are added.
        timed: whether the log tells how long items are and were played.
    """
    rules = _flags(sample, taken)
    action = next((c for word in ACTION for c in sample.columns
                   if c not in taken and c.kind == "text" and c.distinct <= EXAMPLES and has_word(c, (word,))), None)  # fmt: skip
    note = ""
    if action is not None:
        matched = {
            behavior: [v for v in action.examples if set(NAME.findall(v.lower())) & {*words}]
            for behavior, words in BEHAVIOR_WORDS.items()
        }
        shown = [v for v in action.examples if set(NAME.findall(v.lower())) & IMPRESSION]
        if any(matched.values()):
            taken.append(action)
            if shown:
                return _actions(action, {name: values for name, values in matched.items() if values}, shown, rules)
            note = f"  # values of {action.name}: {', '.join(action.examples[:12])}"
            for behavior, values in matched.items():
                if values and behavior not in rules:
                    rules[behavior] = f"{expression(action)} IN ({', '.join(quoted(v) for v in values)})"
    rating = next((c for c in sample.columns if c not in taken and c.kind == "number" and has_word(c, RATING)), None)
    if rating is not None and rating.high is not None and "like" not in rules:
        high = rating.high
        rules["like"] = f"{expression(rating)} >= {high * 0.8:g}"
        rated = f"{expression(rating)} > 0 AND " if rating.low is not None and rating.low <= 0 else ""
        rules.setdefault("dislike", f"{rated}{expression(rating)} <= {high * 0.4:g}")
        taken.append(rating)
    if timed:
        rules.setdefault("finish", "played_seconds / duration_seconds >= 0.9")
        rules.setdefault("skip", "played_seconds < 5")
    lines = [f"behaviors:  # check: which rows count as what{note and ';' + note[3:]}"]
    if not rules:
        return [
            *lines,
            '  finish: "true"  # nothing says what people did: every row is taken as a positive',
            "negatives: {per_positive: 4, kind: popularity, seed: 7}  # drawn for training, as the log has positives only",
        ]
    return [*lines, *(f"  {name}: {json.dumps(rules[name])}" for name in BEHAVIOR_WORDS if name in rules)]


def _flags(sample: Sample, taken: list[Column]) -> dict[str, str]:
    """Behaviors that have their own column, with their rules; the columns are taken."""
    rules: dict[str, str] = {}
    for behavior, words in BEHAVIOR_WORDS.items():
        flag = next(
            (c for word in words for c in sample.columns
             if c not in taken and says_done(c, word) and is_flag(c)), None)  # fmt: skip
        if flag is not None:
            rules[behavior] = expression(flag)
            taken.append(flag)
    return rules


def _actions(action: Column, values: dict[str, list[str]], shown: list[str], rules: dict[str, str]) -> list[str]:
    """Rows that show an item, and rows that say later what was done with it."""
    flags = [f"  {name}: {json.dumps(rule)}" for name, rule in rules.items()]
    named = {*shown, *(text for texts in values.values() for text in texts)}
    unknown = [value for value in action.examples if value not in named]
    return [
        f"actions:  # check: which values of {json.dumps(action.name)} count as what; it holds {', '.join(action.examples[:12])}",
        f"  column: {json.dumps(action.name)}",
        *["  values:", *(f"    {name}: {json.dumps(texts)}" for name, texts in values.items())],
        *([f"  ignored: {json.dumps(unknown)}  # check: do they mean nothing?"] if unknown else []),
        "  window_minutes: 30  # an action without an event id belongs to the item's last impression so long before it",
        f"impressions: {{values: {json.dumps(shown)}}}",
        *(["behaviors:", *flags] if flags else []),
    ]
