"""What the networks are shown in a step of training, and what is made of what they say.

The networks are small and random, in the hub's layouts; hooks look at what goes in and comes out. What is expected is
worked out here, by loops and by `diffusers`, not by the functions under test. `tests/mutants.py` breaks the method in
fifteen ways, each of which one of these tests notices.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from skimage import data

from instancersr.lab.data.cache import build_cache
from instancersr.lab.data.dataset import CropDataset, Picture
from instancersr.lab.data.sources import find_sources, is_held_out
from instancersr.lab.method.diffusion import Denoiser
from instancersr.lab.method.models import ControlNet, RestorationNetwork
from instancersr.lab.method.models.pretrained import load_dit
from instancersr.lab.training.checkpoint import newest_model
from instancersr.lab.training.config import DiffusionConfig, load_config
from instancersr.lab.training.randomness import Draws
from instancersr.lab.training.stages import build_objective
from instancersr.lab.training.trainer import Trainer

SIDE, GRID = 64, (4, 4)
SIZES = {"width": 32, "depth": 3, "heads": 2, "control_depth": 2, "prediction": "noise", "num_classes": 10,
         "learned_variance": True}


@pytest.fixture(scope="module")
def hub(save_hub_models, tmp_path_factory) -> dict[str, str]:
    return save_hub_models(tmp_path_factory.mktemp("hub"), 8)


def build(hub: dict[str, str], **values):
    """The objective of the paper's kind of configuration, its zero-initialised layers filled."""
    alignment = {"layer": 2, "teacher": hub["dinov2"], **values.pop("alignment", {})}
    task = build_objective(DiffusionConfig.model_validate({
        "task": "diffusion", "output": "unused", "images": 8, "batch": 2, "autoencoder": hub["vae"],
        "backbone": {"pretrained": hub["dit"]}, "transformer": SIZES, "alignment": alignment, "terminal_prob": 0.0,
        "data": {"photos": "unused", "crop": SIDE}, "schedule": {"rescale_betas_zero_snr": False}, **values}))
    torch.manual_seed(1)
    for parameter in task.model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return task


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two pictures with three instances each, of different widths, none of them aligned with the tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(2, SIDE, SIDE, dtype=torch.int32)
    ids[0, :, :20], ids[0, 10:40, 20:50], ids[0, 45:, 30:] = 1, 2, 3
    ids[1, :22], ids[1, 24:50, 5:30], ids[1, 30:, 40:] = 1, 2, 3
    targets = torch.tensor([[0, 0.6, 0.9, 1.3], [0, 1.4, 0.7, 1.1]])
    return {"hr": torch.rand(2, 3, SIDE, SIDE, generator=generator),
            "lr": torch.rand(2, 3, SIDE // 4, SIDE // 4, generator=generator), "ids": ids,
            "instance_map": torch.rand(2, 3, SIDE, SIDE, generator=generator),
            "scale_targets": torch.stack([targets[n][ids[n].long()] for n in range(2)]),
            "token_offset": torch.zeros(2, 2, dtype=torch.long)}


class Seen:
    """One step: `inputs` and `outputs` of the networks' calls by name, and the `terms`."""

    def __init__(self, task, shown: dict[str, torch.Tensor], draws: Draws | None = None):
        self.inputs: dict[str, list] = {}
        self.outputs: dict[str, list] = {}
        networks = {name: task.model[name] for name in ("transformer", "controlnet", "projector") if name in task.model}
        networks["teacher"] = task.teacher
        hooks = [network.register_forward_hook(self._note(name)) for name, network in networks.items() if network]
        hooks += [block.register_forward_hook(self._note(f"block{number}"))
                  for number, block in enumerate(task.model["transformer"].blocks, 1)]
        self.terms = task.terms(task.model, shown, draws or Draws(1, range(2)), 0.0)
        for hook in hooks:
            hook.remove()

    def _note(self, name: str):
        def hook(_module, arguments, output):
            self.inputs.setdefault(name, []).append(arguments)
            self.outputs.setdefault(name, []).append(output)
        return hook

    def tokens_after(self, layer: int) -> torch.Tensor:
        """Of the backbone, with the control branch's part added to the first blocks."""
        control = self.outputs["controlnet"][0]
        tokens = self.outputs[f"block{layer}"][0]
        return tokens + control[layer - 1] if layer <= len(control) else tokens


# ------------------------------------------------------------------------------------------------- the networks


def test_the_noise_is_the_half_of_the_output_that_dits_noise_is(hub):
    """Where nothing of the map is seen, it is the stock DiT's for the photo: not its variance."""
    transformer = load_dit(hub["dit"])
    with torch.no_grad():
        transformer.x_embedder.proj.weight[:, 4:] = 0
    scheduler = DDIMScheduler()
    stock = DiTTransformer2DModel.from_pretrained(hub["dit"]).eval()
    z, t = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    denoiser = Denoiser(transformer, ControlNet.from_backbone(transformer, 4, 2), scheduler)
    with torch.no_grad():
        raw = denoiser(z, torch.zeros(2, 4, 8, 8), t).raw
        expected = stock(z[:, :4], t, torch.tensor([10, 10])).sample  # 10: the null class
    torch.testing.assert_close(raw[:, :4], expected[:, :4], atol=1e-4, rtol=1e-4)
    assert raw.shape[1] == 8 and not torch.allclose(expected[:, :4], expected[:, 4:], atol=1e-2)


def test_the_networks_see_the_noised_photo_and_map_and_the_lr_photo(hub):
    """Eq. 2 by `diffusers`' scheduler, Eq. 3's condition by the autoencoder's own posterior."""
    task, shown = build(hub), batch()
    seen = Seen(task, shown)
    z_t, timestep = seen.inputs["transformer"][0][:2]
    tokens, _, z_y = seen.inputs["controlnet"][0]
    vae = AutoencoderKL.from_pretrained(hub["vae"])
    draws = Draws(1, range(2))

    def latent(picture: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(picture * 2 - 1).latent_dist
        return 0.18215 * (posterior.mean + posterior.std * draws.normal((4, 8, 8)))

    enlarged = F.interpolate(shown["lr"], scale_factor=4, mode="bicubic", align_corners=False)
    with torch.no_grad():
        z_x, z_m, expected_y = (latent(p) for p in (shown["hr"], shown["instance_map"], enlarged))
    torch.testing.assert_close(z_y, expected_y, atol=2e-3, rtol=1e-3)
    draws.integers(1000), draws.uniform()  # the timestep's
    noise = draws.normal((8, 8, 8))
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    expected = scheduler.add_noise(torch.cat([z_x, z_m], 1), noise, timestep)
    torch.testing.assert_close(z_t, expected, atol=1e-4, rtol=1e-3)
    # Eq. 4: half of the mean error of each half of the noise
    raw = seen.outputs["transformer"][0].sample[:, :8]
    for name, half in (("denoise_x", slice(0, 4)), ("denoise_m", slice(4, 8))):
        torch.testing.assert_close(seen.terms[name], (raw[:, half] - noise[:, half]).square().mean() / 2)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_eq_6_is_of_the_tokens_after_the_aligned_block_and_of_each_instances_own_target(hub, layer):
    """By loops over pictures, tokens and instances; some tokens belong to nothing, some to two instances."""
    task, shown = build(hub, alignment={"layer": layer}), batch()
    seen = Seen(task, shown)
    length = seen.tokens_after(layer).norm(dim=-1) / 32**0.5
    errors = []
    for picture in range(2):
        of_instance: dict[int, list[torch.Tensor]] = {}
        for token in range(16):
            row, column = token // 4 * 16, token % 4 * 16
            cell = shown["ids"][picture, row : row + 16, column : column + 16]
            numbers, counts = cell.unique(return_counts=True)
            instance = int(numbers[counts.argmax()])
            if instance:
                target = shown["scale_targets"][picture][shown["ids"][picture] == instance][0]
                of_instance.setdefault(instance, []).append((length[picture, token] - target) ** 2)
        errors += [torch.stack(members).mean() for members in of_instance.values()]
    torch.testing.assert_close(seen.terms["scale"], 0.1 * torch.stack(errors).mean())


def test_eq_5_compares_the_aligned_tokens_with_the_teachers_view_of_the_truth(hub):
    task, shown = build(hub), batch()
    seen = Seen(task, shown)
    assert torch.equal(seen.inputs["teacher"][0][0], shown["hr"])
    torch.testing.assert_close(seen.inputs["projector"][0][0], seen.tokens_after(2))
    projected, features = seen.outputs["projector"][0], seen.outputs["teacher"][0]
    cosines = [np.dot(p, f) / np.linalg.norm(p) / np.linalg.norm(f) for p, f in
               zip(projected.flatten(0, 1).detach().numpy(), features.flatten(0, 1).numpy(), strict=True)]
    assert seen.terms["repa"].item() == pytest.approx(-0.5 * np.mean(cosines), abs=1e-5)


def test_each_weight_is_its_own_terms(hub):
    once = Seen(build(hub), batch()).terms
    twice = Seen(build(hub, alignment={"weight": 1.0}), batch()).terms
    thrice = Seen(build(hub, alignment={"scale_weight": 0.3}), batch()).terms
    heavier = Seen(build(hub, denoising_weight=4.0), batch()).terms
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value * (2 if name == "repa" else 1))
        torch.testing.assert_close(thrice[name], value * (3 if name == "scale" else 1))
        torch.testing.assert_close(heavier[name], value * (4 if name.startswith("denoise") else 1))


def test_literal_targets_are_of_raw_norms_as_long_as_tokens_are(hub):
    """One uniform number for each instance, new in each step, times the square root of the width."""
    task, shown = build(hub, alignment={"scale_targets": "literal"}), batch()
    one_instance = shown | {"ids": torch.ones_like(shown["ids"])}
    found = [Seen(task, one_instance, Draws(1, range(n, n + 2), n)) for n in (0, 2)]
    ratios = []
    for seen in found:
        length = seen.tokens_after(2).norm(dim=-1)  # (2, 16)
        mean, square = length.mean(1), length.square().mean(1)
        # the targets that explain the loss: 2 pictures, one equation; so try the step's own draws, in order
        fits = [(0.1 * (square - 2 * mean * s + s**2).mean()).item()
                for s in [torch.tensor([a, b]) for a in np.linspace(0.5, 1.5, 41) for b in np.linspace(0.5, 1.5, 41)]
                for s in [s * 32**0.5]]
        ratios.append(min(abs(fit - seen.terms["scale"].item()) for fit in fits) / seen.terms["scale"].item())
        least = 0.1 * ((length - mean[:, None]) ** 2).mean()
        assert seen.terms["scale"] >= least - 1e-4
    assert max(ratios) < 0.02
    assert found[0].terms["scale"] != found[1].terms["scale"]


def test_the_sampler_begins_from_noise_alone(hub, tmp_path):
    """Whatever the truth is, its first input is the same, standard normal, another one for each picture."""
    RestorationNetwork(8, 1).save_pretrained(tmp_path)
    sampler = {"weight": 1.0, "steps": 1}
    inputs = []
    for seed in (0, 1):
        shown = batch() | {name: batch(seed)[name] for name in ("hr", "instance_map")}
        task = build(hub, denoising_weight=0.0, sampler=sampler, restoration=str(tmp_path))
        inputs.append(Seen(task, shown).inputs["transformer"][0][0])
    assert torch.equal(*inputs)
    assert abs(inputs[0].mean()) < 0.15 and inputs[0].std() == pytest.approx(1, abs=0.1)
    assert not torch.allclose(inputs[0][0], inputs[0][1], atol=0.5)


def test_every_picture_has_random_numbers_of_its_own_and_the_same_in_every_process():
    together = Draws(3, range(4)).normal((5,))
    assert len({tuple(row.tolist()) for row in together}) == 4
    apart = torch.cat([Draws(3, range(2)).normal((5,)), Draws(3, range(2, 4)).normal((5,))])
    assert torch.equal(together, apart)
    assert not torch.equal(Draws(4, range(4)).normal((5,)), together)


# ---------------------------------------------------------------------------------------------------- the data


class OnePhoto:
    """The same photo for each sample."""

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        """A whole photo with many edges."""
        return Picture("coffee", data.coffee()[50:350, 100:400], np.zeros((300, 300), np.uint16))


def test_the_lr_photo_is_of_the_very_crop_that_is_the_truth():
    """It is nearer to the shrunk truth than to any mirrored or turned one, and the damage differs from crop to crop."""
    dataset, damages = CropDataset(OnePhoto(), 128, {"camera": 1.0}, seed=2), []
    for number in range(12):
        sample = dataset[number]
        small = F.avg_pool2d(sample["hr"][None], 4)[0]
        others = [small.rot90(turn, (1, 2)) for turn in range(4)]
        others += [other.flip(2) for other in others]
        errors = [(other - sample["lr"]).square().mean().item() for other in others]
        assert min(errors) == errors[0] < 0.5 * sorted(errors)[1]
        damages.append(errors[0])
    assert len(set(damages)) == 12


def test_the_same_crop_is_damaged_differently_each_time():
    class Whole(OnePhoto):
        def choose(self, number, rng):
            picture = super().choose(number, rng)
            return Picture(picture.key, picture.rgb[:64, :64], picture.ids[:64, :64], whole=True)

    dataset = CropDataset(Whole(), 64, {"seesr": 1.0})
    samples = [dataset[number] for number in range(6)]
    assert all(torch.equal(sample["hr"], samples[0]["hr"]) for sample in samples)
    strengths = {round((sample["lr"] - F.avg_pool2d(sample["hr"][None], 4)[0]).std().item(), 4) for sample in samples}
    assert len(strengths) == 6


# ---------------------------------------------------------------------------------------------------- the run


@pytest.fixture(scope="module")
def run(photo_folder, tmp_path_factory):
    """Writes a small restoration run's configuration."""
    folder = tmp_path_factory.mktemp("run")

    def configure(name: str, **values):
        config = {"task": "restoration", "channels": 8, "blocks": 1, "images": 22, "batch": 2, "device": "cpu",
                  "precision": "fp32", "threads": 1, "output": str(folder / name),
                  "optimizer": {"lr": 1e-2, "warmup_images": 0, "decay": "constant", "ema_images": 1000},
                  "data": {"photos": str(photo_folder), "cache": str(folder / "cache"), "crop": 64, "workers": 0},
                  "log": {"checkpoint_images": 1000, "sample_images": 1000, "validation_crops": 4}, **values}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return load_config(path)

    return configure


def test_what_is_saved_is_the_average_of_the_weights(run):
    """After eleven steps: 1/11 of the weights after ten, whose average is they themselves, and 10/11 of the last."""
    ten, eleven = (Trainer(run(f"steps{images}", images=images)) for images in (20, 22))
    ten.run()
    saved = RestorationNetwork.from_pretrained(eleven.run()).state_dict()
    last, before = eleven.state.model.state_dict(), ten.state.model.state_dict()
    for name, weight in saved.items():
        torch.testing.assert_close(weight, before[name] / 11 + last[name] * 10 / 11, atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(saved[name], last[name], atol=1e-5) for name in saved)
    checkpoint = RestorationNetwork.from_pretrained(newest_model(eleven.config.output)).state_dict()
    assert all(torch.equal(checkpoint[name], saved[name]) for name in saved)


def test_validation_is_on_photos_that_training_never_sees(run, photo_folder):
    trainer = Trainer(run("looks"))
    keys = {held_out: {trainer._dataset(held_out).source.choose(n, np.random.default_rng(n)).key for n in range(60)}
            for held_out in (False, True)}
    assert keys[True] == {"photo10"} and "photo10" not in keys[False] and len(keys[False]) == 5
    assert {r.key for r in build_cache(find_sources(photo_folder), trainer.config.data.cache, 64).records
            if is_held_out(r.key)} == keys[True]

    seen = []
    trainer.objective.validate = lambda model, batch, draws: seen.append(batch["hr"]) or {}
    trainer.objective.pictures = lambda model, batch, draws: [batch["hr"]]

    class Display:
        def look(self, *_):
            """Nothing is shown."""

    trainer._validate(trainer.state.ema, Display())
    expected = torch.stack([trainer._dataset(held_out=True)[n]["hr"] for n in range(4)])
    assert torch.equal(torch.cat(seen), expected)
