"""What names of columns and the look of their cells suggest: words that logs use for users, items, times and behaviors."""

from __future__ import annotations

import re

from events.first_rows import Column, Sample

USER = (
    "user",
    "uid",
    "userid",
    "username",
    "member",
    "customer",
    "listener",
    "visitor",
    "person",
    "profile",
    "account",
    "session",
)
ITEM = (
    "item", "iid", "itemid", "track", "song", "video", "movie", "product", "article", "news", "venue", "content", "asin", "sku", "book",
    "recipe", "business", "restaurant", "title", "artist",
)  # fmt: skip
MOMENT = ("timestamp", "ts", "time", "datetime", "date", "created", "at", "when", "played")
CLOCKS = ("timestamp", "ts", "time", "datetime")
"""Words of columns that hold moments and nothing else, also where numbers do not count from 1970."""
PLAYED = ("played", "play", "listened", "watched", "watch", "dwell", "elapsed", "stay")
LENGTH = ("duration", "length", "total")
NO_LENGTH = ("ratio", "share", "pct", "percent", "percentage", "rate", "count", "number", "price", "cost", "session")
"""Words of columns with numbers that are no length of time of an item."""
FACET = (
    "genre", "mood", "language", "lang", "category", "tag", "type", "group", "style", "topic", "brand", "class", "kind", "section",
    "cuisine", "channel", "department",
)  # fmt: skip
TITLE = ("title", "name", "headline")
CONTEXT = (
    "tab", "page", "screen", "surface", "placement", "device", "platform", "os", "network", "carrier", "connection", "browser",
    "client", "app", "version", "referrer", "referer", "country", "region", "city", "weather",
)  # fmt: skip
"""Words of columns that tell the circumstances of an impression."""
IMPRESSION = frozenset({"view", "impression", "show", "shown", "display", "expose", "exposure", "seen", "pv"})
"""Words of values that say that an item was shown."""
ACTION = ("action", "event", "behavior", "behaviour", "interaction", "activity", "verb", "type", "feedback")
LISTED = (
    "impressions", "impression", "inview", "shown", "slate", "candidates", "displayed", "results", "recommendations", "items",
)  # fmt: skip
"""Words of columns that hold what was shown together."""
CHOSEN = ("clicked", "clicks", "click", "chosen", "selected")
"""Words of columns that hold what of a list was chosen, besides those of behaviors."""
SEPARATORS = ("|", ",", ";", " ")
LIST_TEXT = re.compile(r"\[.*\]", re.DOTALL)
POSITION = ("position", "pos", "rank", "ranking")
REQUEST = ("request", "req", "slate", "search", "query", "impression", "pageview")
RATING = ("rating", "stars", "score")
BEHAVIOR_WORDS = {
    "finish": (
        "finish",
        "finished",
        "complete",
        "completed",
        "listened",
        "watched",
        "purchase",
        "buy",
        "bought",
        "order",
        "transaction",
        "checkout",
        "long_view",
        "play",
    ),
    "like": (
        "like",
        "liked",
        "love",
        "loved",
        "favorite",
        "fav",
        "bookmark",
        "thumbs_up",
        "upvote",
        "save",
        "cart",
        "addtocart",
        "wishlist",
    ),
    "skip": ("skip", "skipped", "next", "close"),
    "dislike": ("dislike", "disliked", "hate", "thumbs_down", "downvote", "ban", "block", "report"),
    "share": ("share", "shared", "forward", "recommend"),
}
BESIDE_BEHAVIOR = {
    *USER, *ITEM, *(word for words in BEHAVIOR_WORDS.values() for word in words),
    "is", "was", "has", "did", "been", "flag", "label", "add", "added", "to", "by",
}  # fmt: skip
"""Words that stand beside a behavior's in the name of a column that says that it was done; others make it something else."""
ZONES = ("tz", "timezone", "zone")


def has_word(column: Column, words: tuple[str, ...]) -> bool:
    """Whether one of ``words`` is a part of the column's name, or all of it but for ``id`` or ``s`` at its end."""
    joined = "".join(column.words)
    return any(word in column.words or joined in {word, f"{word}id", f"{word}s"} for word in words)


def says_done(column: Column, behavior: str) -> bool:
    """Whether a column's name says that a behavior was done, and nothing else of it.

    ``is_liked`` and ``song_liked`` do; ``verified_purchase`` tells of a review, ``page_order`` of a page, ``not_skipped`` the reverse.
    """
    wanted, words = {*behavior.split("_")}, {word for word in column.words if not word.isdigit()}
    return wanted <= words and words - wanted <= BESIDE_BEHAVIOR


def by_name(sample: Sample, words: tuple[str, ...], exclude: list[Column]) -> Column | None:
    """The column whose name begins or ends with the earliest of ``words``, else holds it; an id before its companion text."""
    candidates = [
        (_is_amid(word, c), words.index(word), "id" not in c.words and "key" not in c.words, position, c)
        for position, c in enumerate(sample.columns)
        for word in words
        if c not in exclude and c.kind != "moment" and c.share_filled > 0 and has_word(c, (word,))
    ]
    return min(candidates)[4] if candidates else None


def _is_amid(word: str, column: Column) -> bool:
    """Whether a word stands amid a name, as of what it is told about: ``hist_user_behavior``."""
    head = [each for each in column.words if each not in {"id", "key"}]
    return word in head[1:-1]


def is_list(column: Column) -> bool:
    """Whether most cells hold several texts: a list, or a text with separators and a name that says so."""
    cells = column.examples
    if column.kind != "text" or not cells:
        return False
    lists = sum(bool(LIST_TEXT.fullmatch(cell)) for cell in cells)
    return 2 * lists > len(cells) or (has_word(column, LISTED) and _separator(cells) is not None)


def _separator(cells: tuple[str, ...]) -> str | None:
    """What stands between the items of most lists."""
    return next((mark for mark in SEPARATORS if 2 * sum(mark in cell for cell in cells) > len(cells)), None)


def separator_of(listed: Column) -> str | None:
    """What stands between the items of a column of lists; None where the cells are lists by themselves."""
    return None if LIST_TEXT.fullmatch(listed.examples[0]) else _separator(listed.examples)


def list_entries(listed: Column) -> list[str]:
    """What stands between the separators of a column of lists."""
    mark = separator_of(listed) or ","
    return [entry for cell in listed.examples for entry in cell.strip("[]").split(mark)]


def is_flag(column: Column) -> bool:
    """Whether the column says yes or no."""
    words = {"0", "1", "0.0", "1.0", "true", "false", "t", "f", "yes", "no", "y", "n"}
    return column.kind == "boolean" or (column.distinct <= 2 and {v.lower() for v in column.examples} <= words)
