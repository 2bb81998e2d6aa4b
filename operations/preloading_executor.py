"""Airflow's LocalExecutor, whose task processes find the modules of the hourly steps imported."""

from __future__ import annotations

import importlib

from airflow.executors.local_executor import LocalExecutor


class PreloadingLocalExecutor(LocalExecutor):
    """Tasks are forked from workers that are forked from the scheduler: it imports what they need, once.

    With another start method than fork nothing would be inherited, so nothing is imported.
    """

    def start(self) -> None:
        """Import the steps' modules, then start the workers."""
        if self.is_mp_using_fork:
            importlib.import_module("operations.preload")
        super().start()
