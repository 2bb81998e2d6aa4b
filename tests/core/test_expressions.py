"""Expressions of mappings and experiments: what is refused when the file is read, and what a log may need."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from core.expressions import LONGEST_EXPRESSION, parse_expression


@pytest.mark.parametrize(
    "text",
    [
        "len(range(1000000000)) > 0",
        "len(generate_series(1, 1000000000)) > 0",
        "[x for x in range(1000000000)][1] = 1",
        "length(repeat('a', 1000000000)) > 0",
        "length(lpad(genre, 1000000000, 'a')) > 0",
        "length(format('{:1000000000}', 1)) > 0",
        "length(printf('%1000000000d', 1)) > 0",
        "list_resize([1], 1000000000)[1] = 1",
        "bar(played_seconds, 0, 1, 1000000000) = ''",
        f"length({'hex(' * 30}genre{')' * 30}) > 0",
        f"length({'replace(' * 6}genre{', chr(97), genre)' * 6}) > 0",
        "(SELECT true)",
        "EXISTS(SELECT 1)",
        "(WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t) > 1",
        "unnest([true])",
        "COLUMNS('p.*') > 1",
        "COLUMNS(*)",
        "#1 = 'rock'",
        "count(*) > 1",
        "row_number() OVER () = 1",
        "random() > 0.5",
        "now() > TIMESTAMP '2020-01-01'",
        "localtimestamp > TIMESTAMP '2020-01-01'",
        "current_localtimestamp() IS NULL",
        "localtime IS NULL",
        "age(CAST(at AS TIMESTAMP)) > INTERVAL 1 DAY",
        "getenv('HOME') = 'x'",
        "length(read_text('/etc/passwd')) > 1",
        "sleep_ms(100000) IS NULL",
        "no_such_function(genre)",
        "'a' || " * LONGEST_EXPRESSION + "'a'",
        "(" * 2000 + "1" + ")" * 2000,
    ],
)
def test_what_the_row_does_not_bound_is_refused_by_name_before_anything_runs(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^finish: ") as error:
        parse_expression(text, "finish")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "played_seconds / duration_seconds >= 0.9",
        '"rating:float" >= 4',
        "replace(replace(price, ',', ''), '$', '')",
        "regexp_replace(name, '[0-9]+', '')",
        "lpad(code, 5, '0')",
        "strip_accents(genre) = 'rock'",
        "list_contains(['a', 'b'], genre)",
        "contains(genre, 'r')",
        "date_part('hour', at) < 12",
        "strptime(day, '%Y-%m-%d')",
        "age(seen, born) > INTERVAL 1 DAY",
        "json_extract(extra, '$.liked') = 1",
        "CASE WHEN rating IN (4, 5) THEN true ELSE false END",
    ],
)
def test_what_logs_need_is_read(text: str) -> None:
    assert parse_expression(text, "finish").sql(dialect="duckdb")
