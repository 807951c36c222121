"""`instancersr ablate`: the paper's Table 2 at any scale — cases trained with several seeds, measured and compared.

The table's three words have no definition in the paper. Here, with case 0 the first of the configuration:

- Quality: mean over the metrics of the score relative to case 0's of the same seed (inverted where less is better).
  Metrics that cannot be had here, or cannot score crops of that size, are left out for all cases, and named.
- Efficiency: images seen by case 0 to reach case k's final validation loss, over the images seen by case k. Where
  case 0 never reaches it, all of case 0's images are counted, so the figure is a lower bound.
- Instance awareness: see `awareness.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from instancersr.files import write_whole
from instancersr.sampling import Schedule

from ..training.config import ConfigError, DiffusionConfig, Section, load_config, load_section
from ..training.processes import choose_device
from .awareness import PatchFeatures
from .figures import Series, curve_figure, tsne_figure
from .metrics import METRICS, Metric, usable_metrics

QUANTITIES = ("quality", "efficiency", "awareness")
PARTS = {"map": "map ↑", "probe": "probe ↑"}
"""Parts of awareness, and the heads of their columns."""


class AblationConfig(Section):
    """Which cases are trained on what, and how they are measured."""

    base: Path
    """Configuration of the training that the cases change, relative to this file."""
    output: Path
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    training: list[str] = Field(default_factory=list)
    """Overrides of the base (`key=value`) for all cases."""
    cases: dict[str, list[str]] = Field(min_length=2)
    """Name: further overrides. The first case is the one that the others are compared with."""
    crops: int = Field(128, ge=8)
    """Held-out crops that every case is measured on."""
    metrics: list[str] = Field(default_factory=lambda: ["psnr", "ssim"], min_length=1)
    """pyiqa names of the metrics behind Quality."""
    steps: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    """Sampling steps at which the first case is measured as well, for Figure 4b."""
    layers: dict[str, int] = Field(default_factory=dict)
    """Cases that differ in the aligned layer alone, and the layer: Figure 4a by models that are trained anew."""
    probed: list[str] = Field(default_factory=list)
    """Cases whose blocks are probed one after the other: Figure 4a by linear probing of one model."""
    clouds: list[str] = Field(default_factory=list)
    """Cases whose tokens Figure 1 shows; none: the first three."""

    @field_validator("metrics")
    @classmethod
    def _metrics_exist(cls, metrics: list[str]) -> list[str]:
        for name in metrics:
            if name not in METRICS or METRICS[name].of_set:
                choice = ", ".join(name for name, spec in METRICS.items() if not spec.of_set)
                raise ValueError(f"{name!r} is unknown or no metric of single pictures; choose from {choice}")
        return metrics

    @field_validator("cases")
    @classmethod
    def _names_are_folders(cls, cases: dict[str, list[str]]) -> dict[str, list[str]]:
        for name in cases:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"case {name!r}: letters, digits, - and _ only, as it names a folder")
        return cases

    @model_validator(mode="after")
    def _cases_exist(self) -> AblationConfig:
        for key in ("layers", "probed", "clouds"):
            for name in getattr(self, key):
                if name not in self.cases:
                    raise ValueError(f"{key}: there is no case {name!r}")
        return self


@dataclass
class Record:
    """What one trained run showed.

    quality: metric -> mean score. awareness: 0 to 1. curve: (images, validation loss) pairs, ascending.
    by_steps: sampling steps -> metric -> mean score. by_block: block, from 1 -> accuracy of the probe on its tokens.
    """

    case: str
    seed: int
    quality: dict[str, float]
    awareness: dict[str, float]
    curve: list[tuple[int, float]]
    by_steps: dict[int, dict[str, float]]
    by_block: dict[int, float] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Name of its files, without suffix."""
        return f"{self.case}-{self.seed}"


