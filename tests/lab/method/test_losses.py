"""The losses against brute force over the paper's sums."""

import math

import pytest
import torch

from instancersr.lab.method.losses import (
    denoising_loss,
    dispersive_loss,
    instance_scale_loss,
    random_scale_targets,
    representation_alignment_loss,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_denoising_loss_is_torchs_mse():
    a, b = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(denoising_loss(a, b), torch.nn.functional.mse_loss(a, b))
    weight = torch.tensor([2.0, 0.0])[:, None, None, None]
    torch.testing.assert_close(denoising_loss(a, b, weight), (a - b)[0].square().mean())


def test_alignment_is_minus_the_mean_cosine():
    a, b = torch.randn(2, 6, 5), torch.randn(2, 6, 5)
    cosines = [float(a[i, n] @ b[i, n] / a[i, n].norm() / b[i, n].norm()) for i in range(2) for n in range(6)]
    assert representation_alignment_loss(a, b).item() == pytest.approx(-sum(cosines) / 12, abs=1e-6)
    assert representation_alignment_loss(a, 3 * a).item() == pytest.approx(-1)


@pytest.mark.parametrize("norm", ["rms", "l2"])
def test_scale_loss_is_eq_6_summed_by_hand(norm):
    hidden = torch.randn(2, 5, 4)
    ids = torch.tensor([[1, 1, 2, 0, 2], [1, 0, 0, 7, 1]])
    targets = torch.tensor([[0.6, 0.6, 1.2, 9.0, 1.2], [0.9, 9.0, 9.0, 1.4, 0.9]])
    instances = []
    for sample in range(2):
        for instance in ids[sample].unique().tolist():
            if instance:
                errors = []
                for n in range(5):
                    if ids[sample, n] == instance:
                        length = math.sqrt(sum(float(v) ** 2 for v in hidden[sample, n]))
                        length /= math.sqrt(4) if norm == "rms" else 1
                        errors.append((length - float(targets[sample, n])) ** 2)
                instances.append(sum(errors) / len(errors))
    assert instance_scale_loss(hidden, ids, targets, norm).item() == pytest.approx(sum(instances) / 4, rel=1e-5)


def test_scale_loss_is_zero_at_its_target_and_without_instances():
    hidden, ids = torch.randn(1, 3, 16), torch.tensor([[4, 4, 9]])
    targets = hidden.norm(dim=-1) / 4
    assert instance_scale_loss(hidden, ids, targets).item() == pytest.approx(0, abs=1e-10)
    hidden.requires_grad_(True)
    nothing = instance_scale_loss(hidden, torch.zeros(1, 3, dtype=torch.long), targets)
    nothing.backward()
    assert nothing.item() == 0 and hidden.grad.abs().sum() == 0


def test_rms_targets_do_not_depend_on_the_width():
    ids, targets = torch.ones(1, 50, dtype=torch.long), torch.ones(1, 50)
    losses = [instance_scale_loss(torch.randn(1, 50, width), ids, targets).item() for width in (1024, 4096)]
    assert max(losses) < 0.01  # the RMS norm of white noise is 1 at every width


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match="l1"):
        instance_scale_loss(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1), "l1")


def test_literal_targets_are_one_an_instance_uniform_and_new_every_time():
    ids = torch.arange(1, 2001).repeat(2, 1).repeat_interleave(2, 1)  # (2, 4000), two tokens an instance
    generator = torch.Generator().manual_seed(0)
    first, second = (random_scale_targets(ids, (0.5, 1.5), generator) for _ in range(2))
    pairs = first.reshape(2, 2000, 2)
    assert torch.equal(pairs[..., 0], pairs[..., 1])
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert first.min() >= 0.5 and first.max() <= 1.5
    assert first.mean().item() == pytest.approx(1, abs=0.02)
    assert first.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_dispersion_equals_the_published_formula():
    hidden, tau = torch.randn(3, 2, 4), 0.5
    flat = hidden.flatten(1)
    total = sum(math.exp(-float((flat[a] - flat[b]).square().sum()) / 8 / tau) for a in range(3) for b in range(3))
    assert dispersive_loss(hidden, tau).item() == pytest.approx(math.log(total / 9), rel=1e-5)


def test_dispersion_falls_when_samples_part():
    hidden = torch.randn(4, 3, 5)
    assert dispersive_loss(2 * hidden) < dispersive_loss(hidden)
    assert dispersive_loss(torch.ones(4, 3, 5)).item() == pytest.approx(0, abs=1e-6)
