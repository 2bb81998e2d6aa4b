"""What tests of studies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from core.settings import load_settings
from studies.lab import Lab
from studies.log import Log
from tests.conftest import TINY


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of one seed on the tiny app."""
    settings = load_settings(var=tmp_path_factory.mktemp("lab") / "var", source="simulator")
    lab = Lab(settings, seeds=1)
    workspace = Log(lab.root / "data", "simulator").settings.workspace
    workspace.mkdir(parents=True)
    (workspace / "app.yaml").write_text(yaml.safe_dump(TINY.model_dump(mode="json")))
    yield lab
    lab.processes.shutdown()
