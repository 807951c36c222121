"""LPIPS on VGG16 features as a training loss, by pyiqa, whose weights come from its cache (`TORCH_HOME`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instancersr.installation import how_to_install

from .config import ConfigError

TEXTURE_FLOOR = 1e-2
"""Of a feature's mean square: deviations below are not told apart."""

PATTERN_FLOOR = 5e-4
"""Of a repeated pattern's deviation, about an eighth of a grey level: below, its loss is quadratic."""

KNOWN_SHARE = 0.2
"""Of the restored photo's own detail: an error no larger is no choice, as edges that are a little blurred are known."""

GRAIN_FLOOR = 2 / 255
"""Deviation of a fine band that is hard to see: two grey levels."""


class PerceptualLoss(nn.Module):
    """LPIPS (Zhang et al., 2018) between random windows of two pictures.

    Windows lie anywhere, so their position against the network's patches changes from step to step: a fixed one
    would print the patch grid into flat areas.

    Args:
        window: side of what VGG16 sees, in pixels.
        zoom: windows are up to so many times larger and shrunk to that, so that a pattern of one period is not always
            seen at the size that pleases VGG16 (E-LPIPS, Kettunen et al., 2019, arXiv:1906.03973, judges so too).
        turned: windows are mirrored or transposed and their colours exchanged, as E-LPIPS does; in half of the steps
            they are instead turned by any angle, so that the network's own pixel grid is not always VGG16's.

    Raises:
        ConfigError: pyiqa or its VGG16 weights are missing.
    """

    def __init__(self, window: int, zoom: float = 1.0, turned: bool = False):
        super().__init__()
        self.window, self.zoom, self.turned = window, zoom, turned
        try:
            import pyiqa

            self.metric = pyiqa.create_metric("lpips-vgg", as_loss=True)
        except ImportError as error:
            raise ConfigError(f"perceptual.weight: needs pyiqa; {how_to_install('train')}") from error
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"perceptual.weight: VGG16 weights for LPIPS were not found in TORCH_HOME and could "
                              f"not be fetched ({type(error).__name__})") from error
        self.metric.requires_grad_(False)
        self._seen: list[Tensor] = []
        self._windows: tuple[Tensor, ...] = ()
        net = self.metric.net.net
        for part in (net.slice1, net.slice2, net.slice3, net.slice4):  # to relu1_2, relu2_2, relu3_3, relu4_3
            part.register_forward_hook(lambda _part, _inputs, features: self._seen.append(features))

    @property
    def features(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of the last windows: of the output, with gradients, and of the truth.

        Four of VGG16's feature maps, and three bands of the pixels' own spectrum: VGG16 hardly sees a pattern of two
        pixels' period, people and other networks do.
        """
        output, truth = (fine_bands(window) for window in self._windows)
        return self._seen[4:] + output, self._seen[:4] + truth  # pyiqa evaluates the truth first

    def forward(self, output: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
        """output, truth (B, 3, H, W) in [0, 1] -> a scalar."""
        self._seen.clear()
        output, truth = random_window(output, truth, self.window, generator, self.zoom)
        if self.turned:
            output, truth = turn(output, truth, generator)
        self._windows = output, truth
        return self.metric(output.clamp(0, 1), truth).mean()


def random_window(output: Tensor, truth: Tensor, size: int, generator: torch.Generator,
                  zoom: float = 1.0) -> tuple[Tensor, Tensor]:
    """The same window of both, (B, 3, H, W) each, anywhere, as at most size x size pixels.

    It covers up to `zoom` times as much along a side, and is then shrunk. In fp32: autocast's bf16 pictures cannot be
    shrunk on a CPU.
    """
    side = size if zoom == 1 else round(size * (1 + (zoom - 1) * float(torch.rand((), generator=generator))))
    side = min(side, output.shape[-2], output.shape[-1])
    top = int(torch.randint(output.shape[-2] - side + 1, (), generator=generator))
    left = int(torch.randint(output.shape[-1] - side + 1, (), generator=generator))
    box = (..., slice(top, top + side), slice(left, left + side))
    if side <= size:
        return output[box].float(), truth[box].float()
    ours, theirs = (F.interpolate(picture[box].float(), (size, size), mode="bilinear", antialias=True)
                    for picture in (output, truth))
    return ours, theirs


def turn(output: Tensor, truth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random turn of both, (B, 3, S, S) each, and the same random order of the colours.

    Half of the time by any angle about the middle, where what the turn brings in from outside is the mirror image of
    the inside; else by one of the square's eight symmetries, which interpolates nothing.
    """
    angle = 2 * math.pi * float(torch.rand((), generator=generator))
    by_angle, *mirrored = (torch.rand(4, generator=generator) < 0.5).tolist()
    colours = torch.randperm(3, generator=generator)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])

    def turned(picture: Tensor) -> Tensor:
        picture = picture[:, colours]
        if by_angle:
            grid = F.affine_grid(rotation.to(picture).expand(len(picture), 2, 3), picture.shape, align_corners=False)
            return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)
        picture = picture.flip([axis for axis, mirror in zip((-1, -2), mirrored[:2], strict=True) if mirror])
        return picture.transpose(-1, -2) if mirrored[2] else picture

    return turned(output), turned(truth)


