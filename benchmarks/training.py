"""How much faster a training step of `instancersr train` is than a plain PyTorch loop of the same networks.

    python benchmarks/training.py [--width 320 --depth 8 --heads 5 --control-depth 3] [--crop 128] [--batch 16]
        [--device cpu|cuda] [--precision fp32|bf16] [--compile] [--threads 1] [--steps 10]

Both sides train the same JointDiT, control branch and projector from the same start on the same random batch, with
teacher features computed beforehand, in turns, in one run. The plain loop is written as published loops are
(REPA, sihyun-yu/REPA, train.py): autocast, AdamW as it comes, gradients clipped, a moving average updated one parameter
at a time, no compilation, latents encoded beforehand. Ours is the trainer's own step, on stored latents of photo and
map as `data.stored` has them; it encodes the LR photo's itself.
On a GPU it also gives the share of the bf16 peak that is used (--gpu names it) and the peak memory.
"""

import argparse
import copy
import json
import os
import tempfile
import time
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"width": 320, "depth": 8, "heads": 5, "control-depth": 3, "crop": 128, "batch": 16,
                        "threads": 1, "steps": 10, "warmup": 2, "layer": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="ours, as `compile: true`; the plain loop never is")
    parser.add_argument("--gpu", default="H100", help="whose bf16 peak the share refers to; see `instancersr plan`")
    return parser.parse_args()


