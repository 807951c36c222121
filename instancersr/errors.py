"""The one base of every error that a user can put right."""


NO_MEMORY = "not enough memory; try a smaller --tile, fewer --jobs, or close other programs"


_NO_MEMORY_SIGNS = ("out of memory", "can't allocate", "cannot allocate", "bad_alloc", "bad allocation",
                    "failed to map segment", "can't start new thread",
                    "could not create a primitive")  # oneDNN's words for it
"""Beginnings of what libraries say for want of memory, in place of a `MemoryError`."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever kind, or the one behind it, is for want of memory."""
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY_SIGNS):
        return True
    behind = error.__cause__ or error.__context__
    return behind is not None and is_out_of_memory(behind)


class UserError(Exception):
    """What the user can put right, in one line that names the file or key: commands show the line, no traceback."""


class ModelError(UserError):
    """The model cannot be loaded, or a package is missing: no picture can be done."""


def how_to_install(extra: str = "", *others: str) -> str:
    """The commands that install this program with an extra part: it is not on the package index.

    Args:
        extra: such as "train"; empty for the program alone.
        others: packages of the index beside it.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("instancersr")
    except PackageNotFoundError:
        number = "VERSION"
    part, beside = extra and f"[{extra}]", "".join(f" {name}" for name in others)
    return (f"in a copy of the repository: pip install '.{part}'{beside}; "
            f"from a wheel: pip install './instancersr-{number}-py3-none-any.whl{part}'{beside}")


class MissingPackage(ModelError):
    """A command needs an optional part of the installation.

    Args:
        error: the import that failed.
        extra: the part of the package that brings it.
        others: packages of the index that it needs beside that part.
    """

    def __init__(self, error: ImportError, extra: str, *others: str):
        super().__init__(f"this needs more packages ({error}); {how_to_install(extra, *others)}")
