"""Breaks the method in fifteen ways and says which test notices: `python tests/mutants.py [NAME ...] [--report FILE]`.

Each mutant is one line of the package changed in a copy of it. Of `lab/training/test_method.py` the test that should
notice runs on the copy, in a process that is forked off after torch was imported, and is to fail. A mutant that
survives it makes the exit code 1. Seconds are of computing, user and system.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests/lab/training/test_method.py"


@dataclass(frozen=True)
class Mutant:
    """what: is broken. file: in the package. old: text that it has once, and new: what it becomes. test: the function
    that should notice."""

    name: str
    what: str
    file: str
    old: str
    new: str
    test: str


PAPER, SAMPLER, TRAINER = "lab/training/stages/paper.py", "lab/training/stages/sampler.py", "lab/training/trainer.py"
DATASET = "lab/data/dataset.py"
INPUTS = "test_the_networks_see_the_noised_photo_and_map_and_the_lr_photo"
EQ_5 = "test_eq_5_compares_the_aligned_tokens_with_the_teachers_view_of_the_truth"
EQ_6 = "test_eq_6_is_of_the_tokens_after_the_aligned_block_and_of_each_instances_own_target"
MUTANTS = [
    Mutant("variance", "the learned-variance half is returned as the noise", "lab/method/diffusion.py",
           "out.sample[:, : z_t.shape[1]]", "out.sample[:, -z_t.shape[1] :]",
           "test_the_noise_is_the_half_of_the_output_that_dits_noise_is"),
    Mutant("layer", "`alignment.layer` is ignored and block 1 used", PAPER,
           'batch["token_offset"], alignment.layer)', 'batch["token_offset"], 1)', EQ_6),
    Mutant("blind-to-map", "the transformer never sees z_m in training", PAPER,
           "if self.config.mask_modelling:\n            return z\n", "if False:\n            return z\n", INPUTS),
    Mutant("teacher-of-lr", "the teacher sees the LR photo instead of the truth", PAPER,
           'self.teacher(batch["hr"][chosen], grid)', 'self.teacher(enlarge(batch["lr"])[chosen], grid)', EQ_5),
    Mutant("no-condition", "the control branch gets zeros for z_y", "lab/method/diffusion.py",
           "self.controlnet(tokens, conditioning, condition)", "self.controlnet(tokens, conditioning, condition * 0)",
           INPUTS),
    Mutant("weights-swapped", "the weights of Eq. 5 and Eq. 6 are swapped", PAPER,
           'terms["repa"] = alignment.weight *', 'terms["repa"] = alignment.scale_weight *', EQ_5),
    Mutant("no-average", "the last weights are saved instead of their average", TRAINER,
           "return self.state.ema if self.processes.is_main else None",
           "return self.state.model if self.processes.is_main else None",
           "test_what_is_saved_is_the_average_of_the_weights"),
    Mutant("seeds-shared", "all images of a step draw the same noise", "lab/training/randomness.py",
           "manual_seed(seed * STRIDE + number)", "manual_seed(seed * STRIDE)",
           "test_every_picture_has_random_numbers_of_its_own_and_the_same_in_every_process"),
    Mutant("augmented-late", "the truth is mirrored after its LR photo was made", DATASET,
           "return _tensor(hr).contiguous(), lr[0]", "return _tensor(hr).flip(2), lr[0]",
           "test_the_lr_photo_is_of_the_very_crop_that_is_the_truth"),
    Mutant("damage-shared", "every crop is damaged with the same seed", DATASET,
           "[int(rng.integers(2**62))])", "[0])",
           "test_the_same_crop_is_damaged_differently_each_time"),
    Mutant("masks-shifted", "instances are shifted by one token", PAPER,
           'ids = patch_ids(batch["ids"], grid)\n            literal',
           'ids = patch_ids(batch["ids"], grid).roll(1, 1)\n            literal', EQ_6),
    Mutant("targets-mixed", "instances have the scale targets of another photo's", PAPER,
           "return (pixels * members).sum(1) / members.sum(1).clamp_min(1)",
           "return ((pixels * members).sum(1) / members.sum(1).clamp_min(1)).flip(0)", EQ_6),
    Mutant("literal-short", "literal scale targets are of order 1, where raw norms are of the root of the width", PAPER,
           "bounds = (SCALE_RANGE[0] * width**0.5, SCALE_RANGE[1] * width**0.5)", "bounds = SCALE_RANGE",
           "test_literal_targets_are_of_raw_norms_as_long_as_tokens_are"),
    Mutant("truth-leaks", "the sampler is trained from the noised truth", SAMPLER,
           "z_t = draws.normal(z.shape[1:]).to(z)", "z_t = z + draws.normal(z.shape[1:]).to(z)",
           "test_the_sampler_begins_from_noise_alone"),
    Mutant("seen-photos", "validation is on photos of the training", TRAINER,
           "self._dataset(held_out=True), self", "self._dataset(held_out=False), self",
           "test_validation_is_on_photos_that_training_never_sees"),
]


def apply(mutant: Mutant, package: Path) -> None:
    """Changes the copy. Raises ValueError: the text is not there once, so the mutant is out of date."""
    file = package / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: its text is {text.count(mutant.old)} times in {mutant.file}")
    file.write_text(text.replace(mutant.old, mutant.new))


def run_tests(tests: list[str], package_parent: Path, out: Path) -> None:
    """Runs the tests on the package in that folder, in this process, and writes the names of those that failed."""
    import pytest

    class Failed:
        names: list[str] = []

        def pytest_runtest_logreport(self, report):
            if report.failed:
                self.names.append(report.nodeid.split("::")[-1])

    sys.path.insert(0, str(package_parent))
    failed = Failed()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main([*(f"{TESTS}::{test}" for test in tests), "-q", "-x", "-n", "0", "-p", "no:cacheprovider",
                            f"--rootdir={ROOT}", f"--basetemp={package_parent / 'pytest'}"], plugins=[failed])
    import instancersr

    assert Path(instancersr.__file__).is_relative_to(package_parent), instancersr.__file__
    out.write_text("\n".join([str(int(code)), *failed.names]))


def judge(mutant: Mutant | None, tests: list[str]) -> tuple[str, float]:
    """Which of the tests noticed the mutant, "" if none did, and the seconds it took. None: the package as it is."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(ROOT / "instancersr", folder / "instancersr",
                        ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        if mutant is not None:
            apply(mutant, folder / "instancersr")
        child = os.fork()
        if child == 0:
            try:
                run_tests(tests, folder, folder / "result")
            finally:
                os._exit(0)
        used = os.wait4(child, 0)[2]
        if not (folder / "result").exists():
            raise RuntimeError("the tests did not run")
        code, *failed = (folder / "result").read_text().split("\n")
        if int(code) not in (0, 1):
            raise RuntimeError(f"pytest ended with code {code}")
        return failed[0] if failed else "", used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of mutants; without any, all")
    parser.add_argument("--report", type=Path, help="also write a table in Markdown")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]

    import accelerate  # noqa: F401  what takes long to import, once for all
    import diffusers  # noqa: F401
    import skimage.data  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    failed, total = judge(None, list(dict.fromkeys(mutant.test for mutant in chosen)))
    if failed:
        print(f"the package as it is fails {failed}")
        return 2
    print(f"the package as it is passes in {total:.0f} s", flush=True)
    rows, survivors = [], 0
    for mutant in chosen:
        killer, seconds = judge(mutant, [mutant.test])
        survivors += not killer
        total += seconds
        print(f"{mutant.name:16} {killer or 'SURVIVES':70} {seconds:5.1f} s", flush=True)
        rows.append(f"| {mutant.what} | {f'`{killer}`' if killer else '**none**'} |")
    print(f"{len(chosen) - survivors} of {len(chosen)} noticed, {total:.0f} s in all")
    if options.report:
        options.report.write_text("\n".join(["| what is broken | the test that notices |", "|---|---|", *rows]) + "\n")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
