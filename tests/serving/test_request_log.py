"""The log of requests as it is read."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest

from core.hours import Hour
from core.settings import Settings
from feature_repo.served import write_part
from serving.request_log import REQUESTS, read_requests

HOUR = Hour.parse("2026-03-02T08")


@pytest.mark.parametrize("writers", [("a-000001", "b-000001"), ("b-000001", "a-000001")])
def test_of_a_request_that_was_sent_again_the_later_answer_counts_whichever_process_gave_it(
    settings: Settings, writers: tuple[str, str]
) -> None:
    for minute, part in enumerate(writers):
        row = {"request_id": "r", "at": HOUR.start + timedelta(minutes=minute), "version": str(minute)}
        write_part(settings, HOUR, "requests", pa.Table.from_pylist([row], schema=REQUESTS), part)
    assert read_requests(settings, HOUR)["version"].to_pylist() == ["1"]
