"""Models from MLflow's registry, kept in memory; one that cannot be loaded never replaces one that is.

Where the lane has trained a version on within the running hour (``training.running``), its parameters rank in the place of the
registered ones, under a name of their own, until the hour is over, the version no longer serves, or the lane takes them back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import NotReadyError, PlatformError
from core.files import read_json, write_json
from core.hours import Hour
from core.settings import Settings
from model_registry.registry import CHAMPION
from model_registry.store import download_version, open_registry
from training.config import label_of
from training.model import RankerModel, input_example, load_model
from training.running import PublishedParameters, RunningParameters

log = logging.getLogger("serving.models")


@dataclass(frozen=True)
class LoadedModel:
    """A version in memory.

    Attributes:
        version: registered version, or the name of the lane's parameters of one.
        variant: time module.
        hour: last one that it was trained on.
        folder: of the registered version's state.
        model: what scores.
        head: index of the behavior that it ranks by.
        registered: the registered version that the lane's parameters are based on; None: this is one.
        lane: the lane's parameters; None: these are the registered ones.
    """

    version: str
    variant: str
    hour: str
    folder: Path
    model: RankerModel
    head: int
    registered: LoadedModel | None = None
    lane: RunningParameters | None = None


class Models:
    """Models by name: ``champion``, ``challenger``, ``candidate``, a ranker's variant (its newest version), or ``version:N``.

    Args:
        settings: name the workspace.
        recorded: note which versions serve, for times when MLflow is away, and for the lane; False: nobody is served.
    """

    def __init__(self, settings: Settings, *, recorded: bool = True) -> None:
        self.settings, self.recorded = settings, recorded
        self.record = record_file(settings)
        self.problems: dict[str, str] = {}
        self._loaded: dict[str, LoadedModel] = {}
        self._running: dict[str, LoadedModel] = {}
        self._names: dict[str, str] = {}

    def get(self, name: str) -> LoadedModel | None:
        version = self._names.get(name)
        return (self._running.get(version) or self._loaded.get(version)) if version else None

    @property
    def names(self) -> dict[str, str]:
        """Name → registered version of every loaded model."""
        return dict(self._names)

    def refresh(self, names: set[str], running: Hour | None = None) -> list[str]:
        """Look up the current version of each name, and load new versions.

        Failures are kept in ``problems``; their names keep the previous version.

        Args:
            names: all names that may be asked for.
            running: hour at whose start the features hold: what the lane trained within it ranks; None: registered versions do.

        Returns:
            Names whose registered version changed.
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
                version = registry.resolve(name) if registry else None
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
        self._running = self._trained_by_the_lane(running, problems) if running else {}
        names_before, self._names, self.problems = self._names, names_now, problems
        if names_now != names_before and self.recorded:  # also where a name is gone: the lane trains what is noted
            write_json(
                self.record,
                {n: {"version": v, "folder": str(self._loaded[v].folder)} for n, v in sorted(names_now.items())},
            )
            serving = ", ".join(f"{name} version {version}" for name, version in sorted(names_now.items()))
            log.info("serving %s", serving or "no model")
        return changed

    def _trained_by_the_lane(self, hour: Hour, problems: dict[str, str]) -> dict[str, LoadedModel]:
        """Of the versions in memory those that the lane has trained on within an hour."""
        store, running = PublishedParameters(self.settings), {}
        try:
            published = store.read(hour)
        except (PlatformError, KeyError, TypeError) as error:
            problems["lane"] = _reason(error)
            return {}
        for version, parameters in published.items():
            registered, last = self._loaded.get(version), self._running.get(version)
            if registered is None:
                continue
            if last is not None and last.lane == parameters and last.registered is registered:
                running[version] = last
                continue
            try:
                model = store.load(parameters, registered.model)
                running[version] = replace(
                    registered,
                    version=parameters.name,
                    hour=model.info.hour,
                    model=model,
                    registered=registered,
                    lane=parameters,
                )
                _check_scores(running[version])
            except Exception as error:  # the registered version ranks
                running.pop(version, None)
                problems[f"lane, version {version}"] = _reason(error)
                log.warning("the lane's parameters of version %s: %s", version, error)
        return running

    def _load(self, version: str, folder: Path | None = None) -> LoadedModel:
        """Load a version and let it score its own input example before it ranks for anybody."""
        folder = folder or download_version(self.settings, version)
        model = load_model(folder)
        info = model.info
        loaded = LoadedModel(version, info.variant, info.hour, folder, model, info.heads.index(label_of(info.heads)))
        _check_scores(loaded)
        return loaded

    def _remembered(self, name: str) -> LoadedModel:
        """The version that a server of this workspace last used for a name, from its local copy."""
        recorded = read_json(self.record) if self.record.exists() else {}
        if name not in recorded:
            raise NotReadyError(f"MLflow is away and no {name} was served here before")
        return self._load(recorded[name]["version"], Path(recorded[name]["folder"]))


def record_file(settings: Settings) -> Path:
    """Where a workspace's server notes which versions serve."""
    return settings.workspace / "serving" / "models.json"


def served_versions(settings: Settings) -> dict[str, Path]:
    """The registered versions that a workspace's server ranks by, each with the folder of its state; none before one was started."""
    path = record_file(settings)
    recorded = read_json(path) if path.exists() else {}
    return {each["version"]: Path(each["folder"]) for _, each in sorted(recorded.items())}


def _check_scores(loaded: LoadedModel) -> None:
    """Let a model score its own input example; ``NotReadyError`` if it gives no probabilities."""
    scores = loaded.model.predict(input_example(loaded.model.info)).to_numpy()
    if not ((scores >= 0) & (scores <= 1)).all():
        raise NotReadyError(f"version {loaded.version} gives no probabilities")
    loaded.model.ranker.eval()


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, PlatformError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0][:300]
