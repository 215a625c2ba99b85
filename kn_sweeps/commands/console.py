"""What every command shares: its command line, what it prints, and how it ends.

Standard output carries what was asked for, standard error everything said about it. A command
ends with

    0        it did what was asked
    1        it could not: one line `error: ...` says why and what to do
    2        the command line is not one of its own: one line, too
    128 + n  it was interrupted by signal n: 130 by Ctrl-C, 143 when it was told to stop

and anything else is a fault of the program and shows its traceback.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from signal import SIGINT, SIGPIPE, SIGTERM
from typing import NoReturn, Protocol, Self

from kn_sweeps.progress.interruption import Interrupted
from kn_sweeps.records.files import about_files

NAME = "kn-sweeps"

Words = Callable[[BaseException], str | None]
"""Puts an error into words; None where a traceback tells more."""


class ToldError(Exception):
    """What went wrong was put into words and said."""


def called(command: str, otherwise: str | None = None) -> str:
    """How people called this command, for help texts and messages that name it.

    Args:
        command: Its name, such as `table`.
        otherwise: What else it is called by, such as `python -m analysis.table`.
    """
    own = f"{NAME} {command}"
    return own if otherwise is None or sys.argv[0].startswith(NAME) else otherwise


def say(text: object = "", end: str = "\n") -> None:
    """Print what was asked for."""
    print(text, end=end, flush=True)


def remark(text: object) -> None:
    """Print something about it, on standard error."""
    print(text, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Print why it cannot be done."""
    remark(f"error: {text}")


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line."""

    @classmethod
    def of(cls, command: str, doc: str | None, otherwise: str | None = None) -> Self:
        """A command's, whose help is its module's docstring.

        Args:
            command: Its name.
            doc: The docstring; where it says `kn-sweeps COMMAND`, the help says what was called.
            otherwise: As in `called`.
        """
        prog = called(command, otherwise)
        return cls(
            prog=prog,
            description=(doc or "").replace(f"{NAME} {command}", prog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where it says what is right."""
        complain(f"{message}; see {self.prog} --help")
        sys.exit(2)


def in_words(error: BaseException) -> str | None:
    """The message of what a user can mend: ValueErrors are written for it, files for all."""
    if isinstance(error, OSError):
        return about_files(error)
    return str(error) if isinstance(error, ValueError) else None


@contextmanager
def explained(words: Words = in_words, tell: Callable[[str], None] = complain) -> Iterator[None]:
    """Say what can be put into words.

    Raises:
        ToldError: In place of what was said.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, ToldError) or (message := words(error)) is None:
            raise
        tell(message)
        raise ToldError(message) from error


Main = Callable[[Sequence[str] | None], int | None]


class EntryPoint(Protocol):
    """A command that can be called from Python, too."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Do what the arguments say (None: the process's); gives the exit code."""


def command(words: Words = in_words, interrupted: str = "") -> Callable[[Main], EntryPoint]:
    """Let a main function end as commands do.

    Args:
        words: Puts its errors into words.
        interrupted: What to say when it is.

    Returns:
        What makes of a function that takes arguments (None: the process's) and gives an exit code
        (None: 0) one that always gives a code.
    """

    def wrapped(main: Main) -> EntryPoint:
        @functools.wraps(main)
        def ended(arguments: Sequence[str] | None = None) -> int:
            try:
                with explained(words):
                    return main(arguments) or 0
            except ToldError:
                return 1
            except BrokenPipeError:
                # Whoever read has seen enough (`| head`); Python would flush once more.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 128 + SIGPIPE
            except (KeyboardInterrupt, Interrupted) as error:
                if interrupted:
                    remark(interrupted)
                return 128 + (SIGTERM if isinstance(error, Interrupted) else SIGINT)

        return ended

    return wrapped
