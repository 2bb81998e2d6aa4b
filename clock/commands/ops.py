"""``clock ops``: secrets, first start, services, users, health, metrics, backups of the platform."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core import cli
from core.errors import ConfigError

if TYPE_CHECKING:
    from core.settings import Settings

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder.")]

app = cli.App(
    shared_source=True,
    help="Operate the platform: secrets, first start, services, people, health, backups.",
    epilog="Example: clock ops doctor",
)
users = cli.App(
    shared_source=True,
    help="Production: people's logins in Airflow and MLflow.",
    epilog="Example: clock ops users set ada --role analyst",
)


def _production(source: str | None) -> Settings:
    settings = cli.settings_of(source)
    if not settings.in_production:
        raise ConfigError("this is for CLOCK_PROFILE=production; the embedded profile has no servers and no logins")
    return settings


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of compose.yaml.")],
    host: Annotated[str, typer.Option("--host", metavar="NAME", help="Name that people will type.")] = "localhost",
    source: cli.SourceOption = None,
) -> None:
    """Create what compose.yaml needs beside it: secrets, certificate, .env."""
    from operations.prepare import prepare as prepare_folder

    del source
    made = prepare_folder(folder, host)
    print(f"{folder}: " + (f"made {', '.join(made)}" if made else "everything exists already"))


@app.command()
def init(source: cli.SourceOption = None) -> None:
    """Production: databases, bucket, tables, logins; may be repeated."""
    from operations.init import initialize

    initialize(_production(source))


@app.command()
def service(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="mlflow, airflow-api-server, airflow-scheduler, …, serving, metrics."),
    ],
    source: cli.SourceOption = None,
) -> None:
    """Run as one of the platform's services."""
    from operations.services import service as service_of

    chosen = service_of(cli.settings_of(source), name)
    os.execve(chosen.command[0], chosen.command, {**os.environ, **chosen.environment})  # noqa: S606


@app.command()
def healthy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the service.")], source: cli.SourceOption = None
) -> None:
    """Exit with 0 if a service answers; for health checks."""
    from operations.health import check

    check(cli.settings_of(source), name)


@users.command("list")
def list_users(source: cli.SourceOption = None) -> None:
    """List all users and their roles."""
    from operations import users as logins

    for name, role in logins.list_users(_production(source)):
        print(f"{name:<40} {role}")


@users.command("set")
def set_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Login of the person.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="viewer, analyst, operator or admin.")],
    source: cli.SourceOption = None,
) -> None:
    """Create a user, or change role and password; the password is prompted for or read from standard input."""
    import getpass

    from operations import users as logins

    settings = _production(source)
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    logins.check_user(name, role, password)
    logins.ensure_user(settings, name, role, password)  # type: ignore[arg-type] # checked above
    print(f"{name} is {role}")


@users.command("remove")
def remove_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Login of the person.")], source: cli.SourceOption = None
) -> None:
    """Remove a user's logins."""
    from operations import users as logins

    logins.remove_user(_production(source), name)
    print(f"{name} is removed")


app.add_typer(users, name="users")


@app.command()
def metrics(source: cli.SourceOption = None) -> None:
    """Answer Prometheus on CLOCK_METRICS_PORT until stopped."""
    from operations.metrics import serve

    serve(cli.settings_of(source))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    source: cli.SourceOption = None,
) -> None:
    """Check everything that the platform needs, and say what to fix."""
    from operations.doctor import examine, failed, table

    findings = examine(cli.settings_of(source))
    print(json.dumps([f.as_json() for f in findings], indent=1) if as_json else table(findings))
    if failed(findings):
        raise ConfigError(f"{failed(findings)} of {len(findings)} checks failed")


@app.command()
def backup(folder: Folder, source: cli.SourceOption = None) -> None:
    """Copy all state to a new folder below FOLDER."""
    from operations.backup import back_up

    print(json.dumps(asdict(back_up(cli.settings_of(source), folder))))


@app.command()
def restore(folder: Folder, source: cli.SourceOption = None) -> None:
    """Restore a backup into an empty workspace."""
    from operations.backup import restore as restore_backup

    print(json.dumps(asdict(restore_backup(cli.settings_of(source), folder))))


@app.command()
def migrate(source: cli.SourceOption = None) -> None:
    """Migrate the workspace's state to this version of the platform."""
    from operations.migrations import migrate as migrate_state

    print(json.dumps({"steps": migrate_state(cli.settings_of(source))}))


@app.command()
def capacity(
    users: Annotated[
        list[float] | None,
        typer.Option("--users", metavar="USERS...", help="Numbers of users, one or more. Default: 1e6 1e8 1e9."),
    ] = None,
    active_share: Annotated[float | None, typer.Option(help="Share of users active on a day. Default: 0.3.")] = None,
    events_a_day: Annotated[float | None, typer.Option(help="Events per active user and day. Default: 60.")] = None,
    requests_a_day: Annotated[float | None, typer.Option(help="Rankings per active user and day. Default: 20.")] = None,
    items: Annotated[float | None, typer.Option(help="Items in the catalog. Default: 1e6.")] = None,
    peak: Annotated[float | None, typer.Option(help="Busiest hour over the mean hour. Default: 2.")] = None,
    utilization: Annotated[float | None, typer.Option(help="How busy machines may be. Default: 0.5.")] = None,
    variants: Annotated[int | None, typer.Option(help="Rankers that are trained side by side. Default: 6.")] = None,
    experiments: Annotated[int | None, typer.Option(help="Experiments that run at a time. Default: 10.")] = None,
    kept_days: Annotated[int | None, typer.Option(help="Days that are kept. Default: 180.")] = None,
    machine_cores: Annotated[int | None, typer.Option(help="Cores of a machine. Default: 32.")] = None,
    machine_memory_gb: Annotated[float | None, typer.Option(help="Memory of a machine, GB. Default: 128.")] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Unit costs. Default: var/bench/results.json.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write. Default: standard output.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Cores, memory and disk for a number of users, as Markdown."""
    from core.files import check_output, write_output
    from operations.capacity import Load, page, read_units

    settings = cli.settings_of(source)
    assumed: dict[str, Any] = {
        "active_share": active_share, "events_a_day": events_a_day, "requests_a_day": requests_a_day, "items": items, "peak": peak,
        "utilization": utilization, "variants": variants, "experiments": experiments, "kept_days": kept_days,
        "machine_cores": machine_cores, "machine_memory_gb": machine_memory_gb,
    }  # fmt: skip
    changes = {name: value for name, value in assumed.items() if value is not None}
    loads = [replace(Load(users=count), **changes) for count in users or (1e6, 1e8, 1e9)]
    measured = results or settings.var / "bench" / "results.json"
    if output:
        check_output(output, measured)
    units = read_units(measured)
    text = page(units, loads)
    if output:
        write_output(output, text)
        print(f"written to {output}")
    else:
        print(text)
