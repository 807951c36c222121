"""What a batch is to do: which file becomes which, what is left out, and what must not be overwritten."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from ..images.folders import Found, search
from ..images.formats import READABLE, WRITABLE, holds_frames, written_format
from ..images.reading import Header, read_header
from .jobs import Job, not_replaced
from .naming import distinct_stems, fitting, key

RESULTS = "made by this program"
"""How results of earlier runs that are left out are counted."""


@dataclass
class Plan:
    """jobs: what is to be done, or has a problem. left_out: how many files of each kind a folder held that are none.

    skipped: how many have a result already, once `skip_finished` was asked to look.
    """

    jobs: list[Job] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: int = 0

    def skip_finished(self) -> Plan:
        """The plan without what has a result."""
        left = [job for job in self.jobs if not job.is_finished]
        return Plan(left, self.left_out, self.skipped + len(self.jobs) - len(left))


@dataclass(frozen=True)
class Source:
    """A file to upscale, and the folder its result goes to. named: by a person, not found in a folder."""

    path: Path
    folder: Path
    named: bool


def plan_jobs(inputs: list[Path], output: Path | None, mark: str, suffix: str | None, instances: bool,
              include_results: bool = False) -> Plan:
    """Which file becomes which; folders are searched, and their sub-folders kept.

    A file that cannot be read becomes a job with its problem, and takes no name from others. A file that is named or
    found twice is one job.

    Args:
        inputs: files and folders.
        output: a folder, or a file where there is a single input; None: beside each input.
        mark: put after the stem of a result, such as `_x4`.
        suffix: of the results, such as `.png`; None is `.png`, or the source's own where it has several pages or
            frames.
        instances: whether maps are written as well, as `NAME_instances.png` and `.json`.
        include_results: whether pictures in folders that this program wrote are enlarged, too.

    Raises:
        UserError: `output` cannot be what it is asked to be.
    """
    if _names_a_file(inputs, output):
        assert output is not None
        if suffix and written_format(suffix) != written_format(output.suffix):
            raise UserError(f"--format: {suffix.removeprefix('.')}, but --output names {output}; leave one of them out")
        return Plan([Job(inputs[0], output, _map_beside(output, output.stem) if instances else None,
                         read_header(inputs[0]).problem)])
    plan = Plan()
    sources = []
    for path in inputs:
        if os.path.isdir(path):
            sources += _sources(path, output, plan)
        else:
            sources.append(Source(path, output or path.parent, named=True))
    sources = _once_each(sources, plan.left_out)
    headers = {source.path: read_header(source.path) for source in sources}
    if not include_results:
        sources = _without_results(sources, headers, mark, suffix or ".png", plan.left_out)
    plan.jobs += _jobs(sources, headers, mark, suffix, instances)
    return plan


def _names_a_file(inputs: list[Path], output: Path | None) -> bool:
    """Whether the output is a file's name, for a single input."""
    if output is not None and not os.path.isdir(output) and output.suffix:
        single = len(inputs) == 1 and not os.path.isdir(inputs[0])
        suffix = output.suffix.lower()
        if suffix in WRITABLE or (single and suffix == ".gif" == inputs[0].suffix.lower()):
            if not single:
                raise UserError(f"--output: {output} is one file, the inputs may be more; name a folder")
            return True
        if single:
            raise UserError(f"--output: {output}: {output.suffix} cannot be written; "
                            f"choose {', '.join(WRITABLE)}, or name an existing folder")
    if output is not None and os.path.exists(output) and not os.path.isdir(output):
        raise UserError(f"--output: {output} is a file, not a folder")
    return False


def _sources(folder: Path, output: Path | None, plan: Plan) -> list[Source]:
    """The pictures in a folder; the plan is told what is left out, and what cannot be read."""
    found: Found = search(folder)
    plan.left_out.update(found.left_out)
    plan.jobs += [Job(path, path, None, "this folder cannot be read; check its permissions") for path in found.closed]
    real = None if output is None else Path(os.path.realpath(output))
    inside = real is not None and Path(os.path.realpath(folder)) in real.parents
    sources = []
    for path in found.pictures:
        if inside and real in Path(os.path.realpath(path)).parents:
            plan.left_out["in the output's folder"] += 1
        else:
            sources.append(Source(path, (output or folder) / path.relative_to(folder).parent, named=False))
    if not sources and folder not in found.closed:
        plan.jobs.append(Job(folder, folder, None, "no pictures in this folder (PNG, JPEG, WebP, TIFF, BMP...)"))
    return sources


