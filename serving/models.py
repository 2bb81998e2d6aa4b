"""Models that rank, from MLflow's registry, kept in memory; one that cannot be loaded never replaces one that can."""

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
    """A registered version in memory. ``head`` is the place of the behavior that it ranks by."""

    version: str
    variant: str
    hour: str
    folder: Path
    model: RankerModel
    head: int


class Models:
    """The models behind names: ``champion``, ``challenger``, ``candidate``, a ranker's variant (its newest version), ``version:N``."""

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
        """Name → version of every model that can be used."""
        return dict(self._names)

    def refresh(self, names: set[str]) -> list[str]:
        """Look up who is behind the names now, and load what is new.

        What fails is kept in ``problems``; its name stays with the version before.

        Returns:
            Names that changed their version.
        """
        problems: dict[str, str] = {}
        now, loaded = dict(self._names), dict(self._loaded)
        try:
            registry = open_registry(self.settings)
        except Exception as error:  # MLflow away: what is loaded keeps ranking
            problems["mlflow"] = _reason(error)
            registry = None
        for name in sorted(names):
            try:
                version = self._resolve(registry, name) if registry else None
                if version is None and registry:
                    problems[name] = f"no version is {name} yet"
                    if name == CHAMPION:
                        now.pop(name, None)
                elif version is not None:
                    if version not in loaded:
                        loaded[version] = self._load(version)
                    now[name] = version
                elif name not in now:
                    found = self._remembered(name)
                    loaded[found.version], now[name] = found, found.version
            except Exception as error:  # a broken version or store: the one before keeps ranking
                problems[name] = _reason(error)
                log.warning("model %s: %s", name, error)
        now = {name: version for name, version in now.items() if name in names}
        changed = [name for name in now if now[name] != self._names.get(name)]
        self._loaded = {version: loaded[version] for version in set(now.values())}
        self._names, self.problems = now, problems
        if changed:
            write_json(
                self.record, {n: {"version": v, "folder": str(self._loaded[v].folder)} for n, v in sorted(now.items())}
            )
            log.info("serving %s", ", ".join(f"{n} version {now[n]}" for n in changed))
        return changed

    def _resolve(self, registry: Registry, name: str) -> str | None:
        if name.startswith(VERSION):
            return name.removeprefix(VERSION)
        if name not in ALIASES:
            return registry.newest(name)
        found = registry.get(name)
        return str(found.version) if found else None

    def _load(self, version: str, folder: Path | None = None) -> LoadedModel:
        """Load and try a version; it scores its own input example before it scores anybody."""
        folder = folder or download_version(self.settings, version)
        model = load_model(folder)
        scores = model.predict(input_example(model.info)).to_numpy()
        if not ((scores >= 0) & (scores <= 1)).all():
            raise NotReadyError(f"version {version} gives no probabilities")
        model.ranker.eval()
        info = model.info
        return LoadedModel(version, info.variant, info.hour, folder, model, info.heads.index(label_of(info.heads)))

    def _remembered(self, name: str) -> LoadedModel:
        """The version that a server of this workspace last used under a name, from its local copy."""
        known = read_json(self.record) if self.record.exists() else {}
        if name not in known:
            raise NotReadyError(f"MLflow is away and no {name} was served here before")
        return self._load(known[name]["version"], Path(known[name]["folder"]))


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, PlatformError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0][:300]