def make_trainer(options: argparse.Namespace, folder: Path):
    """The product's trainer on a folder with one random photo, its teacher replaced by features computed beforehand."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import Dinov2Config, Dinov2Model

    from instancersr.instances.annotations import annotations_from_id_map
    from instancersr.lab.method.models import BlockAutoencoder
    from instancersr.lab.training.config import DiffusionConfig
    from instancersr.lab.training.trainer import Trainer

    side = options.crop + 64
    photos = folder / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(photos / f"{number}.png")
        ids = np.repeat(np.arange(1, 5, dtype=np.int32), side // 4)[None].repeat(side // 4 * 4, 0)
        (photos / f"{number}.json").write_text(json.dumps(annotations_from_id_map(ids, f"{number}.png")))
    BlockAutoencoder(32).save_pretrained(folder / "autoencoder")
    teacher = Dinov2Config(hidden_size=384, num_hidden_layers=1, num_attention_heads=6, image_size=56, patch_size=14)
    Dinov2Model(teacher).save_pretrained(folder / "teacher")
    config = DiffusionConfig.model_validate({
        "task": "diffusion", "output": folder / "run", "images": 10**9, "batch": options.batch,
        "device": options.device, "precision": options.precision,
        "threads": options.threads, "autoencoder": str(folder / "autoencoder"),
        "data": {"photos": str(photos), "cache": folder / "cache", "crop": options.crop, "workers": 0},
        "transformer": {"width": options.width, "depth": options.depth, "heads": options.heads,
                        "control_depth": options.control_depth},
        "alignment": {"layer": options.layer, "teacher": str(folder / "teacher")}})
    trainer = Trainer(config)
    tokens = (options.crop // 16) ** 2
    features = torch.randn(options.batch, tokens, 384, device=options.device)
    trainer.objective.teacher = None  # the features are in the batch
    return trainer, features


def random_batch(options: argparse.Namespace) -> dict:
    """What the data loader would give."""
    import torch

    count, side = options.batch, options.crop
    ids = (torch.arange(side, device=options.device) // 32 + 1).int().expand(count, side, side).contiguous()
    picture = torch.rand(count, 3, side, side, device=options.device)
    return {"hr": picture, "instance_map": picture.flip(0), "ids": ids, "scale_targets": 0.5 + ids.float() / 100,
            "lr": torch.rand(count, 3, side // 4, side // 4, device=options.device),
            "token_offset": torch.zeros(count, 2, dtype=torch.int64, device=options.device)}


class PlainLoop:
    """The same networks in a loop without anything that this project adds to its speed."""

    def __init__(self, options: argparse.Namespace, trainer, features):
        import torch

        self.options, self.objective, self.features = options, trainer.objective, features
        self.model = copy.deepcopy(trainer.state.model)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, weight_decay=0.0)
        self.latents = None

    def step(self, batch: dict) -> None:
        """Eq. 4 and Eq. 5 on latents encoded beforehand."""
        import torch
        import torch.nn.functional as F

        from instancersr.lab.method.diffusion import Denoiser, add_noise, noise_scales
        from instancersr.lab.training.randomness import Draws

        if self.latents is None:
            draws = Draws(0, range(len(batch["hr"])))
            self.latents = [z.detach() for z in self.objective._latents(self.model, batch, draws)[:2]]
        z, z_y = self.latents
        scheduler, model, options = self.objective.scheduler, self.model, self.options
        timestep = torch.randint(1000, (len(z),), device=z.device)
        noise = torch.randn_like(z)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            z_t = add_noise(z, noise, *noise_scales(scheduler, timestep))
            denoiser = Denoiser(model["transformer"], model["controlnet"], scheduler)
            out = denoiser(z_t, z_y, timestep, hidden_layer=options.layer)
            error = F.mse_loss(out.raw.float(), noise)
            projected = F.normalize(model["projector"](out.hidden), dim=-1)
            loss = error - 0.5 * (projected * F.normalize(self.features, dim=-1)).sum(-1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()  # published loops log every step
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), model.parameters(), strict=True):
                mean.mul_(0.9999).add_(value, alpha=0.0001)


def seconds_of(step, batch: dict, device: str) -> float:
    """Of one call, the device's work included."""
    import torch

    start = time.perf_counter()
    step(batch)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import torch

    from instancersr.lab.evaluation.plan import Setup, find_gpu, make_plan
    from instancersr.lab.method.diffusion import split
    from instancersr.lab.training.randomness import Draws
    from instancersr.lab.training.trainer import compile_networks

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer, features = make_trainer(options, Path(folder))
        batch = random_batch(options)
        z = trainer.objective._latents(trainer.state.model, batch, Draws(0, range(options.batch)))[0]
        batch |= {"latent": split(z)[0], "map_latent": split(z)[1], "teacher": features}
        plain = PlainLoop(options, trainer, features)
        if options.compile:
            compile_networks(trainer.state.model)

        def ours(batch: dict) -> None:
            trainer._step(batch)
            trainer.state.images += options.batch

        names = {"plain loop": plain.step, "instancersr": ours}
        times: dict[str, list[float]] = {name: [] for name in names}
        peaks = dict.fromkeys(names, 0)
        for number in range(options.warmup + options.steps):
            for name, step in names.items():  # in turns, so that a busy machine is busy for both
                if options.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                seconds = seconds_of(step, batch, options.device)
                if number >= options.warmup:
                    times[name].append(seconds)
                    if options.device == "cuda":
                        peaks[name] = torch.cuda.max_memory_allocated()
        median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
        parameters = sum(p.numel() for p in trainer.state.model.parameters()) / 1e6
        print(f"{parameters:.1f} M parameters, {(options.crop // 16) ** 2} tokens, batch {options.batch}, "
              f"{options.device} {options.precision}, median of {options.steps} steps")
        gpu = find_gpu(options.gpu)
        plan = make_plan(trainer.config, Setup(gpu, cached_latents=True, cached_teacher=True), options.batch)
        for name, seconds in median.items():
            line = f"{name:14}{options.batch / seconds:9.2f} images/s   {median['plain loop'] / seconds:5.2f} times"
            if options.device == "cuda":
                used = plan.flops_per_image * options.batch / seconds / (gpu.tflops * 1e12)
                line += f"   {used:.1%} of the peak   {peaks[name] / 1e9:.1f} GB, both sides' weights included"
            print(line)


if __name__ == "__main__":
    main()