def relative_quality(scores: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Mean over the metrics of score over reference, inverted where less is better: more than 1 is better."""
    ratios = [reference[m] / scores[m] if METRICS[m].less_is_better else scores[m] / reference[m] for m in reference]
    return float(np.mean(ratios))


def efficiency(curve: Sequence[tuple[int, float]], reference: Sequence[tuple[int, float]]) -> float:
    """Images after which the reference's curve first is as low as the curve ends, over the curve's images.

    Between two validations the loss is taken to fall linearly.
    """
    images, final = curve[-1]
    before: tuple[int, float] | None = None
    for seen, loss in reference:
        if loss <= final:
            if before is None or before[1] == loss:
                return seen / images
            share = (before[1] - final) / (before[1] - loss)
            return (before[0] + share * (seen - before[0])) / images
        before = (seen, loss)
    return reference[-1][0] / images


def summarize(records: Sequence[Record], reference: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Case -> quantity -> (mean, low, high) over the seeds: 95 % t-intervals; NaN bounds for a single seed."""
    by_run = {(r.case, r.seed): r for r in records}
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        base = by_run[reference, record.seed]
        row = values.setdefault(record.case, {name: [] for name in QUANTITIES})
        row["quality"].append(relative_quality(record.quality, base.quality))
        row["efficiency"].append(efficiency(record.curve, base.curve))
        row["awareness"].append(record.awareness["awareness"])
    return {case: {name: t_interval(row[name]) for name in QUANTITIES} for case, row in values.items()}


def differences(records: Sequence[Record], reference: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Case -> each metric, and both parts of awareness -> the case's less the reference's of the same seed.

    Mean, and 95 % t-interval over the seeds. What seeds have in common cancels, so it shows smaller effects.
    """
    by_run = {(r.case, r.seed): r.quality | {part: r.awareness[part] for part in PARTS} for r in records}
    names = next(iter(by_run.values()))
    return {case: {name: t_interval([by_run[case, r.seed][name] - by_run[reference, r.seed][name]
                                     for r in records if r.case == case]) for name in names}
            for case in dict.fromkeys(r.case for r in records) if case != reference}


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and the bounds of Student's interval around it."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def markdown_tables(records: Sequence[Record], reference: str) -> str:
    """What people read: the quantities of each case, and each metric less the reference's."""
    summary, seeds = summarize(records, reference), len({record.seed for record in records})
    lines = _rows(summary, dict(zip(QUANTITIES, ("quality ↑", "efficiency ↑", "instance awareness ↑"), strict=True)))
    lines.append(f"\nMean over {seeds} seeds" + (" and 95 % t-interval." if seeds > 1 else "; no interval.")
                 + f" Quality is over {', '.join(records[0].quality)}.\n")
    lines += [f"Less {reference}'s of the same seed:\n"]
    heads = {name: f"{name} {'↓' if METRICS[name].less_is_better else '↑'}" for name in records[0].quality}
    lines += _rows(differences(records, reference), heads | PARTS, "+")
    return "\n".join(lines) + "\n"


def _rows(values: Mapping[str, Mapping[str, tuple[float, float, float]]], heads: Mapping[str, str],
          sign: str = "") -> list[str]:
    """Lines of a table. heads: of the columns, by the key of their values."""
    lines = ["| case | " + " | ".join(heads.values()) + " |", "|---" * (len(heads) + 1) + "|"]
    for case, row in values.items():
        cells = [f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})" if np.isfinite(low) else f"{mean:{sign}.3f}"
                 for mean, low, high in (row[key] for key in heads)]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return lines


# ------------------------------------------------------------------------------------------------- running


def run_ablation(path: Path, overrides: Sequence[str] = (), tell: Callable[[str], None] = lambda line: None) -> Path:
    """Trains and measures every case with every seed; goes on where it stopped.

    Args:
        tell: gets lines for a person: metrics that are left out, and why.

    Returns:
        The output folder: `records/CASE-SEED.json`, `summary.json`, `table.md` and `figures/`.

    Raises:
        ConfigError: this configuration, or a case's, cannot be used; one line that names the key.
    """
    config = load_section(AblationConfig, path, list(overrides))
    runs = {(case, seed): _training(config, path, case, seed) for seed in config.seeds for case in config.cases}
    _check_measuring(config, path, runs)
    metrics = _metrics(config, next(iter(runs.values())).data.crop, tell)
    records = [_record(config, metrics, case, training) for (case, _), training in runs.items()]
    reference = next(iter(config.cases))
    summary = summarize(records, reference)
    write_whole(config.output / "summary.json", json.dumps(summary, indent=1))
    write_whole(config.output / "table.md", markdown_tables(records, reference))
    draw_figures(config, records)
    return config.output


