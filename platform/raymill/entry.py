"""The command line that every job shares: a spec file, overrides, one JSON line last."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import orjson
import typer

from raymill import config
from raymill.errors import RaymillError

S = TypeVar("S", bound=config.Spec)
BAD_INPUT_EXIT = 2


def run_job(spec_type: type[S], main: Callable[[S], dict[str, Any]]) -> None:
    """Parse `--config FILE [--set key=value ...]`, run `main`, print its result as the last line.

    An error that Raymill raises on purpose ends the process with one line on stderr and exit code 2
    for bad input, 1 for anything else; no stack trace hides it.
    """

    def command(
        config_file: Annotated[str, typer.Option("--config", help="Spec file (YAML).")],
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", help="key=value over the file's; dots reach inside: torch.epochs=5."),
        ] = None,
    ) -> None:
        # Into a file, what workers print would otherwise come kilobytes late.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)
        try:
            result = main(config.load(spec_type, config_file, overrides or []))
        except RaymillError as error:
            fail(error)
        print(orjson.dumps(result, option=orjson.OPT_SERIALIZE_NUMPY).decode(), flush=True)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=spec_type.__doc__)(command)
    app()


@contextmanager
def errors_shown() -> Iterator[None]:
    """End the process with an error's own message, where Raymill raised it on purpose."""
    try:
        yield
    except RaymillError as error:
        fail(error)


def fail(error: RaymillError) -> None:
    """Print the error's own message and end the process."""
    cause = getattr(error, "cause", None)  # Ray wraps what a task raised, traceback first
    message = str(cause if isinstance(cause, RaymillError) else error)
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1 if error.kind == "internal" else BAD_INPUT_EXIT)
