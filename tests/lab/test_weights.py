"""The weights in the package: what they must at least do on photos that they never saw."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from skimage.segmentation import felzenszwalb
from sklearn.decomposition import PCA

import instancersr
from instancersr.instances.codes import colorize, decode_id_map, scale_target
from instancersr.instances.overlap import mean_iou
from instancersr.lab.method.degradation import degrade
from instancersr.lab.method.diffusion import decode, encode
from instancersr.model import BUILTIN


@pytest.fixture(scope="module")
def pipe():
    return instancersr.InstanceRSRPipeline.from_pretrained("builtin")


@pytest.fixture(scope="module")
def bad_photo() -> tuple[np.ndarray, np.ndarray]:
    """A clean 256x256 photo and its 64x64 degraded version."""
    clean = data.astronaut()[:256, 100:356]
    lr = degrade(torch.from_numpy(clean.copy()).permute(2, 0, 1)[None] / 255, "seesr", [7])[0]
    return clean, (lr * 255).round().byte().permute(1, 2, 0).numpy()


def bicubic(lr: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(lr).resize((4 * lr.shape[1], 4 * lr.shape[0]), Image.Resampling.BICUBIC))


def sharpness(picture: np.ndarray) -> float:
    """Mean absolute Laplacian of the grey picture, in grey levels."""
    gray = picture.astype(float).mean(2)
    return np.abs(4 * gray[1:-1, 1:-1] - gray[2:, 1:-1] - gray[:-2, 1:-1] - gray[1:-1, 2:] - gray[1:-1, :-2]).mean()


def test_they_are_small_and_have_a_model_card():
    assert sum(f.stat().st_size for f in BUILTIN.rglob("*.safetensors")) < 60e6
    card = (BUILTIN / "README.md").read_text()
    assert all(word in card for word in ("Training data", "Scores", "Limits"))


def test_upscale_is_sharper_than_bicubic_and_nearer_to_the_truth(pipe, bad_photo):
    """On the mean over both presets: a single draw may be noise that no method sees through."""
    clean, _ = bad_photo
    hr = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None] / 255
    gains = []
    for preset in ("seesr", "camera"):
        for seed in (1, 2, 7):
            lr = (degrade(hr, preset, [seed])[0] * 255).round().byte().permute(1, 2, 0).numpy()
            ours, plain = np.asarray(pipe(lr).images[0]), bicubic(lr)
            assert sharpness(ours) > 1.5 * sharpness(plain)
            gains.append(peak_signal_noise_ratio(clean, ours) - peak_signal_noise_ratio(clean, plain))
    assert np.mean(gains) > 0


def test_no_color_shift(pipe, bad_photo):
    _, lr = bad_photo
    ours = np.asarray(pipe(lr).images[0]).astype(float)
    assert np.abs(ours.mean((0, 1)) - lr.astype(float).mean((0, 1))).max() < 1.5


def test_the_top_level_function_is_the_builtin_pipeline(pipe, bad_photo):
    _, lr = bad_photo
    ours, expected = (np.asarray(picture).astype(int) for picture in (instancersr.upscale(lr), pipe(lr).images[0]))
    assert np.abs(ours - expected).max() <= 1


def test_a_flat_picture_stays_flat(pipe):
    """No grid at the patch period, no grain: a grey card has no detail to invent."""
    out = np.asarray(pipe(np.full((64, 64, 3), 128, np.uint8)).images[0]).astype(float)
    assert np.abs(out - 128).max() < 12 and out.std() < 2


def test_the_instance_map_holds_plain_objects(pipe):
    """A disc and a box on two grounds, degraded four times: mean IoU of .8, also where tiles meet."""
    rows, columns = np.indices((256, 640))
    truth = np.where(rows < 140, 1, 2)
    truth[(rows - 120) ** 2 + (columns - 330) ** 2 < 70**2], truth[170:230, 480:600] = 3, 4
    colors = np.array([[0, 0, 0], [0.5, 0.7, 0.9], [0.3, 0.4, 0.2], [0.8, 0.2, 0.2], [0.9, 0.9, 0.7]])
    hr = torch.from_numpy(colors[truth]).permute(2, 0, 1)[None].float()
    lr = (degrade(hr, "camera", [3])[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert mean_iou(truth, pipe(lr).instances[0]) > 0.8


def test_seeds_change_detail_not_content(pipe, bad_photo):
    _, lr = bad_photo
    a, b = (np.asarray(pipe(lr, quality="balanced", generator=torch.Generator().manual_seed(s)).images[0])
            for s in (1, 2))
    assert not np.array_equal(a, b) and peak_signal_noise_ratio(a, b) > 28


def photos() -> list[np.ndarray]:
    """scikit-image's, of sides that blocks divide."""
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    return [picture[: picture.shape[0] // 8 * 8, : picture.shape[1] // 8 * 8] for picture in pictures]


@torch.no_grad()
def test_autoencoder_carries_photos(pipe):
    """On photos to which it was never fitted it loses at most 2 dB to the best transform of that very photo."""
    for photo in photos():
        x = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
        ours = decode(pipe.autoencoder, encode(pipe.autoencoder, x)).clamp(0, 1)
        blocks = x[0].unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).reshape(-1, 192).numpy()
        best = PCA(pipe.autoencoder.config.latent_channels).fit(blocks)
        error = np.square(best.inverse_transform(best.transform(blocks)) - blocks).mean()
        assert 10 * np.log10((ours - x).square().mean().item() / error) < 2


@torch.no_grad()
def test_autoencoder_carries_instance_maps(pipe):
    """Ids -> colours -> autoencoder -> ids on photos' regions: mean IoU of .85 over instances of 32x32 px and more."""
    for number, photo in enumerate(photos()):
        ids = (felzenszwalb(photo, scale=300, sigma=0.8, min_size=1500) + 1).astype(np.int32)
        rgb = colorize(ids, {int(i): scale_target(f"photo{number}", int(i)) for i in np.unique(ids)})
        x = torch.from_numpy(rgb).permute(2, 0, 1)[None]
        y = decode(pipe.autoencoder, encode(pipe.autoencoder, x)).clamp(0, 1)
        assert ids.max() > 5 and mean_iou(ids, decode_id_map(y[0].permute(1, 2, 0).numpy())) >= 0.85