def _once_each(sources: list[Source], left_out: Counter[str]) -> list[Source]:
    by_file: dict[str, Source] = {}
    for source in sources:
        first = by_file.setdefault(key(source.path), source)
        if first is not source:
            left_out["named twice"] += 1
            by_file[key(source.path)] = min(first, source, key=_rank)
    return list(by_file.values())


def _rank(source: Source) -> tuple[bool, int, str]:
    """Of several paths to a file the one that a person gave, and the shortest, whatever their order."""
    return not source.named, len(str(source.path)), str(source.path)


def _without_results(sources: list[Source], headers: dict[Path, Header], mark: str, suffix: str,
                     left_out: Counter[str]) -> list[Source]:
    """All but the pictures in folders that say they are results, or that bear the names of results."""
    named_so = {key(target) for source in sources for target in (
        source.path.with_name(f"{source.path.stem}{mark}{suffix}"), _map_beside(source.path, source.path.stem))}
    kept = [source for source in sources
            if source.named or not (headers[source.path].is_result or key(source.path) in named_so)]
    if len(kept) < len(sources):
        left_out[RESULTS] += len(sources) - len(kept)
    return kept


def _jobs(sources: list[Source], headers: dict[Path, Header], mark: str, suffix: str | None,
          instances: bool) -> Iterator[Job]:
    readable = {source.path: source for source in sources if headers[source.path].problem is None}
    endings = {path: mark + (suffix or own_suffix(path, headers[path])) for path in readable}
    # Siblings count though they are not asked for now: a name must not depend on what else is asked for.
    siblings = dict(_siblings([source for source in readable.values() if source.named], readable))
    endings |= {path: mark + (suffix or own_suffix(path, read_header(path))) for path in siblings}
    folders = {path: source.folder for path, source in readable.items()} | siblings

    def place(path: Path, stem: str) -> Path:
        return folders[path] / f"{stem}{endings[path]}"

    def place_map(path: Path, stem: str) -> Path:
        return _map_beside(folders[path] / path.name, stem)

    taken = {key(path) for path in folders}
    stems = distinct_stems(list(folders), place, taken)
    # results a.gif and a.png may both begin with the same stem, their maps may not
    map_stems = distinct_stems(list(folders), place_map, taken)
    for source in sources:
        if source.path not in readable:
            yield Job(source.path, source.folder / fitting(source.path.stem), None, headers[source.path].problem)
            continue
        target = place(source.path, stems[source.path])
        yield Job(source.path, target, place_map(source.path, map_stems[source.path]) if instances else None)


def _siblings(sources: list[Source], known: dict[Path, Source]) -> Iterator[tuple[Path, Path]]:
    """Readable photos that differ from a file beside them by their suffix alone, and where their results would go."""
    beside = {folder: _by_stem(folder) for folder in {source.path.parent for source in sources}}
    for source in sources:
        for path in beside[source.path.parent].get(source.path.stem, []):
            if path not in known and key(path) != key(source.path):
                header = read_header(path)
                if header.problem is None and not header.is_result:
                    yield path, source.folder


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The picture files of a folder, sorted, by their names without suffixes; none where it cannot be read."""
    found: dict[str, list[Path]] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in READABLE:
                found.setdefault(path.stem, []).append(path)
    except OSError:
        return {}
    return found


def own_suffix(path: Path, header: Header) -> str:
    """`.png`, or the source's own where that alone can hold its pages or frames."""
    own = path.suffix.lower()
    if header.frames > 1 and own != ".png" and holds_frames(own, header.format or ""):
        return own
    return ".png"


def _map_beside(target: Path, stem: str) -> Path:
    return target.with_name(f"{stem}_instances.png")


def refuse_several(jobs: list[Job]) -> None:
    """Marks the jobs of which several pages or frames would be enlarged: each has objects and ids of its own."""
    for job in jobs:
        header = read_header(job.source)
        if header.frames > 1 and holds_frames(job.output.suffix, header.format or ""):
            job.problem = job.problem or (
                f"it has {header.frames} pages or frames, and --instance, --resample and --merge are for one picture; "
                "save each as a file of its own")


def find_problems(jobs: list[Job], overwrite: bool) -> None:
    """Marks the jobs that would overwrite an input, each other's result or, unasked, an existing file."""
    sources = {key(job.source) for job in jobs}
    owners: dict[str, Job] = {}
    for job in jobs:
        job.overwrite = overwrite
        if job.problem:
            continue
        for path in job.writes:
            real = key(path)
            if real in sources:
                job.problem = f"{path} is an input and is never overwritten; choose another --output"
            elif real in owners:
                job.problem = f"{path} is the result of {owners[real].source} already; rename one of them"
            elif path == job.taken:
                job.problem = not_replaced(path)
            if job.problem:
                break
            owners[real] = job
