"""``python -m operations``: secrets, first start, services, users, health, metrics, backups of the platform."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from pathlib import Path

from core import cli
from core.errors import ConfigError
from core.files import write_text
from core.settings import Settings


def main(arguments: argparse.Namespace) -> None:
    if arguments.command == "prepare":
        from operations.prepare import prepare

        made = prepare(arguments.folder, arguments.host)
        print(f"{arguments.folder}: " + (f"made {', '.join(made)}" if made else "everything is there"))
        return
    _COMMANDS[arguments.command](cli.settings_of(arguments.source), arguments)


def _init(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.init import initialize

    del arguments
    _production(settings)
    initialize(settings)


def _service(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.services import service

    found = service(settings, arguments.name)
    os.execve(found.command[0], found.command, {**os.environ, **found.environment})  # noqa: S606


def _healthy(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.health import check

    check(settings, arguments.name)


def _users(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations import users

    _production(settings)
    if arguments.action == "list":
        for name, role in users.list_users(settings):
            print(f"{name:<40} {role}")
    elif arguments.action == "remove":
        users.remove_user(settings, arguments.name)
        print(f"{arguments.name} is removed")
    else:
        password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        users.check_user(arguments.name, arguments.role, password)
        users.ensure_user(settings, arguments.name, arguments.role, password)
        print(f"{arguments.name} is {arguments.role}")


def _metrics(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.metrics import serve

    del arguments
    serve(settings)


def _doctor(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.doctor import examine, failed, table

    findings = examine(settings)
    print(json.dumps([f.as_json() for f in findings], indent=1) if arguments.json else table(findings))
    if failed(findings):
        raise ConfigError(f"{failed(findings)} of {len(findings)} checks failed")


def _backup(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.backup import back_up

    print(json.dumps(back_up(settings, arguments.folder)))


def _restore(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.backup import restore

    print(json.dumps(restore(settings, arguments.folder)))


def _migrate(settings: Settings, arguments: argparse.Namespace) -> None:
    from operations.migrations import migrate

    del arguments
    print(json.dumps({"steps": migrate(settings)}))


def _capacity(settings: Settings, arguments: argparse.Namespace) -> None:
    from dataclasses import fields

    from operations.capacity import Load, page, read_units

    units = read_units(arguments.results or settings.var / "bench" / "results.json")
    assumed = {f.name: getattr(arguments, f.name) for f in fields(Load) if f.name != "users"}
    text = page(units, [Load(users=users, **assumed) for users in arguments.users])
    if arguments.output:
        write_text(arguments.output, text)
        print(f"written to {arguments.output}")
    else:
        print(text)


_COMMANDS = {
    "init": _init, "service": _service, "healthy": _healthy, "users": _users, "metrics": _metrics, "doctor": _doctor, "backup": _backup,
    "restore": _restore, "migrate": _migrate, "capacity": _capacity,
}  # fmt: skip


def _production(settings: Settings) -> None:
    if not settings.in_production:
        raise ConfigError("this is for CLOCK_PROFILE=production; the embedded profile has no servers and no logins")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m operations", description=__doc__)
    top.add_argument("--source", help="the workspace; default: CLOCK_SOURCE, or simulator")
    commands = top.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="make what compose.yaml wants beside it: secrets, certificate, .env")
    prepare.add_argument("folder", type=Path)
    prepare.add_argument("--host", default="localhost", help="name that people will type (default %(default)s)")
    commands.add_parser("init", help="production: databases, bucket, tables, logins; may be repeated")
    service = commands.add_parser("service", help="become one of the platform's services")
    service.add_argument("name", help="mlflow, airflow-api-server, airflow-scheduler, …, serving, metrics")
    healthy = commands.add_parser("healthy", help="exit 0 if a service answers; for health checks")
    healthy.add_argument("name")
    users = commands.add_parser("users", help="production: people's logins in Airflow and MLflow")
    actions = users.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="everybody and their role")
    add = actions.add_parser("set", help="make a person, or change role and password; the password is asked or read")
    add.add_argument("name")
    add.add_argument("--role", required=True, help="viewer, analyst, operator or admin")
    actions.add_parser("remove", help="take a person's logins away").add_argument("name")
    commands.add_parser("metrics", help="answer Prometheus on CLOCK_METRICS_PORT until stopped")
    doctor = commands.add_parser("doctor", help="check everything the platform stands on, and say what to fix")
    doctor.add_argument("--json", action="store_true")
    backup = commands.add_parser("backup", help="a copy of all state in a new folder below FOLDER")
    backup.add_argument("folder", type=Path)
    restore = commands.add_parser("restore", help="put a backup back into an empty workspace")
    restore.add_argument("folder", type=Path)
    commands.add_parser("migrate", help="bring the workspace's state to this version of the platform")
    _capacity_parser(commands.add_parser("capacity", help="cores, memory and disk for a number of users, as Markdown"))
    return top


def _capacity_parser(capacity: argparse.ArgumentParser) -> None:
    from dataclasses import fields

    from operations.capacity import Load

    capacity.add_argument("--users", type=float, nargs="+", default=[1e6, 1e8, 1e9], help="default: 1e6 1e8 1e9")
    for field in fields(Load)[1:]:
        capacity.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help="default %(default)s",
        )
    capacity.add_argument("--results", type=Path, help="unit costs; default: var/bench/results.json")
    capacity.add_argument("--output", type=Path, help="file to write; default: standard output")


if __name__ == "__main__":
    cli.run(parser(), main)
