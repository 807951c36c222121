"""The one base of every error that a user can put right."""


class UserError(Exception):
    """What the user can put right, in one line that names the file or key: commands show the line, no traceback."""


class ModelError(UserError):
    """The model cannot be loaded: no picture can be done."""


class MissingPackage(UserError):
    """A command needs an optional part of the installation.

    Args:
        error: the import that failed.
        extra: the part of the package that brings it.
    """

    def __init__(self, error: ImportError, extra: str):
        super().__init__(f"this needs more packages ({error}); pip install 'instancersr[{extra}]'")
