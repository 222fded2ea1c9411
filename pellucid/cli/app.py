"""The command `pellucid`: its commands in the order of `pellucid --help`, errors as messages, and exit codes."""

from __future__ import annotations

import errno
import signal
import sys
from typing import Annotated

import typer

from pellucid.cli import audit_commands, data_commands, study_commands, vector_commands
from pellucid.cli.options import for_logs

EXIT_CODES = "0 success, 2 user error (see message), 75 interrupted (rerun to resume), 1 internal error"

app = typer.Typer(
    name="pellucid",
    help="Pretrain a backbone on your own clinical images, embed them, and find out what the embeddings encode.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help takes half the time of a decorated one
    pretty_exceptions_enable=False,
    epilog="Start with `pellucid demo`, or with `pellucid init FOLDER` in a folder of your own images. "
    f"Exit codes: {EXIT_CODES}.",
)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("pellucid"))
        raise typer.Exit


for _command in (
    data_commands.demo,
    data_commands.init,
    data_commands.scan,
    data_commands.deidentify,
    vector_commands.pretrain,
    vector_commands.embed,
    vector_commands.search,
    vector_commands.near,
    vector_commands.cluster,
    audit_commands.probe,
    audit_commands.audit,
    vector_commands.take_out,
    study_commands.report,
    study_commands.explore,
    study_commands.run,
    vector_commands.export,
    study_commands.forget,
    study_commands.tidy,
    study_commands.status,
):
    app.command(_command.__name__.replace("_", "-"))(_command)


def main() -> None:
    """Run the command line; errors become messages and exit codes."""
    signal.signal(signal.SIGINT, _interrupted)
    try:
        app()
    except Exception as error:
        sys.exit(exit_code(error))


def _interrupted(number: int, frame: object) -> None:
    typer.echo("\ninterrupted: repeat the command to resume", err=True)
    raise SystemExit(130)


def exit_code(error: Exception) -> int:
    """Show the error as a message and return its exit code."""
    from pellucid.cohort.errors import Preempted, UserError

    if isinstance(error, UserError):
        typer.secho(for_logs(str(error)), fg="red", err=True)
        return 2
    if isinstance(error, Preempted):
        typer.echo(for_logs(str(error)), err=True)
        return 75
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        typer.secho("the disk is full: free some space, then repeat the command to resume", fg="red", err=True)
        return 2
    import traceback

    typer.echo(for_logs("".join(traceback.format_exception(error))), err=True, nl=False)
    typer.secho("internal error in Pellucid: please report it with the lines above", fg="red", err=True)
    return 1
