"""Models from MLflow's registry, kept in memory; one that cannot be loaded never replaces one that is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from core.errors import NotReadyError, PlatformError
from core.files import read_json, write_json
from core.settings import Settings
from model_registry.registry import CANDIDATE, CHALLENGER, CHAMPION, Registry
from model_registry.store import download_version, open_registry
from training.config import label_of
from training.model import RankerModel, input_example, load_model

log = logging.getLogger("serving.models")

ALIASES = (CHAMPION, CHALLENGER, CANDIDATE)
VERSION = "version:"


@dataclass(frozen=True)
class LoadedModel:
    """A registered version in memory. ``head`` is the index of the behavior that it ranks by."""

    version: str
    variant: str
    hour: str
    folder: Path
    model: RankerModel
    head: int


class Models:
    """Models by name: ``champion``, ``challenger``, ``candidate``, a ranker's variant (its newest version), or ``version:N``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.record = settings.workspace / "serving" / "models.json"
        self.problems: dict[str, str] = {}
        self._loaded: dict[str, LoadedModel] = {}
        self._names: dict[str, str] = {}

    def get(self, name: str) -> LoadedModel | None:
        version = self._names.get(name)
        return self._loaded.get(version) if version else None

    @property
    def names(self) -> dict[str, str]:
        """Name → version of every loaded model."""
        return dict(self._names)

    def refresh(self, names: set[str]) -> list[str]:
        """Look up the current version of each name, and load new versions.

        Failures are kept in ``problems``; their names keep the previous version.

        Args:
            names: all names that may be asked for.

        Returns:
            Names whose version changed.
        """
        problems: dict[str, str] = {}
        names_now, loaded = dict(self._names), dict(self._loaded)
        try:
            registry = open_registry(self.settings)
        except Exception as error:  # without MLflow the loaded models keep ranking
            problems["mlflow"] = _reason(error)
            registry = None
        for name in sorted(names):
            try:
                version = self._resolve(registry, name) if registry else None
                if version is None and registry:
                    problems[name] = f"no version is {name} yet"
                    if name == CHAMPION:
                        names_now.pop(name, None)
                elif version is not None:
                    if version not in loaded:
                        loaded[version] = self._load(version)
                    names_now[name] = version
                elif name not in names_now:
                    remembered = self._remembered(name)
                    loaded[remembered.version], names_now[name] = remembered, remembered.version
            except Exception as error:  # a broken version or store: the previous version keeps ranking
                problems[name] = _reason(error)
                log.warning("model %s: %s", name, error)
        names_now = {name: version for name, version in names_now.items() if name in names}
        changed = [name for name in names_now if names_now[name] != self._names.get(name)]
        self._loaded = {version: loaded[version] for version in set(names_now.values())}
        self._names, self.problems = names_now, problems
        if changed:
            write_json(
                self.record,
                {n: {"version": v, "folder": str(self._loaded[v].folder)} for n, v in sorted(names_now.items())},
            )
            log.info("serving %s", ", ".join(f"{n} version {names_now[n]}" for n in changed))
        return changed

    def _resolve(self, registry: Registry, name: str) -> str | None:
        if name.startswith(VERSION):
            return name.removeprefix(VERSION)
        if name not in ALIASES:
            return registry.newest(name)
        registered = registry.get(name)
        return str(registered.version) if registered else None

    def _load(self, version: str, folder: Path | None = None) -> LoadedModel:
        """Load a version and let it score its own input example before it ranks for anybody."""
        folder = folder or download_version(self.settings, version)
        model = load_model(folder)
        scores = model.predict(input_example(model.info)).to_numpy()
        if not ((scores >= 0) & (scores <= 1)).all():
            raise NotReadyError(f"version {version} gives no probabilities")
        model.ranker.eval()
        info = model.info
        return LoadedModel(version, info.variant, info.hour, folder, model, info.heads.index(label_of(info.heads)))

    def _remembered(self, name: str) -> LoadedModel:
        """The version that a server of this workspace last used for a name, from its local copy."""
        recorded = read_json(self.record) if self.record.exists() else {}
        if name not in recorded:
            raise NotReadyError(f"MLflow is away and no {name} was served here before")
        return self._load(recorded[name]["version"], Path(recorded[name]["folder"]))


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, PlatformError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0][:300]
