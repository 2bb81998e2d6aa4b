"""Links from tasks to the pages that they write, as buttons in the Airflow UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.providers.standard.decorators.branch_python import _BranchPythonDecoratedOperator
from airflow.providers.standard.decorators.python import _PythonDecoratedOperator
from airflow.sdk import BaseOperatorLink, get_current_context
from airflow.sdk.bases.decorator import task_decorator_factory

from core.settings import load_settings

_pages: dict[str, str] = {}
"""Task instance → address of its page, from the task's code to the end of its process."""


class PageLink(BaseOperatorLink):
    """The page that a task said it has written; Airflow asks for it in the task's process when the task is over."""

    name = "Page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the page; empty where the task has none."""
        del operator
        return _pages.get(str(ti_key.id), "")


class SparkLink(BaseOperatorLink):
    """The page of the Spark application whose driver the task's process was."""

    name = "Spark"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the page; empty where the task began no application."""
        del operator, ti_key
        from core.spark_session import application_page

        return application_page(load_settings())


def _spark_links() -> tuple[BaseOperatorLink, ...]:
    settings = load_settings()
    return (SparkLink(),) if settings.engine == "spark" and settings.spark_ui else ()


SPARK_LINKS = _spark_links()


class StepOperator(_PythonDecoratedOperator):
    """A task written as a function, with a link to its Spark application, if Spark has pages."""

    operator_extra_links = SPARK_LINKS


class _PageOperator(_PythonDecoratedOperator):
    """A task written as a function, with a link to its page."""

    operator_extra_links = (PageLink(), *SPARK_LINKS)


class _PageBranchOperator(_BranchPythonDecoratedOperator):
    """A branch written as a function, with a link to its page."""

    operator_extra_links = (PageLink(), *SPARK_LINKS)


def page_step(**arguments: Any) -> Any:
    """Decorator as ``dags.common.step``, of a task that calls ``link_page``."""
    return task_decorator_factory(multiple_outputs=False, decorated_operator_class=_PageOperator, **arguments)


def page_branch(**arguments: Any) -> Any:
    """Decorator as ``task.branch``, of a task that calls ``link_page``."""
    return task_decorator_factory(decorated_operator_class=_PageBranchOperator, **arguments)


def link_page(page: Path | str) -> None:
    """Let the running task's button ``Page`` lead to a report page.

    Args:
        page: path of the page.
    """
    _pages[str(get_current_context()["ti"].id)] = load_settings().page_url(Path(page))
