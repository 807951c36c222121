"""`instancersr train`: one loop for every task, which stops anywhere and goes on to the same trajectory."""

from __future__ import annotations

import copy
import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .checkpoint import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from .config import AnyTrainConfig, ConfigError, load_config
from .dataset import CropDataset, DataError, NumberSampler, build_cache, find_sources
from .display import Display
from .objectives import AutoencoderObjective, DiffusionObjective, Objective, RestorationObjective

SAMPLE_BATCH = 16
"""Validation crops that are evaluated at once."""
RESIDUAL_CROPS = 256
"""Crops on which the preconditioning's deviations are measured."""


def train_from_config(path: Path, overrides: list[str] | None = None) -> Path:
    """Trains what the configuration says, from the run's last checkpoint if there is one.

    Returns:
        The folder with the averaged weights, as `from_pretrained` reads them.

    Raises:
        ConfigError: the configuration or what it points to cannot be used; one line that names the key.
    """
    config = load_config(path, overrides or [])
    try:
        return Trainer(config).run()
    except DataError as error:
        raise ConfigError(f"data.photos: {error}") from error


def choose_device(name: str) -> torch.device:
    """"auto" is CUDA, else Apple's GPU, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 products are faster than fp32 ones there: emulated, they are several times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


class Trainer:
    """One run: data, model, optimizer, checkpoints and display."""

    def __init__(self, config: AnyTrainConfig):
        self.config = config
        self.device = choose_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.cache = build_cache(find_sources(config.data.photos), config.data.cache, config.data.crop)
        self.objective = self._build_objective()
        model = self.objective.model.to(self.device, memory_format=torch.channels_last)
        if isinstance(self.objective, DiffusionObjective):
            self.objective.to(self.device)
        optimizer = torch.optim.AdamW(self._parameter_groups(model), config.optimizer.lr, config.optimizer.betas,
                                      weight_decay=config.optimizer.weight_decay)
        self.state = TrainState(model, copy.deepcopy(model).requires_grad_(False), optimizer)
        self.autocast = self._autocast()
        self.stopped_by: int | None = None

    def run(self) -> Path:
        """Trains to the end, or to the signal that ends it; returns the exported folder."""
        output = self.config.output
        output.mkdir(parents=True, exist_ok=True)
        checkpoints = list_checkpoints(output)
        if checkpoints:
            self._resume(checkpoints[-1])
        else:
            self._begin()
        with Display(output, self.config.images, self.state.images) as display, self._signals():
            self._loop(display)
        return self._export()

    # ----------------------------------------------------------------------------- beginning, going on

    def _build_objective(self) -> Objective:
        kinds = {"autoencoder": AutoencoderObjective, "restoration": RestorationObjective,
                 "diffusion": DiffusionObjective}
        return kinds[self.config.task](self.config)

    def _parameter_groups(self, model: nn.Module) -> list[dict]:
        if isinstance(self.objective, DiffusionObjective):
            groups = self.objective.parameter_groups(model)
        else:
            groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr_scale": 1.0}]
        # the block transform alone has nothing to train, but an optimizer must have something
        return [group for group in groups if group["params"]] or [
            {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 1.0}]

    def _begin(self) -> None:
        """What is done once, before the first step."""
        if isinstance(self.objective, AutoencoderObjective):
            self.state.model.cpu().fit(b["hr"] * 2 - 1 for b in self._batches(0, self.config.images))
            self.state.model.to(self.device)
            self.state.ema.load_state_dict(self.state.model.state_dict())
        elif (isinstance(self.objective, DiffusionObjective) and self.config.init is None
              and self.config.transformer.prediction == "residual"):
            batches = [self._to_device(b) for b in self._batches(0, RESIDUAL_CROPS)]
            self.objective.measure_residual(batches)
            std = self.state.model["transformer"].config.residual_std
            self.state.ema["transformer"].register_to_config(residual_std=std)

    def _resume(self, checkpoint: Path) -> None:
        try:
            load_checkpoint(checkpoint, self.state)
        except ValueError as error:
            raise ConfigError(f"output: {error}") from error
        notes = json.loads((checkpoint / "state.json").read_text())
        if notes.get("residual_std"):
            for model in (self.state.model, self.state.ema):
                model["transformer"].register_to_config(residual_std=notes["residual_std"])

    def _save(self) -> None:
        notes = {"config": self.config.model_dump(mode="json")}
        if isinstance(self.objective, DiffusionObjective):
            notes["residual_std"] = self.state.model["transformer"].config.residual_std
        save_checkpoint(self.config.output, self.state, notes, self.config.log.keep)

    def _export(self) -> Path:
        folder = self.config.output / "model"
        self.objective.export(self.state.ema, folder)
        return folder

    # -------------------------------------------------------------------------------------- the loop

    def _loop(self, display: Display) -> None:
        config, state = self.config, self.state
        if not any(p.requires_grad for p in state.model.parameters()):
            return  # the block transform alone: fitting it was all
        if config.compile:
            for part in state.model.values() if isinstance(state.model, nn.ModuleDict) else [state.model]:
                part.compile()
        for batch in self._batches(state.images, config.images):
            terms = self._step(self._to_device(batch))
            before, state.images = state.images, state.images + len(batch["hr"])
            display.step(state.images, terms, state.optimizer.param_groups[0]["lr"])
            if self._passed(config.log.sample_images, before):
                self._look(display)
            ends = self.stopped_by is not None or state.images >= config.images
            if ends or self._passed(config.log.checkpoint_images, before):
                self._save()
            if self.stopped_by is not None:
                raise KeyboardInterrupt(f"checkpoint saved at {state.images} images; the same command goes on")

    def _step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        config, state = self.config, self.state
        # one generator a step, seeded by the step: nothing depends on where the run was cut
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.images)
        for group in state.optimizer.param_groups:
            group["lr"] = group["lr_scale"] * self._learning_rate()
        state.optimizer.zero_grad(set_to_none=True)
        shown: dict[str, float] = {"loss": 0.0}
        for part, share in self._micro_batches(batch):
            with self.autocast:
                terms = self.objective.terms(state.model, part, generator, state.images / config.images)
            loss = share * torch.stack(list(terms.values())).sum()
            loss.backward()
            for name, term in {"loss": loss / share, **terms}.items():
                shown[name] = shown.get(name, 0.0) + share * term.item()
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip)
        state.optimizer.step()
        self._average(len(batch["hr"]))
        return shown

    def _micro_batches(self, batch: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], float]]:
        """The batch in parts that fit into memory, each with its share of the images."""
        count = len(batch["hr"])
        size = self.config.micro_batch or count
        for start in range(0, count, size):
            part = {name: value[start : start + size] for name, value in batch.items()}
            yield part, len(part["hr"]) / count

    def _learning_rate(self) -> float:
        settings, images = self.config.optimizer, self.state.images
        warm = min(1.0, (images + self.config.batch) / max(settings.warmup_images, 1))
        if settings.decay == "constant" or images < settings.warmup_images:
            return settings.lr * warm
        progress = (images - settings.warmup_images) / max(self.config.images - settings.warmup_images, 1)
        return settings.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * min(progress, 1))) / 2)

    @torch.no_grad()
    def _average(self, batch: int) -> None:
        # short at first: the average of a run's beginning is worth nothing
        horizon = min(self.config.optimizer.ema_images, (self.state.images + batch) / 10)
        keep = 1 - min(1.0, batch / horizon)
        for mean, value in zip(self.state.ema.parameters(), self.state.model.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def _passed(self, interval: int, before: int) -> bool:
        return self.state.images // interval > before // interval

    # -------------------------------------------------------------------------------- data and looks

    def _dataset(self, held_out: bool) -> CropDataset:
        data = self.config.data
        return CropDataset(self.cache, data.crop, data.presets, self.config.seed, held_out, self.objective.needs_masks,
                           data.downscale_prob, data.max_offset, data.lightness)

    def _batches(self, start: int, stop: int) -> Iterator[dict[str, Tensor]]:
        workers = self.config.data.workers
        return iter(DataLoader(
            self._dataset(held_out=False), self.config.batch, sampler=NumberSampler(start, stop), num_workers=workers,
            worker_init_fn=_prepare_worker, prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None))

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    @torch.no_grad()
    def _look(self, display: Display) -> None:
        """Scores and pictures of the averaged weights on held-out photos, always the same crops."""
        try:
            dataset, count = self._dataset(held_out=True), self.config.log.validation_crops
        except DataError as error:  # a handful of photos may leave none to hold out
            display.console.print(f"no validation: {error}", soft_wrap=True)
            return
        loader = DataLoader(dataset, SAMPLE_BATCH, sampler=NumberSampler(0, count))
        totals: dict[str, float] = {}
        rows: list[Tensor] = []
        for number, cpu_batch in enumerate(loader):
            batch = self._to_device(cpu_batch)
            generator = torch.Generator().manual_seed(number)
            with self.autocast:
                scores = self.objective.validate(self.state.ema, batch, generator)
                if not rows:
                    rows = self.objective.pictures(self.state.ema, {k: v[:8] for k, v in batch.items()}, generator)
            for name, value in scores.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(batch["hr"]) / count
        display.look(self.state.images, totals, rows)

    def _autocast(self):
        precision = self.config.precision
        if precision == "auto":
            precision = "bf16" if has_fast_bf16(self.device) else "fp32"
        return nullcontext() if precision == "fp32" else torch.autocast(self.device.type, torch.bfloat16)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step at hand, with a checkpoint."""
        def stop(number: int, _frame: object) -> None:
            self.stopped_by = number

        previous = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _prepare_worker(_number: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and many schedulers signal the whole process group; workers must live until the last step is saved.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
