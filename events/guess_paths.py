"""The line of a first mapping about files that are named for their hour or day."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from core.documents import one_line
from events.log_files import unpacked
from events.log_paths import KEY, LogPaths, names_every_hour

KEY_SIGN = "[A-Za-z_]+="
FOLDER_KEY = f"(?:{KEY_SIGN})?"
"""What a folder's name may begin with: ``dt=``, ``month=``."""
NAMED_TIME = re.compile(
    rf"(?<!\d)(?:19|20)\d\d(?P<month>[-_./]?{FOLDER_KEY})(?:0[1-9]|1[0-2])(?P<day>[-_./]?{FOLDER_KEY})(?:0[1-9]|[12]\d|3[01])"
    rf"(?:(?P<hour>[-_./T]?{FOLDER_KEY})(?:[01]\d|2[0-3])(?!\d))?(?!\d)"
)


def paths_line(names: Sequence[str], log: str) -> str | None:
    """The mapping's ``paths``, where a log's files are named for their hour or day.

    Args:
        names: paths or addresses of the log's files, and of what lies beside them.
        log: that of one which is of the log.

    Returns:
        The line, with what to check; None where fewer than two files of the log are named so.
    """
    pattern = _pattern(log, names)
    if pattern is None:
        return None
    named = "hour" if names_every_hour(pattern) else "day"
    path = json.dumps(pattern, ensure_ascii=False)
    (whole,) = LogPaths((pattern,)).all()
    left = [name for name in names if PurePath(name).suffix == PurePath(log).suffix and not fnmatchcase(name, whole)]
    example = one_line("/".join(PurePath(left[0]).parts[-2:])) if left else ""
    others = f"; {len(left)} other file(s) are not, such as {example}" if left else ""
    return f"paths: [{path}]  # check: an hour is read from the files that name its {named}; path_zone: ZONE if that is not UTC's{others}"


def _pattern(log: str, names: Sequence[str]) -> str | None:
    """The path of a log's files with a place for the time; None where they do not differ in one."""
    for place in NAMED_TIME.finditer(log):
        begin, form, end = _around(place)
        alike = [
            other
            for name in names
            for other in NAMED_TIME.finditer(name)
            if _around(other)[1] == form and _any_values(_around(other)[0]) == _any_values(begin)
        ]
        if len({other[0] for other in alike}) > 1:
            if any(_around(other)[0] != begin for other in alike):
                begin = _any_values(begin)
            if any(_around(other)[2] != end for other in alike):
                folder = end[: end.rfind("/") + 1]
                plain = unpacked(Path(log))
                end = f"{folder}*{plain.suffix}{Path(log).suffix if plain != Path(log) else ''}"
            return f"{begin}{'{hour}' if form == KEY else f'{{hour:{form}}}'}{end}"
    return None


def _any_values(path: str) -> str:
    """A path with any value in its folders of the form ``key=value``."""
    return re.sub(rf"(?<=/)({KEY_SIGN})[^/]*(?=/)", r"\1*", path)


def _around(place: re.Match[str]) -> tuple[str, str, str]:
    """What is before the time in a path, the time's form, and what is behind."""
    hour = f"{place['hour']}%H" if place["hour"] is not None else ""
    form = f"%Y{place['month']}%m{place['day']}%d{hour}"
    return place.string[: place.start()], form, place.string[place.end() :]
