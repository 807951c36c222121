"""`instancersr train`: one loop for every task, which stops anywhere and goes on to the same trajectory."""

from __future__ import annotations

import copy
import json
import math
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from instancersr.errors import UserError
from instancersr.files import replace_folder

from ..data.dataset import BatchNumbers, CropDataset, collate
from ..data.sources import DataError, Skipped
from ..data.stream import stored_settings, stored_shapes
from .checkpoint import MODEL, TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from .config import AnyTrainConfig, ConfigError, DiffusionConfig, load_config
from .data import LOST_WORKER, batches, crops, open_photos
from .display import Display
from .health import LossWatch
from .processes import Processes, Terms, gradient_sync, local_parameters, shard, transformer_blocks, whole_state
from .randomness import Draws
from .record import record_start
from .skipped import SkippedPhotos
from .stages import build_objective

SKIPPED = "skipped.jsonl"
SAMPLE_BATCH = 16
"""Images that are evaluated, or measured before the first step, at once, where micro_batch does not say less."""


def train_from_config(path: Path, overrides: list[str] | None = None) -> Path:
    """Trains what the configuration says, from the run's last checkpoint if there is one.

    Returns:
        The folder with the averaged weights, as `from_pretrained` reads them.

    Raises:
        ConfigError: the configuration or what it points to cannot be used; one line that names the key.
        UserError: a process that makes crops was killed.
    """
    config = load_config(path, overrides or [])
    try:
        return Trainer(config).run()
    except DataError as error:
        raise ConfigError(f"data.photos: {error}") from error
    except RuntimeError as error:
        if not str(error).startswith(LOST_WORKER):
            raise
        raise UserError(f"data.workers: one of {config.data.workers} processes that make crops was killed, as a rule "
                        "for want of memory; set a lower number, and the same command goes on") from error


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 products are faster than fp32 ones there: emulated, they are several times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


