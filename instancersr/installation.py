"""What is installed: versions of packages, and how to get the parts that are not there."""

from __future__ import annotations


def installed_version(package: str = "instancersr") -> str | None:
    """The version of a package, by its name on the package index; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes longer than all that needs no version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def how_to_install(extra: str = "", *others: str) -> str:
    """The commands that install this program with an extra part: it is not on the package index.

    Args:
        extra: such as "train"; empty for the program alone.
        others: packages of the index beside it.
    """
    part, beside = extra and f"[{extra}]", "".join(f" {name}" for name in others)
    wheel = f"./instancersr-{installed_version() or 'VERSION'}-py3-none-any.whl"
    return (f"in a copy of the repository: pip install '.{part}'{beside}; "
            f"from a wheel: pip install '{wheel}{part}'{beside}")
