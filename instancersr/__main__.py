"""``python -m instancersr``: the same as the ``instancersr`` command."""

from instancersr.cli import main

main()
