"""What every command does with bad input: one line on the error stream, and exit code 2."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from safemerge.errors import UserError
from safemerge.screening import visible


class Parser(argparse.ArgumentParser):
    """One that answers wrong options in one line too, and names the help instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {visible(message)}; see {self.prog} --help\n")


Main = Callable[[Sequence[str] | None], int]


def one_line_errors(main: Main) -> Callable[..., int]:
    """A main that answers a UserError, and a file that cannot be read or written, with one line and exit code 2."""

    @functools.wraps(main)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except UserError as error:
            said = str(error)
        except OSError as error:
            if error.filename is None:  # no file: a fault of ours, which needs its traceback
                raise
            said = f"cannot read or write {error.filename}: {error.strerror}"
        print(f"error: {visible(said)}", file=sys.stderr)
        return 2

    return wrapped