def _check_measuring(config: AblationConfig, path: Path, runs: Mapping[tuple[str, int], DiffusionConfig]) -> None:
    """Raises a ConfigError, before anything is trained, where what is asked of the trained models is not in them."""
    cases = {case: training for (case, _), training in runs.items()}
    for case, layer in config.layers.items():
        aligned = cases[case].alignment.layer
        if layer != aligned:
            raise ConfigError(f"{path}: layers.{case}: the case aligns layer {aligned}, not {layer}")
    for case, training in cases.items():
        timesteps = len(Schedule.from_config(training.schedule.model_dump()).signal)
        for key, steps in [(f"cases.{case}: sampler.steps", training.sampler.steps),
                           *(("steps", steps) for steps in _steps_of(config, case))]:
            if steps > timesteps:
                raise ConfigError(f"{path}: {key}: must be 1 to {timesteps}, not {steps}")


def _metrics(config: AblationConfig, side: int, tell: Callable[[str], None]) -> dict[str, Metric]:
    """The metrics behind Quality, known before anything is trained."""
    metrics, missing = usable_metrics(config.metrics, side)
    for name, reason in missing.items():
        tell(f"{name} is left out of Quality: {reason}")
    if not metrics:
        raise ConfigError(f"metrics: none of {', '.join(config.metrics)} can be had")
    return metrics


def _training(config: AblationConfig, path: Path, case: str, seed: int) -> DiffusionConfig:
    own = [f"output={json.dumps(str(config.output))}", f"seed={seed}"]
    try:
        training = load_config(path.parent / config.base, [*config.training, *config.cases[case], *own])
    except ConfigError as error:
        raise ConfigError(f"{path}: cases.{case}: {error}") from error
    if not isinstance(training, DiffusionConfig):
        raise ConfigError(f"{path}: base: {config.base} is no configuration of task diffusion")
    # other settings make another run: a trainer goes on in its folder, whatever it was trained with
    run = f"{case}-{seed}-{_digest(training.model_dump(mode='json'))[:8]}"
    return training.model_copy(update={"output": config.output / "runs" / run})


def _record(config: AblationConfig, metrics: Mapping[str, Metric], case: str, training: DiffusionConfig) -> Record:
    """The finished record if there is one of the same settings, else a new one."""
    from ..training.trainer import Trainer

    file = config.output / "records" / f"{case}-{training.seed}.json"
    settings = _fingerprint(config, metrics, training)
    if file.exists():
        saved = json.loads(file.read_text())
        if saved.pop("settings") == settings:
            return _from_json(saved)
    file.parent.mkdir(parents=True, exist_ok=True)
    model = Trainer(training).run()
    record = measure(config, metrics, training, case, model)
    write_whole(file, json.dumps({"settings": settings, **asdict(record)}, indent=1))
    return record


def _fingerprint(config: AblationConfig, metrics: Mapping[str, Metric], training: DiffusionConfig) -> str:
    measured = config.model_dump(mode="json", include={"crops", "steps", "probed"})
    return _digest([measured, [*metrics], training.model_dump(mode="json")])


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _from_json(saved: dict[str, Any]) -> Record:
    """JSON has no integer keys and no tuples."""
    return Record(saved["case"], saved["seed"], saved["quality"], saved["awareness"],
                  [(images, loss) for images, loss in saved["curve"]],
                  {int(steps): scores for steps, scores in saved["by_steps"].items()},
                  {int(block): accuracy for block, accuracy in saved["by_block"].items()})


