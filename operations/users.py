"""People: one name in Airflow (which also guards the reports) and in MLflow, with one of four roles.

| role | Airflow and reports | MLflow |
| --- | --- | --- |
| viewer | reads | reads |
| analyst | reads, also clocks of users; starts (or pauses) the DAGs that write reports; defines, changes experiments | reads |
| operator | starts, clears, pauses everything; approves promotions | edits: aliases, tags, runs |
| admin | everything | everything |
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from core.errors import ConfigError
from core.settings import Settings
from model_registry.store import SERVICE_USER
from operations.services import airflow_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

Role = Literal["viewer", "analyst", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
AIRFLOW_ROLES: dict[Role, str] = {"viewer": "Viewer", "analyst": "Analyst", "operator": "Op", "admin": "Admin"}
ANALYST_DAGS = ("report_day", "report_experiments", "define_experiment", "change_experiment")
MLFLOW_ROLE, MLFLOW_WORKSPACE = "operator", "default"
EDITED = ("experiment", "registered_model", "run", "logged_model", "registered_model_version")
NAME_PATTERN = r"^[a-z][a-z0-9._-]{1,39}$"
SHORTEST_PASSWORD = 12


def check_user(name: str, role: str, password: str) -> None:
    """``ConfigError`` says what is wrong with a new person's name, role or password."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"user name {name!r}: 2 to 40 of a-z, 0-9, dot, dash, underscore, a letter first")
    if role not in ROLES:
        raise ConfigError(f"role {role!r}: choose from {', '.join(ROLES)}")
    if len(password) < SHORTEST_PASSWORD:
        raise ConfigError(f"the password has {len(password)} characters; at least {SHORTEST_PASSWORD}")


def ensure_user(
    settings: Settings, name: str, role: Role, password: str, *, mlflow_password: str | None = None
) -> None:
    """Make a person or change role and password of one.

    Args:
        mlflow_password: another password at MLflow; None: the same.
    """
    check_user(name, role, password)
    with airflow_logins(settings) as logins:
        user, airflow_role = logins.find_user(username=name), logins.find_role(AIRFLOW_ROLES[role])
        if user is None:
            logins.add_user(name, name, role, f"{name}@localhost", airflow_role, password)
        else:
            user.roles = [airflow_role]
            logins.update_user(user)
            logins.reset_password(user.id, password)
    _mlflow_user(settings, name, mlflow_password or password, admin=role == "admin", edits=role == "operator")


def ensure_service_user(settings: Settings) -> None:
    """The platform's own login at MLflow: an operator there, not an administrator."""
    _mlflow_user(settings, SERVICE_USER, settings.secret("mlflow_service"), admin=False, edits=True)


def remove_user(settings: Settings, name: str) -> None:
    """Take a person's logins away.

    Raises:
        ConfigError: there is no such person, or it is the platform's own login.
    """
    if name == SERVICE_USER:
        raise ConfigError(f"{name} is the platform's own login")
    with airflow_logins(settings) as logins:
        user = logins.find_user(username=name)
        if user is None:
            raise ConfigError(f"there is no user {name!r}")
        logins.session.delete(user)
        logins.session.commit()
    store = mlflow_logins(settings)
    if store.has_user(name):
        store.delete_user(name)


def list_users(settings: Settings) -> list[tuple[str, str]]:
    """(name, role) of everybody, by name."""
    names = {value: key for key, value in AIRFLOW_ROLES.items()}
    with airflow_logins(settings) as logins:
        return sorted(
            (user.username, ",".join(sorted(names.get(r.name, r.name) for r in user.roles)))
            for user in logins.get_all_users()
        )


def ensure_roles(settings: Settings) -> None:
    """Airflow's roles of the provider, ours for analysts, and MLflow's for operators."""
    with airflow_logins(settings) as logins:
        from airflow.providers.fab.www.security.permissions import (
            ACTION_CAN_ACCESS_MENU,
            ACTION_CAN_CREATE,
            ACTION_CAN_EDIT,
            ACTION_CAN_READ,
            RESOURCE_DAG,
            RESOURCE_DAG_RUN,
            RESOURCE_HITL_DETAIL,
            resource_name,
        )

        from operations.clock_lookup import RESOURCE

        logins.sync_roles()
        may = [(p.action.name, p.resource.name) for p in logins.find_role(AIRFLOW_ROLES["viewer"]).permissions]
        for dag_id in ANALYST_DAGS:  # to start a run takes the right to create it and to edit its DAG
            may += [
                (ACTION_CAN_CREATE, resource_name(dag_id, RESOURCE_DAG_RUN)),
                (ACTION_CAN_EDIT, resource_name(dag_id, RESOURCE_DAG)),
            ]
        # to answer what a task asks takes the right to edit its DAG too, which analysts have of no other one
        may += [(ACTION_CAN_EDIT, RESOURCE_HITL_DETAIL), (ACTION_CAN_ACCESS_MENU, RESOURCE_HITL_DETAIL)]
        clocks = (ACTION_CAN_READ, RESOURCE)
        others = [{"role": AIRFLOW_ROLES[role], "perms": [clocks]} for role in ("operator", "admin")]
        logins.bulk_sync_roles([{"role": AIRFLOW_ROLES["analyst"], "perms": [*may, clocks]}, *others])


@contextmanager
def airflow_logins(settings: Settings) -> Iterator[Any]:
    """The security manager of Airflow's FAB auth manager. Airflow reads its environment once: one source a process."""
    os.environ.update(airflow_environment(settings))
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        yield builder.sm


def mlflow_logins(settings: Settings) -> Any:
    """MLflow's own store of logins, its tables up to date."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(settings.postgres_url("mlflow_auth"))
    return store


def _mlflow_user(settings: Settings, name: str, password: str, *, admin: bool, edits: bool) -> None:
    store = mlflow_logins(settings)
    if store.has_user(name):
        store.update_user(name, password=password, is_admin=admin)
    else:
        store.create_user(name, password, is_admin=admin)
    roles = {role.name: role for role in store.list_roles([MLFLOW_WORKSPACE])}
    if MLFLOW_ROLE not in roles:
        roles[MLFLOW_ROLE] = store.create_role(MLFLOW_ROLE, MLFLOW_WORKSPACE, "edits experiments and models")
        for kind in EDITED:
            store.add_role_permission(roles[MLFLOW_ROLE].id, kind, "*", "EDIT")
    user, role = store.get_user(name), roles[MLFLOW_ROLE]
    has = role.id in {r.id for r in store.list_user_roles(user.id)}
    if edits and not has:
        store.assign_role_to_user(user.id, role.id)
    elif has and not edits:
        store.unassign_role_from_user(user.id, role.id)