class Trainer:
    """One run: data, model, optimizer, checkpoints and display, in this process and its siblings."""

    def __init__(self, config: AnyTrainConfig):
        self.config = config
        check_data(config)
        self.photos = open_photos(config.data)  # may take longer than a process group waits
        self.processes = Processes(config.device)
        self.device = self.processes.device
        check_share(config, self.processes.count)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.objective = build_objective(config)
        self.objective.to(self.device)
        if not list_checkpoints(config.output):
            self.objective.begin(lambda images: self._batches(0, images, shared=False), self.device)
        self.precision = self._precision()
        self.state, self.terms = self._distribute()
        self.stopped_by: int | None = None
        self.watch = LossWatch(config.optimizer.loss_limit)
        self.skipped = SkippedPhotos(config.output / SKIPPED)

    def run(self) -> Path:
        """Trains to the end, or to the signal that ends it; returns the exported folder."""
        with self.processes.together():
            self.config.output.mkdir(parents=True, exist_ok=True)
            checkpoints = list_checkpoints(self.config.output)
            if checkpoints:
                self._resume(checkpoints[-1])
            if self.processes.is_main:
                record_start(self.config, self.processes, self.state.images)
            with Display(self.config.output, self.config.images, self.state.images, self.processes.is_main,
                         self.config.log.wandb) as display, self._signals():
                if self.processes.is_main:  # what the cache could not use is the same for all
                    self._note_skipped(getattr(self.photos, "skipped", []), display)
                self._loop(display)
            return self._export()

    # ----------------------------------------------------------------------------- beginning, going on

    def _distribute(self) -> tuple[TrainState, nn.Module]:
        """Puts model and average where they are trained; returns them with their optimizer, and what computes terms."""
        model, settings = self.objective.model, self.config.optimizer
        average = copy.deepcopy(model).requires_grad_(False)
        sharded = self.config.sharded and self.processes.count > 1
        self.whole = copy.deepcopy(average) if sharded and self.processes.is_main else None
        if sharded:
            shard(Terms(self.objective, average), self.device)
        else:
            model.to(self.device, memory_format=torch.channels_last)
            average.to(self.device, memory_format=torch.channels_last)
        terms = self.processes.wrap(Terms(self.objective, model), sharded, self.precision)
        optimizer = torch.optim.AdamW(self._parameter_groups(model), settings.lr, settings.betas,
                                      weight_decay=settings.weight_decay, fused=self.device.type in ("cpu", "cuda"))
        begin_moments(optimizer)
        return TrainState(model, average, optimizer), terms

    def _parameter_groups(self, model: nn.Module) -> list[dict]:
        groups = self.objective.parameter_groups(model)
        # the block transform alone has nothing to train, but an optimizer must have something
        return [group for group in groups if group["params"]] or [
            {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 1.0}]

    def _resume(self, checkpoint: Path) -> None:
        try:
            load_checkpoint(checkpoint, self.state)
        except ValueError as error:
            raise ConfigError(f"output: {error}") from error
        notes = json.loads((checkpoint / "state.json").read_text())
        if notes.get("residual_std"):
            for model in filter(None, (self.state.model, self.state.ema, self.whole)):
                model["transformer"].register_to_config(residual_std=notes["residual_std"])

    def _save(self) -> None:
        notes = {"config": self.config.model_dump(mode="json")}
        if isinstance(self.config, DiffusionConfig):
            notes["residual_std"] = self.state.model["transformer"].config.residual_std
        save_checkpoint(self.config.output, self.state, notes, self.config.log.keep, self.processes, self._write_model)

    def _write_model(self, folder: Path) -> None:
        """The averaged model, by the main process. All must call it."""
        average = self._whole_average()
        if average is not None:
            self.objective.export(average, folder)

    def _export(self) -> Path:
        folder = self.config.output / MODEL
        partial = folder.with_name(f".partial-{folder.name}")
        if self.processes.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        self._write_model(partial)
        if self.processes.is_main:
            replace_folder(partial, folder)
        self.processes.wait()
        return folder

    def _whole_average(self) -> nn.Module | None:
        """The averaged model in the main process, None in the others. All must call it."""
        if self.config.sharded and self.processes.count > 1:
            tensors = whole_state(self.state.ema)
            if self.whole is not None:
                self.whole.load_state_dict(tensors)
            return self.whole
        return self.state.ema if self.processes.is_main else None

    # -------------------------------------------------------------------------------------- the loop

    def _loop(self, display: Display) -> None:
        config, state = self.config, self.state
        if not any(p.requires_grad for p in state.model.parameters()):
            return  # the block transform alone, or the map decoder: fitting it was all
        if config.compile:
            compile_networks(state.model)
        due = False
        for batch in self._batches(state.images, config.images):
            self._note_skipped(batch.pop("skipped"), display)
            terms, stops = self._step(self._to_device(batch))
            before, state.images = state.images, state.images + config.batch
            display.step(state.images, terms, state.optimizer.param_groups[0]["lr"])
            due = due or stops or state.images >= config.images or self._passed(config.log.checkpoint_images, before)
            if due and self.watch.healthy:  # else a later step saves, or the watch ends the run
                self._save()
                due = False
                if stops:
                    raise KeyboardInterrupt(f"checkpoint saved at {state.images} images; the same command goes on")
            if self._passed(config.log.sample_images, before):  # after the checkpoint: a failure here loses no training
                self._look(display)

    def _step(self, batch: dict[str, Tensor]) -> tuple[dict[str, float], bool]:
        """One step of the optimizer: its mean loss terms over all processes, and whether one was told to stop."""
        config, state = self.config, self.state
        for group in state.optimizer.param_groups:
            group["lr"] = group["lr_scale"] * self._learning_rate()
        state.optimizer.zero_grad(set_to_none=True)
        progress = min(state.images / config.images, 1.0)
        sums: dict[str, Tensor] = {}
        for part, draws, share, last in self._parts(self._with_means(batch)):
            with gradient_sync(self.terms, last):
                with self._autocast():
                    terms = self.terms(part, draws, progress)
                loss = torch.stack([term.float() for term in terms.values()]).sum()
                (share * loss).backward()
            for name, term in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + share * term.detach()
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        state.optimizer.step()
        self._average()
        stop = torch.tensor(float(self.stopped_by is not None), device=self.device)
        means = self.processes.mean({**sums, "stop": stop, "gradient": norm})
        shown = dict(zip(means, torch.stack([m.float() for m in means.values()]).tolist(), strict=True))
        stops, gradient = shown.pop("stop") > 0, shown.pop("gradient")
        self.watch.see(state.images, {name: value for name, value in shown.items() if name != "loss"}, gradient)
        return shown, stops

    def _note_skipped(self, photos: Iterable[Skipped], display: Display) -> None:
        """Says which photos could not be used, each once, and lists them in `skipped.jsonl` of the run's folder."""
        first = self.skipped.note(photos)
        if first is not None:
            display.console.print(f"left out so far: {len(self.skipped.names)} photos ({SKIPPED}), such as "
                                  f"{first.photo}: {first.reason}", soft_wrap=True, highlight=False)

    def _with_means(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with what `Objective.counts` asks for."""
        counts = self.objective.counts(batch)
        means = self.processes.mean({name: count.mean() for name, count in counts.items()})
        return batch | {name: mean.to(self.device).expand(len(batch["hr"])) for name, mean in means.items()}

    def _parts(self, batch: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], Draws, float, bool]]:
        """The batch in parts that fit into memory: each with its draws, its share, and whether it is the last."""
        count, images = len(batch["hr"]), self.state.images
        size = self.config.micro_batch or count
        first = images + self.processes.number * count
        for start in range(0, count, size):
            part = {name: value[start : start + size] for name, value in batch.items()}
            end = min(start + size, count)
            draws = Draws(self.config.seed, range(first + start, first + end), images)
            yield part, draws, (end - start) / count, end == count

    def _learning_rate(self) -> float:
        settings, images = self.config.optimizer, self.state.images
        warm = min(1.0, (images + self.config.batch) / max(settings.warmup_images, 1))
        if settings.decay == "constant" or images < settings.warmup_images:
            return settings.lr * warm
        progress = (images - settings.warmup_images) / max(self.config.images - settings.warmup_images, 1)
        return settings.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * min(progress, 1))) / 2)

    def _average(self) -> None:
        batch = self.config.batch
        # short at first: the average of a run's beginning is worth nothing
        horizon = min(self.config.optimizer.ema_images, (self.state.images + batch) / 10)
        average = get_ema_multi_avg_fn(1 - min(1.0, batch / horizon))
        average(local_parameters(self.state.ema), local_parameters(self.state.model), None)

    def _passed(self, interval: int, before: int) -> bool:
        return self.state.images // interval > before // interval

    # -------------------------------------------------------------------------------- data and looks

    @property
    def _most_at_once(self) -> int:
        return min(SAMPLE_BATCH, self.config.micro_batch or SAMPLE_BATCH)

    def _dataset(self, held_out: bool) -> CropDataset:
        masks = self.objective.needs_masks
        return crops(self.config, self.photos, held_out, masks, colored=held_out or self.objective.needs_colors)

    def _batches(self, start: int, stop: int, shared: bool = True) -> Iterator[dict]:
        """The steps' batches, of each this process' share; if not `shared`, the same small ones in every process."""
        if shared:
            numbers = BatchNumbers(start, stop, self.config.batch, self.processes.number, self.processes.count)
        else:
            numbers = BatchNumbers(start, stop, min(self._most_at_once, self.config.batch))
        return batches(self._dataset(held_out=False), numbers, self.config.data.workers, self.device)

    def _to_device(self, batch: dict) -> dict[str, Tensor]:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items() if name != "skipped"}

    def _look(self, display: Display) -> None:
        """Scores and pictures of the averaged weights on held-out photos, always the same crops."""
        average = self._whole_average()
        if average is not None:
            average.to(self.device)
            self._validate(average, display)
        if self.whole is not None:  # a whole copy, which a device that holds shards has no room for in training
            self.whole.to("cpu")
        self.processes.wait()

    @torch.no_grad()
    def _validate(self, average: nn.Module, display: Display) -> None:
        try:
            dataset, count = self._dataset(held_out=True), self.config.log.validation_crops
        except DataError as error:  # a handful of photos may leave none to hold out
            display.console.print(f"no validation: {error}", soft_wrap=True)
            return
        totals: dict[str, float] = {}
        rows: list[Tensor] = []
        most = self._most_at_once
        for number, cpu_batch in enumerate(DataLoader(dataset, most, sampler=range(count), collate_fn=collate)):
            batch = self._to_device(cpu_batch)
            size = len(batch["hr"])
            images = range(number * most, number * most + size)
            with self._autocast():
                scores = self.objective.validate(average, batch, Draws(0, images))
                if not rows:
                    some = {name: value[:8] for name, value in batch.items()}
                    rows = self.objective.pictures(average, some, Draws(0, images[:8]))
            for name, value in scores.items():
                totals[name] = totals.get(name, 0.0) + value.item() * size / count
        display.look(self.state.images, totals, rows)

    def _precision(self) -> torch.dtype:
        wanted = self.config.precision
        if wanted == "auto":
            wanted = "bf16" if has_fast_bf16(self.device) else "fp32"
        return torch.bfloat16 if wanted == "bf16" else torch.float32

    def _autocast(self):
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

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


def begin_moments(optimizer: torch.optim.AdamW) -> None:
    """Gives every trained parameter the moments that AdamW would give it in its first step.

    Some parameters are left out of some steps. A checkpoint without their moments could not be loaded.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            step = torch.zeros((), device=parameter.device if group["fused"] else "cpu")
            optimizer.state[parameter] = {"step": step, "exp_avg": torch.zeros_like(parameter),
                                          "exp_avg_sq": torch.zeros_like(parameter)}


def check_share(config: AnyTrainConfig, processes: int) -> None:
    """Whether a batch divides among so many processes, and leaves each what its losses need.

    Raises:
        ConfigError: it does not; names the key.
    """
    if config.batch % processes:
        raise ConfigError(f"batch: {config.batch} images do not divide among {processes} processes")
    if isinstance(config, DiffusionConfig) and config.alignment.dispersion_weight and config.batch == processes:
        raise ConfigError("alignment.dispersion_weight compares the images of a process, which has one here; set batch "
                          f"to {2 * processes} or more")


def check_data(config: AnyTrainConfig) -> None:
    """What only the shards can say of a configuration, before anything large is built.

    Raises:
        DataError, ConfigError: as `check_stored`.
    """
    if config.data.stored and not isinstance(config, DiffusionConfig):
        raise ConfigError("data.stored: latents and teacher features are for task diffusion")
    if isinstance(config, DiffusionConfig) and config.data.stored:
        check_stored(config)


def check_stored(config: DiffusionConfig) -> None:
    """Whether the tensors stored in the shards are those that the configuration trains on.

    Raises:
        DataError: there are none.
        ConfigError: they are of another size, or of other networks; names the key.
    """
    shapes, data, alignment = stored_shapes(config.data.photos), config.data, config.alignment
    prepared = stored_settings(data.photos)
    tokens = (data.crop // (8 * config.transformer.patch_size)) ** 2
    if "latent" in shapes and shapes["latent"][-1] * 8 != data.crop:
        raise ConfigError(f"data.crop: {data.crop}, but the stored latents are of {shapes['latent'][-1] * 8} pixels")
    if "latent" in shapes:
        check_name("autoencoder", config.autoencoder, prepared.get("latents"))
    if alignment.teacher is None or not alignment.weight or "teacher" not in shapes:
        return
    check_name("alignment.teacher", alignment.teacher, prepared.get("features"))
    if alignment.teacher_layer is not None:
        raise ConfigError("alignment.teacher_layer: the stored features are the teacher's output; leave it out")
    if shapes["teacher"][0] != tokens:
        raise ConfigError(f"alignment.teacher: the stored features are of {shapes['teacher'][0]} patches, "
                          f"data.crop={data.crop} has {tokens} tokens")


def check_name(key: str, configured: str, prepared: str | None) -> None:
    """Whether what the shards were prepared with is what a run is to use, by the last part of name or path."""
    if prepared is not None and Path(prepared).name != Path(configured).name:
        raise ConfigError(f"{key}: {configured}, but the shards hold what {prepared} computed; set {key} to that, or "
                          "prepare them again")


def compile_networks(model: nn.Module) -> None:
    """Transformers block by block, as equal blocks share one compilation; other networks whole."""
    for part in model.values() if isinstance(model, nn.ModuleDict) else [model]:
        for network in transformer_blocks(part) or [part]:
            network.compile()