def measure(config: AblationConfig, metrics: Mapping[str, Metric], training: DiffusionConfig, case: str,
            model: Path) -> Record:
    """Everything that the table and the figures need to know of one trained model.

    The tokens of the crop with the most instances are kept in `features/CASE-SEED.npz`, for Figure 1.
    """
    from ..pipeline import InstanceRSRPipeline
    from . import probing

    pipeline = InstanceRSRPipeline.from_pretrained(model).to(choose_device(training.device))
    crops = list(probing.held_out_crops(training, config.crops))

    def sampled(steps: int, layer: int = training.alignment.layer) -> list[probing.Samples]:
        return [probing.sample_crops(pipeline, batch, steps, layer, seed) for seed, batch in enumerate(crops)]

    samples = sampled(training.sampler.steps)
    by_steps = {steps: probing.quality(sampled(steps), metrics) for steps in _steps_of(config, case)}
    blocks = range(1, training.transformer.depth + 1) if case in config.probed else ()
    by_block = {block: probing.probe(sampled(training.sampler.steps, block)) for block in blocks}
    record = Record(case, training.seed, probing.quality(samples, metrics), probing.awareness(samples),
                    _validation_curve(training.output), by_steps, by_block)
    richest = max(probing.patch_features(samples), key=lambda p: len(np.unique(p.ids[p.ids > 0])))
    folder = config.output / "features"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{record.file}.npz", tokens=richest.tokens, ids=richest.ids)
    return record


def _steps_of(config: AblationConfig, case: str) -> list[int]:
    return config.steps if case == next(iter(config.cases)) else []


def _validation_curve(run: Path) -> list[tuple[int, float]]:
    """(images, Eq. 4 on the photo's half) pairs of the run's validations; a resumed run's later ones count."""
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    return sorted({line["images"]: line["noise_mse"] for line in lines}.items())


# ------------------------------------------------------------------------------------------------ figures


def draw_figures(config: AblationConfig, records: Sequence[Record]) -> list[Path]:
    """Figures 1, 4a, 4b and 4c, each where the configuration has the runs it shows."""
    folder, files = config.output / "figures", []
    reference = next(iter(config.cases))
    first = {r.case: r for r in records if r.seed == config.seeds[0]}
    features = {case: np.load(config.output / "features" / f"{r.file}.npz") for case, r in first.items()}
    shown = config.clouds or list(config.cases)[:3]
    files += tsne_figure({case: PatchFeatures(features[case]["tokens"], features[case]["ids"]) for case in shown},
                         folder / "figure1-tsne")
    base = {r.seed: r.quality for r in records if r.case == reference}
    if config.layers:
        rows = {layer: [relative_quality(r.quality, base[r.seed]) for r in records if r.case == case]
                for case, layer in config.layers.items()}
        files += curve_figure({"": _series(rows)}, "aligned layer", "quality", folder / "figure4a-layers")
    if config.probed:
        curves = {case: _series({block: [r.by_block[block] for r in records if r.case == case]
                                 for block in first[case].by_block}) for case in config.probed}
        files += curve_figure(curves, "block", "accuracy of a linear probe", folder / "figure4a-probing")
    if config.steps:
        rows = {steps: [relative_quality(r.by_steps[steps], r.quality) for r in records if r.case == reference]
                for steps in config.steps}
        files += curve_figure({"": _series(rows)}, "sampling steps", "quality", folder / "figure4b-steps", True)
    begun = {r.seed: r.curve[0][1] for r in records if r.case == reference}  # each seed holds out other photos
    curves = {case: _series({images: [dict(r.curve)[images] / begun[r.seed] for r in records if r.case == case]
                             for images, _ in first[case].curve}) for case in list(config.cases)[:2]}
    return files + curve_figure(curves, "images seen", f"validation loss (Eq. 4) over {reference}'s first",
                                folder / "figure4c-progress")


def _series(rows: Mapping[int, Sequence[float]]) -> Series:
    """x -> values over the seeds, as a curve with its 95 % band; no band for a single seed."""
    means, lows, highs = zip(*(t_interval(values) for _, values in sorted(rows.items())), strict=True)
    return Series(sorted(rows), list(means), list(np.where(np.isnan(lows), means, lows)),
                  list(np.where(np.isnan(highs), means, highs)))
