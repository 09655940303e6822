"""All commands together, and the one place where an error becomes a message and an exit status."""

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from localsgd.cli import compare, convex, data, report, train, tune
from localsgd.cli.ending import end_together
from localsgd.cli.launch import read_launch
from localsgd.errors import ArgumentError, LocalSGDError, SyncError

__all__ = ["run"]

_USAGE = 2
_FAILURE = 1

_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train PyTorch models on many workers that talk rarely: local, post-local and hierarchical SGD.",
    epilog="The same commands run on many processes: torchrun --nproc-per-node 2 -m localsgd train RECIPE ...",
)
_app.add_typer(train.app)
_app.add_typer(compare.app)
_app.add_typer(tune.app)
_app.add_typer(report.app)
_app.add_typer(convex.app)
_app.add_typer(data.app, name="data")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Errors raised on purpose become one message on stderr; anything else is a bug and keeps its traceback.

    Args:
        arguments: What follows the program's name; ``None`` for the arguments of the process.

    Returns:
        The exit status: 0 done, 1 it did not work, 2 it was asked for wrongly, 130 or 143 interrupted.

    Example:
        >>> run(["data", "verify", "digits"])
        digits is embedded: there are no files to check.
        0
    """
    given = tuple(sys.argv[1:] if arguments is None else arguments)
    try:
        # A command has already said all there is to say when it ends with a status of its own.
        status = _app(given, prog_name="localsgd", standalone_mode=False, obj={"arguments": given})
    except (LocalSGDError, typer.TyperException) as error:
        return _fail(error)
    return int(status or 0)


def _fail(error: LocalSGDError | typer.TyperException) -> int:
    if isinstance(error, typer.TyperException):
        message, status = _complain(error), error.exit_code
    else:
        message, status = f"error: {error}", _USAGE if isinstance(error, ArgumentError) else _FAILURE
    try:
        launch = read_launch()
    except ArgumentError:  # which is what the message says
        launch = None
    end_together(message, launch, is_echo=isinstance(error, SyncError))
    return status


def _complain(error: typer.TyperException) -> str:
    """Word an error in what was typed; nothing typed at all is answered with the help."""
    message = error.format_message()
    if message.startswith("Usage: "):
        return message
    context: typer.Context | None = getattr(error, "ctx", None)
    place = "localsgd" if context is None else context.command_path
    return f"error: {message}{'' if message.endswith(('.', '?')) else '.'} Try: {place} --help"


def _show_version(is_wanted: bool) -> None:  # noqa: FBT001 -- typer calls it with the flag's value
    if is_wanted:
        print(f"localsgd {importlib.metadata.version('localsgd')}")
        raise typer.Exit


@_app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that come before a command."""
