"""The `est` command; each command is a file of `commands`. What a user can mend is one line on stderr and status 2."""

import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from est_analysis import __version__
from est_analysis.commands.audit import audit
from est_analysis.commands.claims import claims
from est_analysis.commands.compare import compare
from est_analysis.commands.evaluate import evaluate
from est_analysis.commands.figures import figures
from est_analysis.commands.flops import flops
from est_analysis.commands.methods import methods
from est_analysis.commands.run import reproduce, run_recipe
from est_analysis.commands.stability import stability
from est_analysis.commands.trace import merge, trace
from est_analysis.commands.train import train
from est_analysis.errors import InputError

_UsageError = typer.BadParameter.__base__  # typer's name for it is private: an option or argument it cannot take

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Progressive subnetwork training (EST, RaPTr): train, measure, reproduce.",
)
app.command()(reproduce)
app.command()(train)
app.command()(trace)
app.command()(compare)
app.command(name="eval")(evaluate)
app.command()(merge)
app.command()(stability)
app.command()(flops)
app.command()(methods)
app.command()(audit)
app.command()(claims)
app.command()(figures)
app.command(name="run")(run_recipe)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command that was typed."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what an ASCII terminal has no sign for
    try:
        sys.exit(app(prog_name="est", standalone_mode=False))
    except InputError as error:
        _refuse(str(error))
    except _UsageError as error:
        place = error.ctx.command_path if error.ctx else "est"
        _refuse(f"{error.format_message().rstrip('.')} (see '{place} --help')")


def _refuse(line: str) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # under torchrun one of the ranks speaks
        print(f"est: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
