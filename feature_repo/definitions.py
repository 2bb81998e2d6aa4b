"""The feature repository's objects, as ``feast apply`` in this folder finds them: attributes of a module.

They are those of the workspace that ``feature_store.yaml`` beside this file names. The platform itself applies them to
every workspace when they change (``repository.open_store``); nobody has to.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from core.errors import ConfigError
from core.settings import load_settings
from events.store import EventStore
from feature_repo.repository import feature_objects

_FOLDER = Path(__file__).parent
_settings = load_settings()
_registry = yaml.safe_load((_FOLDER / "feature_store.yaml").read_text(encoding="utf-8"))["registry"]["path"]
if (_FOLDER / _registry).resolve() != (_settings.workspace / "feast" / "registry.db").resolve():
    raise ConfigError(
        f"feature_store.yaml is not that of {_settings.workspace}; "
        f"its own is {_settings.workspace / 'feast'}, and is applied whenever its definitions change"
    )
globals().update(
    {
        f"{definition.name}_{type(definition).__name__}".lower(): definition
        for definition in feature_objects(_settings, EventStore(_settings.events_dir))
    }
)
