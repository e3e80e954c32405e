"""The errors a user of this package is meant to read: one line that names the value and the fix."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class InputError(ValueError):
    """Something the user gave (a rate, a name, a path, a checkpoint) cannot be used.

    The message is one line naming the value and the fix. The command line prints it and exits with status 2.
    """


class Diverged(InputError):
    """A training whose loss is no number any more."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a `name` that is none of the `known` ones: suggests the nearest and lists them all.

    >>> print(unknown_name("method", "ets", ["est", "full"]))
    unknown method 'ets': did you mean 'est'? Known: est, full
    """
    options = sorted(known)
    near = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return InputError(f"unknown {kind} '{name}':{hint} Known: {', '.join(options)}")


def expanded(name: str | Path) -> Path:
    """The path `name`, its `~` being somebody's home.

    >>> expanded("runs/mine").as_posix()
    'runs/mine'

    Raises:
        InputError: there is nobody of that name.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"no home folder is known for '{name}'; write the path out") from error


def reason(error: Exception, after: str = "") -> str:
    """The first line of an error message, from behind `after` on if it has that."""
    text = str(error)
    lines = (line.strip() for line in text[text.find(after) + len(after) if after in text else 0 :].splitlines())
    return next(filter(None, lines), type(error).__name__)[:200]
