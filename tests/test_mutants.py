"""The mutants of `mutants.py` are of the code as it is; to run them takes two minutes and is left to that script."""

import runpy
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_mutant_changes_one_line_of_the_package_and_names_a_test_that_is_there():
    mutants = runpy.run_path(str(TESTS / "mutants.py"))["MUTANTS"]
    tests = (TESTS / "lab/training/test_method.py").read_text()
    assert len(mutants) == 15
    for mutant in mutants:
        package = (TESTS.parent / "instancersr" / mutant.file).read_text()
        assert package.count(mutant.old) == 1 and mutant.old != mutant.new, mutant.name
        assert f"def {mutant.test.split('[')[0]}(" in tests, mutant.name