def fine_bands(picture: Tensor) -> list[Tensor]:
    """(B, 3, H, W) -> what three binomial filters, each of twice the reach of the one before, take away, in turn.

    The third holds what is left of the LR photo's own noise: enlarged by 4, it has no period below 8 pixels.
    """
    kernel = torch.tensor([0.25, 0.5, 0.25]).to(picture)
    kernel = torch.outer(kernel, kernel).expand(picture.shape[1], 1, 3, 3)
    bands = []
    for reach in (1, 2, 4):
        around = F.pad(picture, (reach,) * 4, mode="replicate")
        smooth = F.conv2d(around, kernel, dilation=reach, groups=picture.shape[1])
        bands.append(picture - smooth)
        picture = smooth
    return bands


def texture_distance(output: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """How far textures are from the truth's: a scalar, 0 where they are the same.

    A texture is the standard deviation of each feature within cells of 8x8, of which the logarithms are compared: a
    smooth area that should be rough costs as much as a rough one that should be smooth. Statistics of VGG's features
    as a description of texture: Gatys et al. (2015, arXiv:1505.07376).

    Args:
        output, truth: feature maps (B, C_k, h_k, w_k).
    """
    distances = []
    for ours, theirs in zip(output, truth, strict=True):
        power = theirs.detach().square().mean((0, 2, 3), keepdim=True)  # of each feature; some are hardly ever there
        floor = TEXTURE_FLOOR * power.clamp_min(TEXTURE_FLOOR * power.mean())
        distances.append((_log_variance(ours, floor) - _log_variance(theirs, floor)).abs().mean())
    return torch.stack(distances).mean()


def repeated_pattern(difference: Tensor, period: int = 4, window: int = 32) -> Tensor:
    """How strong a pattern that repeats every `period` pixels is within windows: its deviation, a scalar.

    A convolutional network that enlarges by 4 gives a smooth input the same 4x4 pixels over and over, and VGG's
    features like them better than smoothness. Grain, which does not repeat, averages out and may stay.

    Args:
        difference: (B, C, H, W), the output less the truth, so that a pattern of the truth's own costs nothing.
        period: of the pattern, in pixels.
        window: of the averages, in pixels; they overlap by half.
    """
    smooth = F.avg_pool2d(F.pad(difference, (period // 2, period // 2 - 1) * 2, mode="replicate"), period, 1)
    phases = F.pixel_unshuffle(difference - smooth, period)               # (B, C period^2, H / period, W / period)
    mean = F.avg_pool2d(phases, window // period, max(1, window // period // 2))
    mean = mean.unflatten(1, (difference.shape[1], period**2))            # (B, C, period^2, h, w)
    return (mean.var(2, correction=0).mean(1) + PATTERN_FLOOR**2).sqrt().mean() - PATTERN_FLOOR


def repeated_steps(output: Tensor, truth: Tensor, period: int = 32) -> Tensor:
    """How far steps that come back every `period` pixels stand out of the others: their deviation, a scalar.

    The blocks of a JPEG are eight LR pixels wide. Where they begin, the enlarged photo steps, up here and down there,
    so that means of the error do not see it; means of the steps' sizes do.

    Args:
        output, truth: (B, C, H, W), at least a period wide and high. Steps of the truth's own cost nothing.
        period: in pixels.
    """
    deviations = []
    for axis in (2, 3):
        ours, theirs = (picture.float().diff(dim=axis).abs().mean((1, 5 - axis)) for picture in (output, truth))
        count = ours.shape[1] // period or 1  # of the last period one step is missing, or more
        phases = (ours - theirs)[:, : count * period].unflatten(1, (count, -1)).mean(1)  # (B, period)
        deviations.append((phases.var(1, correction=0) + PATTERN_FLOOR**2).sqrt().mean() - PATTERN_FLOOR)
    return (deviations[0] + deviations[1]) / 2


def excess_grain(output: Tensor, truth: Tensor) -> Tensor:
    """How much more the output's fine bands deviate than the truth's, where they deviate more: a scalar.

    The excess is a share of the truth's own deviation within cells of 8x8 pixels, so it is felt where the truth is flat
    and hardly where it is rough. Unlike a difference of logarithms it grows with the grain, and so speaks of the photo
    that is left noisy, and not of all that are almost clean. VGG's features do not mind grain in a sky; people do.

    Args:
        output, truth: (B, C, H, W) in [0, 1].
    """
    excess = []
    for ours, theirs in zip(fine_bands(output.float()), fine_bands(truth.float()), strict=True):
        deviation, expected = (_variance(band).add(GRAIN_FLOOR**2 * 1e-4).sqrt() for band in (ours, theirs))
        excess.append(((deviation - expected).clamp_min(0) / (expected + GRAIN_FLOOR)).mean())
    return torch.stack(excess).mean()


def variety_error(first: Tensor, second: Tensor, truth: Tensor, restored: Tensor, share: float) -> Tensor:
    """How far the difference of two versions is from a share of what the restored photo cannot know: squared, a scalar.

    Two samples of a photo should differ as much as its restored mean errs, and where it does. Only detail counts, as
    means of its size in grey within cells of 8x8 pixels. What is left of the error behind a flat area's grain and
    behind the blur of edges that the restored photo has is no choice, and there two versions are asked to be the same.
    The square asks for the mean of what truths may hold; L1 would ask for their median, where most hold nothing. To
    ask versions to differ is DSGAN's idea (Yang et al., 2019, arXiv:1901.09024).

    Args:
        first, second, truth, restored: (B, 3, H, W) in [0, 1]; the last two have no gradient.
        share: 0 to 1.4; samples of the true distribution would differ by about 1.4.
    """
    error, known, found = (_detail(picture) for picture in (truth - restored, restored, first - second))
    choice = (error - KNOWN_SHARE * known - GRAIN_FLOOR).clamp_min(0)
    return (found - share * choice).square().mean()


def _detail(picture: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H / 8, W / 8), the mean size within cells of what the fine bands of its grey hold."""
    return F.avg_pool2d(sum(fine_bands(picture.float().mean(1, keepdim=True))).abs(), 8)


def _log_variance(features: Tensor, floor: Tensor | float) -> Tensor:
    """(B, C, h, w) -> the logarithm of the deviation within cells of 8x8 features, overlapping by half."""
    return (_variance(features) + floor).log() / 2


def _variance(features: Tensor) -> Tensor:
    """(B, C, h, w) -> of each feature within cells of 8x8, overlapping by half."""
    size = min(8, features.shape[-1])
    mean = F.avg_pool2d(features, size, size // 2)
    return (F.avg_pool2d(features.square(), size, size // 2) - mean.square()).clamp_min(0)
