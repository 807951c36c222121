"""The diffusion objective on a pretrained backbone and autoencoder, small and random, in the hub's layout."""

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

from instancersr.lab.method.models import RestorationNetwork
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.config import ConfigError, DiffusionConfig, RestorationConfig, SamplerConfig
from instancersr.lab.training.perceptual import repeated_steps, variety_error
from instancersr.lab.training.randomness import Draws
from instancersr.lab.training.stages import build_objective
from instancersr.lab.training.stages.paper import PaperObjective
from instancersr.lab.training.stages.restoration import RestorationObjective

SIZES = {"width": 32, "depth": 3, "heads": 2, "control_depth": 2, "prediction": "noise", "num_classes": 10,
         "learned_variance": True}


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3,
                          sample_size=8, patch_size=2, num_embeds_ada_norm=10).save_pretrained(folder / "dit")
    AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                  block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4,
                  scaling_factor=0.18215).save_pretrained(folder / "vae")
    return {"backbone": str(folder / "dit"), "autoencoder": str(folder / "vae")}


def objective(hub: dict[str, str], backbone: dict | None = None, **values) -> PaperObjective:
    settings = {"task": "diffusion", "output": "unused", "images": 8, "batch": 2, "autoencoder": hub["autoencoder"],
                "backbone": {"pretrained": hub["backbone"], **(backbone or {})}, "transformer": SIZES,
                "alignment": {"layer": 2}, "data": {"photos": "unused", "crop": 64}, "terminal_prob": 0.0,
                "schedule": {"rescale_betas_zero_snr": False}, **values}
    return build_objective(DiffusionConfig(**settings))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.ones(2, 64, 64, dtype=torch.int32)
    ids[:, :, 32:] = 2
    return {"hr": torch.rand(2, 3, 64, 64, generator=generator), "lr": torch.rand(2, 3, 16, 16, generator=generator),
            "ids": ids, "instance_map": torch.rand(2, 3, 64, 64, generator=generator),
            "scale_targets": torch.ones(2, 64, 64), "token_offset": torch.zeros(2, 2, dtype=torch.long)}


def terms(task: PaperObjective, progress: float = 0.0) -> dict[str, torch.Tensor]:
    return task.terms(task.model, batch(), Draws(1, range(2)), progress)


def test_pretrained_backbone_is_what_training_begins_from(hub):
    task = objective(hub)
    stock = DiTTransformer2DModel.from_pretrained(hub["backbone"]).state_dict()
    assert torch.equal(task.model["transformer"].blocks[1].mlp.fc1.weight,
                       stock["transformer_blocks.1.ff.net.0.proj.weight"])
    assert len(task.model["controlnet"].blocks) == 2
    total = sum(terms(task).values())
    total.backward()
    assert torch.isfinite(total) and task.model["transformer"].x_embedder.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("trained", "blocks"), [(None, {0, 1, 2}), (1, {2}), (0, set())])
def test_as_many_blocks_are_trained_as_asked_for(hub, trained, blocks):
    task = objective(hub, {"trained_blocks": trained, "lr_scale": 0.1})
    transformer = task.model["transformer"]
    assert {n for n, block in enumerate(transformer.blocks) if block.attn.qkv.weight.requires_grad} == blocks
    assert transformer.x_embedder.proj.weight.requires_grad and transformer.final_layer.linear.weight.requires_grad
    embedders = [*transformer.t_embedder.parameters(), *transformer.y_embedder.parameters()]
    assert {p.requires_grad for p in embedders} == {trained is None}  # they shift and scale in every block
    backbone, others = task.parameter_groups(task.model)
    assert (backbone["lr_scale"], others["lr_scale"]) == (0.1, 1.0)
    in_groups = {id(p) for group in (backbone, others) for p in group["params"]}
    assert in_groups == {id(p) for p in task.model.parameters() if p.requires_grad}


