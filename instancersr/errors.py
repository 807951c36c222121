"""Errors that a user can put right, all of one base, and what is said of any error in one line."""

from __future__ import annotations

from .installation import how_to_install

NO_MEMORY = "not enough memory; try a smaller --tile, fewer --jobs, or close other programs"
"""What is said in place of whatever a library says for want of memory."""

_NO_MEMORY_SIGNS = ("out of memory", "can't allocate", "cannot allocate", "bad_alloc", "bad allocation",
                    "failed to allocate", "failed to map segment", "can't start new thread",
                    "could not create a primitive")  # oneDNN's words for it
"""Parts of what libraries say for want of memory, in place of a `MemoryError`."""


class UserError(Exception):
    """What the user can put right, in one line that names the file or key: commands show the line, no traceback."""


class ModelError(UserError):
    """The model cannot be loaded, or a package is missing: no picture can be done."""


class MissingPackage(ModelError):
    """A command needs an optional part of the installation.

    Args:
        error: the import that failed.
        extra: the part of the package that brings it.
        others: packages of the index that it needs beside that part.
    """

    def __init__(self, error: ImportError, extra: str, *others: str):
        super().__init__(f"this needs more packages ({error}); {how_to_install(extra, *others)}")

    def __reduce__(self) -> tuple[type[ModelError], tuple[str]]:
        """To another process goes the line alone: this class makes one of other arguments."""
        return ModelError, (str(self),)


def first_line(error: BaseException, after: str = "") -> str:
    """The first line of an error that says something; of an error without words its kind.

    Args:
        after: left out where the error begins with it, such as a file's name that is said already.
    """
    lines = [line.strip() for line in str(error).removeprefix(after).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def reason(error: BaseException) -> str:
    """As `first_line`, without the file's name: for sentences that begin with it."""
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever kind, or the one behind it, is for want of memory."""
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY_SIGNS):
        return True
    behind = error.__cause__ or error.__context__
    return behind is not None and is_out_of_memory(behind)
