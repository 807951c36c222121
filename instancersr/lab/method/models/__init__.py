"""The networks. They know nothing of files, training or users."""

from .autoencoder import BlockAutoencoder
from .controlnet import ControlNet
from .detail_decoder import DetailDecoder
from .map_decoder import MapDecoder
from .restoration import RestorationNetwork
from .transformer import JointDiT

__all__ = ["BlockAutoencoder", "ControlNet", "DetailDecoder", "JointDiT", "MapDecoder", "RestorationNetwork"]