def test_gradient_checkpointing_changes_no_gradient(hub):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        task = objective(hub, gradient_checkpointing=checkpointing)
        sum(terms(task).values()).backward()
        gradients.append([p.grad for p in task.model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert (plain is None and checkpointed is None) or torch.allclose(plain, checkpointed, atol=1e-6)


def test_the_residuals_deviations_are_summed_up_in_double_precision_on_the_cpu_alone(hub):
    """Macs' GPUs have no float64: there, whatever makes one has to name the CPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        made_on: list = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            before = [a.dtype for a in args if isinstance(a, torch.Tensor)]
            if isinstance(out, torch.Tensor) and out.dtype == torch.float64 and torch.float64 not in before:
                self.made_on.append((kwargs or {}).get("device"))
            return out

    task = objective(hub, {"pretrained": None}, transformer={**SIZES, "prediction": "residual"})
    with Watch() as watch:
        task.measure_residual([batch(), batch()])
    assert {str(device) for device in watch.made_on if device is not None} == {"cpu"}
    z, z_y, *_ = task._latents(task.model, batch(), Draws(0, range(2)))
    expected = (z - torch.cat([z_y, torch.zeros_like(z_y)], 1)).square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(torch.tensor(task.model["transformer"].config.residual_std), expected, atol=1e-4, rtol=0)


def test_the_validation_error_is_of_the_same_noise_whatever_else_is_drawn(hub):
    """Efficiency compares it between cases, of which one draws scale targets."""
    found = []
    for targets in ("predictable", "literal"):
        torch.manual_seed(0)
        task = objective(hub, alignment={"layer": 2, "scale_targets": targets})
        with torch.no_grad():
            found.append(task.validate(task.model, batch(), Draws(1, range(2)))["noise_mse"])
    assert found[0] == found[1]


@pytest.mark.parametrize(("change", "message"), [
    ({"width": 64}, "transformer: width is 64 here, 32 in"), ({"depth": 4}, "transformer: depth is 4 here, 3 in"),
    ({"control_depth": 1}, "transformer: depth is 1 here, 2 in .*controlnet"),
])
def test_the_networks_to_begin_from_are_those_that_the_configuration_describes(hub, tmp_path, change, message):
    task = objective(hub)
    for name in ("transformer", "controlnet"):
        task.model[name].save_pretrained(tmp_path / name)
    objective(hub, {"pretrained": None}, init=tmp_path)
    with pytest.raises(ConfigError, match=message):
        objective(hub, {"pretrained": None}, init=tmp_path, transformer=SIZES | change)


def test_sizes_that_are_not_the_backbones_name_the_key(hub):
    with pytest.raises(ConfigError, match="transformer: depth is 2 here, 3 in"):
        objective(hub, transformer=SIZES | {"depth": 2})


def test_a_missing_autoencoder_or_backbone_names_the_key(hub, tmp_path):
    with pytest.raises(ConfigError, match="^autoencoder: .*config.json is missing"):
        objective(hub | {"autoencoder": str(tmp_path)})
    with pytest.raises(ConfigError, match="^backbone.pretrained: .*hf download"):
        objective(hub | {"backbone": str(tmp_path)})


@pytest.mark.parametrize(("values", "message"), [
    ({"backbone": {"trained_blocks": 4}}, "trained_blocks 4 is more than depth 3"),
    ({"backbone": {"pretrained": "x"}, "init": "y"}, "exclude each other"),
    ({"backbone": {"pretrained": "x"}, "transformer": {"prediction": "residual"}}, "prediction=noise"),
    ({"schedule": {}}, "rescale_betas_zero_snr=false"),
    ({"sampler": {"decoder_tokens": True}}, "decoder_tokens is for a detail decoder; set decoder_blocks"),
    ({"sampler": {"decoder_tokens": True, "decoder_blocks": 1}, "restoration": "unused",
      "transformer": SIZES | {"patch_size": 4}}, "set transformer.patch_size=2"),
    ({"sampler": {"weight": 1, "anchor_steps": 4}, "transformer": SIZES | {"prediction": "residual"}},
     "set transformer.prediction=clean"),
])  # fmt: skip
def test_contradictions_are_found_before_anything_is_loaded(values, message):
    base = {"task": "diffusion", "output": "unused", "images": 8, "autoencoder": "unused", "transformer": SIZES,
            "alignment": {"layer": 2}, "data": {"photos": "unused", "crop": 64}}
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**(base | values))


def test_a_photo_without_masks_teaches_nothing_about_the_map(hub):
    task = objective(hub, sampler={"weight": 1.0, "steps": 1})
    first = {name: value[:1] for name, value in batch().items()}
    alone = task.terms(task.model, first, Draws(1, range(1)), 0.0)
    unknown = batch()
    unknown["ids"][1], unknown["instance_map"][1] = 0, 0
    both = task.terms(task.model, unknown, Draws(1, range(2)), 0.0)
    for name in ("map", "denoise_m"):
        torch.testing.assert_close(both[name], alone[name])
        assert not torch.isclose(terms(task)[name], alone[name])  # where both are known, both count
    assert not torch.isclose(both["pixel"], alone["pixel"])
    means = {name: count.mean().expand(1) for name, count in task.counts(unknown).items()}
    parts = [task.terms(task.model, {name: value[n : n + 1] for name, value in unknown.items()} | means,
                        Draws(1, range(n, n + 1)), 0.0) for n in range(2)]  # as with micro_batch, or two processes
    unknown["ids"][:] = 0
    none = task.terms(task.model, unknown, Draws(1, range(2)), 0.0)
    for name in ("map", "denoise_m"):
        torch.testing.assert_close(sum(part[name] for part in parts) / 2, both[name])
        assert none[name] == 0


def test_the_detail_decoder_is_trained_with_the_sampler_and_exported(hub, tmp_path):
    torch.manual_seed(0)
    RestorationNetwork(8, 1).save_pretrained(tmp_path / "restoration")
    task = objective(hub, restoration=tmp_path / "restoration", denoising_weight=0.0,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "adversarial_weight": 0.1,
                              "adversarial_channels": 3})
    assert task.model["discriminator"].layers[0].weight.shape == (3, 3, 3, 3)
    losses = terms(task)  # at the run's beginning the discriminator learns alone
    assert set(losses) == {"pixel", "map", "critic"}
    assert set(terms(task, 0.5)) == {"pixel", "map", "critic", "gan"}
    sum(losses.values()).backward()
    assert task.model["detail_decoder"].tail.weight.grad.abs().sum() > 0
    assert task.model["discriminator"].layers[-1].weight.grad.abs().sum() > 0
    task.export(task.model, tmp_path / "model")
    assert InstanceRSRPipeline.from_pretrained(tmp_path / "model").detail_decoder.config.feature_channels == 8
    with pytest.raises(ValueError, match="sampler.decoder_blocks: .*set restoration"):
        objective(hub, sampler={"decoder_blocks": 1})


def test_a_decoder_alone_is_trained_where_the_transformer_is_held(hub, tmp_path):
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "held": "transformer",
                              "pattern_weight": 2.0, "grid_weight": 3.0, "grain_weight": 1.0})
    trained = {name.split(".")[0] for name, weight in task.model.named_parameters() if weight.requires_grad}
    assert trained == {"detail_decoder"}
    found = terms(task)
    sum(found.values()).backward()
    assert {"pattern", "grid", "grain"} <= found.keys()
    assert task.model["detail_decoder"].tail.weight.grad.abs().sum() > 0


def test_where_there_is_an_auxiliary_target_l1_alone_compares_with_the_truth(hub, tmp_path):
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0, mask_modelling=False,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "direct_share": 1.0, "grid_weight": 1.0})
    crops = batch()
    photo = task.model["detail_decoder"](task.restoration(crops["lr"]), task.restoration.features(crops["lr"]))
    for target in (photo.detach(), crops["hr"]):
        found = task.terms(task.model, crops | {"target": target}, Draws(1, range(2)), 0.0)
        assert found["pixel"].item() == pytest.approx((photo - crops["hr"]).abs().mean().item(), rel=1e-4)
        assert found["grid"].item() == pytest.approx(repeated_steps(photo, target).item(), rel=1e-3, abs=1e-8)
    assert found["grid"] > 1e-4


def refuse(*_: object) -> None:
    raise AssertionError("the transformer was called")


def test_a_direct_step_never_calls_the_transformer(hub, tmp_path):
    """It draws the photo from y-hat and its features, and there is no map to judge."""
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    sampler = {"weight": 1.0, "steps": 2, "decoder_blocks": 1}
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0, sampler=sampler | {"direct_share": 1.0})
    hook = task.model["transformer"].register_forward_pre_hook(refuse)
    found = terms(task)
    assert set(found) == {"pixel"} and task.skips_parameters
    found["pixel"].backward()
    assert task.model["detail_decoder"].tail.weight.grad.abs().sum() > 0
    restored = task.restoration(batch()["lr"])  # the decoder changes nothing yet
    torch.testing.assert_close(found["pixel"], (restored - batch()["hr"]).abs().mean())
    hook.remove()
    half = objective(hub, restoration=tmp_path, denoising_weight=0.0, sampler=sampler | {"direct_share": 0.5})
    steps = ["map" in half.terms(half.model, batch(), Draws(1, range(2), step), 0.0) for step in range(0, 64, 2)]
    assert 8 < sum(steps) < 24


def test_a_decoder_of_tokens_draws_without_them_where_nothing_was_sampled(hub, tmp_path):
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "decoder_tokens": True,
                              "direct_share": 1.0})
    task.model["transformer"].register_forward_pre_hook(refuse)
    assert torch.isfinite(terms(task)["pixel"])


def test_where_the_decoder_is_held_the_photo_without_a_sample_stays_as_it_is(hub, tmp_path):
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0, mask_modelling=False,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "decoder_tokens": True,
                              "held": "decoder"})
    decoder, lr = task.model["detail_decoder"], batch()["lr"]
    torch.nn.init.normal_(decoder.tail.weight)
    torch.nn.init.normal_(decoder.token_proj.weight, std=0.1)
    before = decoder(task.restoration(lr), task.restoration.features(lr))
    terms(task)["pixel"].backward()
    optimizer = torch.optim.SGD([weight for weight in task.model.parameters() if weight.requires_grad], 0.1)
    tokens = decoder.token_proj.weight.clone()
    optimizer.step()
    assert torch.equal(decoder(task.restoration(lr), task.restoration.features(lr)), before)
    assert not torch.equal(decoder.token_proj.weight, tokens)
    assert task.model["transformer"].blocks[0].mlp.fc1.weight.grad.abs().sum() > 0


def test_two_versions_are_drawn_and_the_judges_see_the_closer(hub, tmp_path, monkeypatch):
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0, mask_modelling=False,
                     sampler={"weight": 1.0, "steps": 2, "decoder_blocks": 1, "variety": 0.6, "variety_weight": 3.0,
                              "count_shares": [0, 1]})
    crops, made, latents = batch(), [], []
    monkeypatch.setattr(task, "_decode", lambda _, z_x, *__: latents.append(z_x) or made[-1].pop(0))
    near, far = crops["hr"] + 0.01, crops["hr"] - 0.2
    mixed = [torch.stack([near[0], far[1]]), torch.stack([far[0], near[1]])]
    restored = task.restoration(crops["lr"])
    for versions in (mixed, mixed[::-1]):
        made.append([*versions])
        found = terms(task)
        assert found["pixel"].item() == pytest.approx(0.01, rel=1e-4)
        expected = variety_error(*versions, crops["hr"], restored, 0.6 * 0.5)  # of two steps the last begins half way
        assert found["variety"].item() == pytest.approx(3 * expected.item(), rel=1e-4) and expected > 1e-5
    assert not torch.equal(latents[0], latents[1])  # of another noise
    one = objective(hub, restoration=tmp_path, denoising_weight=0.0, mask_modelling=False,
                    sampler={"weight": 1.0, "steps": 2, "decoder_blocks": 1, "variety": 0.6, "count_shares": [1, 0]})
    assert "variety" not in terms(one)  # from pure noise


@pytest.mark.parametrize(("sampler", "problem"), [
    ({"held": "decoder"}, "decoder_tokens=true"),
    ({"held": "decoder", "decoder_tokens": True, "direct_share": 0.5}, "direct_share=0"),
    ({"held": "decoder", "decoder_tokens": True, "release_restoration": True}, "release_restoration=false"),
    ({"variety": 0.6, "steps": 1}, "trained_steps"),
])
def test_keys_that_would_do_nothing_or_undo_each_other_are_refused(sampler, problem):
    with pytest.raises(ValueError, match=problem):
        SamplerConfig(**{"weight": 1.0, "decoder_blocks": 1} | sampler)


def test_the_networks_around_a_held_transformer_are_trained_together(hub, tmp_path):
    """Stage 8. The restoration network hears of the photo through the decoder, which sees its features."""
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "held": "transformer",
                              "release_restoration": True, "map_weight": 0.0})
    trained = {name.split(".")[0] for name, weight in task.model.named_parameters() if weight.requires_grad}
    assert trained == {"detail_decoder", "restoration"}
    torch.nn.init.normal_(task.model["detail_decoder"].tail.weight)  # as if it had begun to draw
    terms(task)["pixel"].backward()
    for part in trained:
        assert task.model[part].head.weight.grad.abs().sum() > 0


def test_behind_a_detail_decoder_the_restored_photo_hears_of_nothing_but_its_own_error(hub, tmp_path):
    """It is the faithful end of the fidelity scale: what pleases the judges of the finished photo is not its matter."""
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "release_restoration": True})
    tail = task.model["restoration"].tail.weight
    found = terms(task)
    (found["pixel"] + found["map"]).backward(retain_graph=True)
    assert tail.grad is None
    found["restored"].backward()
    assert tail.grad.abs().sum() > 0


def test_a_decoder_that_sees_tokens_teaches_the_transformer_through_them(hub, tmp_path):
    """And it goes on from a decoder that saw none, whose picture it begins with."""
    torch.manual_seed(0)
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path / "restoration")
    sampler = {"weight": 1.0, "steps": 2, "decoder_blocks": 1}
    task = objective(hub, restoration=tmp_path / "restoration", denoising_weight=0.0, sampler=sampler)
    torch.nn.init.normal_(task.model["detail_decoder"].tail.weight, std=0.1)
    before = terms(task)["pixel"]
    task.export(task.model, tmp_path / "model")
    task = objective(hub, {"pretrained": None}, restoration=tmp_path / "restoration", denoising_weight=0.0,
                     init=tmp_path / "model",
                     sampler=sampler | {"decoder_tokens": True, "decoder_skip": True, "release_restoration": "tail"})
    torch.testing.assert_close(terms(task)["pixel"], before)
    decoder, last = task.model["detail_decoder"], task.model["transformer"].blocks[-1].mlp.fc2
    torch.nn.init.normal_(decoder.token_proj.weight)
    task.model["transformer"].final_layer.linear.requires_grad_(False).weight.zero_()  # the way through the latents
    terms(task)["pixel"].backward()
    assert last.weight.grad.abs().sum() > 0 and decoder.skip.weight.grad.abs().sum() > 0
    assert task.sample(task.model, batch(), Draws(1, range(2)), 2)[0].shape == batch()["hr"].shape


def test_of_a_restoration_network_whose_tail_is_released_the_features_stay(hub, tmp_path):
    RestorationNetwork(channels=8, blocks=1).save_pretrained(tmp_path)
    task = objective(hub, restoration=tmp_path, denoising_weight=0.0,
                     sampler={"weight": 1.0, "steps": 1, "decoder_blocks": 1, "release_restoration": "tail"})
    trained = {name for name, weight in task.model["restoration"].named_parameters() if weight.requires_grad}
    assert trained == {"tail.weight", "tail.bias"}
    terms(task)["restored"].backward()
    assert task.model["restoration"].tail.weight.grad.abs().sum() > 0


def restoration(**values) -> RestorationObjective:
    return RestorationObjective(RestorationConfig(**{
        "task": "restoration", "output": "unused", "images": 8, "channels": 8, "blocks": 3,
        "data": {"photos": "unused"}, **values}))


def test_what_is_merged_is_half_way_between_the_trained_weights_and_those_of_a_shallower_network(tmp_path):
    torch.manual_seed(0)
    RestorationNetwork(8, 2).save_pretrained(tmp_path / "begun")
    task = restoration(init=tmp_path / "begun", merge=tmp_path / "begun")
    with torch.no_grad():
        for weight in task.model.parameters():
            weight += 0.5
    task.export(task.model, tmp_path / "model")
    begun, saved = (RestorationNetwork.from_pretrained(tmp_path / name) for name in ("begun", "model"))
    assert saved.config.blocks == 3
    torch.testing.assert_close(saved.head.weight, begun.head.weight + 0.25)
    torch.testing.assert_close(saved.body[2].conv2.weight, torch.full_like(saved.body[2].conv2.weight, 0.25))


def test_a_network_is_trained_with_the_branch_it_lacked(tmp_path):
    torch.manual_seed(0)
    RestorationNetwork(8, 3).save_pretrained(tmp_path / "begun")
    for begin in ({}, {"init": tmp_path / "begun"}, {"init": tmp_path / "begun", "merge": tmp_path / "begun"}):
        task = restoration(coarse_blocks=2, **begin)
        assert all(weight.requires_grad for weight in task.model.parameters())
        task.export(task.model, tmp_path / "model")
        assert RestorationNetwork.from_pretrained(tmp_path / "model").config.coarse_blocks == 2


def test_a_photo_restored_with_blocks_is_judged_by_their_grid(tmp_path):
    """y-hat of zero weights is the bicubic enlargement: blocks of 8 LR pixels stay blocks of 32."""
    blocks = (torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5).repeat_interleave(32, 2)
    truth = torch.full((1, 3, 128, 128), 0.5)
    task = restoration(grid_weight=2.0)
    torch.nn.init.zeros_(task.model.tail.weight)
    lr = truth[..., ::4, ::4] + 0.2 * blocks.repeat_interleave(32, 3)[..., ::4, ::4]
    found, clean = (task.terms(task.model, {"lr": small, "hr": truth}, None, 0.0)
                    for small in (lr, truth[..., ::4, ::4]))
    assert found["grid"].item() == pytest.approx(2 * repeated_steps(task.model(lr), truth).item(), rel=1e-4)
    assert found["grid"] > 0.005 and clean["grid"].abs() < 1e-6
    assert "grid" not in restoration().terms(task.model, {"lr": lr, "hr": truth}, None, 0.0)


def test_networks_of_one_size_are_merged_wherever_they_lie(tmp_path):
    torch.manual_seed(0)
    for name in ("one", "other"):
        RestorationNetwork(8, 3).save_pretrained(tmp_path / name)
    task = restoration(init=tmp_path / "one", merge=tmp_path / "other")
    task.export(task.model, tmp_path / "model")
    one, other, saved = (RestorationNetwork.from_pretrained(tmp_path / name) for name in ("one", "other", "model"))
    torch.testing.assert_close(saved.head.weight, (one.head.weight + other.head.weight) / 2)


def test_networks_of_other_widths_cannot_be_merged(tmp_path):
    RestorationNetwork(4, 2).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="merge: .* holds a network of another size"):
        restoration(merge=tmp_path)
