"""The state of a workspace as digests, so that two can be compared: after a crash, a restore, a move to other machines."""

from __future__ import annotations

import hashlib
import json
import re

from core.settings import Settings
from feature_repo.behavior_state import last_behaviors

LEFT_OUT = re.compile(
    r"_receipts|\.changes|\.digests|\.lock|/versions/|\.tmp|features/latest/|-journal|/_(items|attributes)/\w+\.json"
)
"""Who wrote what when, what was read when, locks, downloaded models, rows collected from others, when a table of items or
attributes was last modified: none of it is state."""


def fingerprint(settings: Settings) -> dict[str, str]:
    """Digest of every file that holds state: events, clocks, samples, trained states, predictions, the gate's decisions.

    Names and contents say nothing of how many tries it took: the number of refreshes is left out.
    """
    digests = {}
    for root in (settings.events_dir, settings.features_dir, settings.training_dir):
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            name = str(path.relative_to(settings.workspace))
            if LEFT_OUT.search(name):
                continue
            if name == "features/recent/behaviors.db":
                content = repr(last_behaviors(path, settings.history_length)).encode()
            else:
                content = path.read_bytes()
            if name == "features/state.json":
                state = json.loads(content)
                content = json.dumps({"as_of": state["as_of"]}).encode()
            if name.startswith("features/sums/"):
                name = re.sub(r"-\d+/", "/", name)
            digests[name] = hashlib.sha256(content).hexdigest()
    return digests


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names that are in one only, or differ."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
