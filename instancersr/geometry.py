"""How large things are in units of each other: input pixels, output pixels, latents and tokens.

"Native" pixels are those of an output at the model's own enlargement, whatever the size that was asked for.
"""

SCALE = 4
"""Native pixels along the side of an input pixel."""
LATENT = 8
"""Native pixels along the side of a latent."""
TOKEN = 16
"""Native pixels along the side of a token of the transformer: 2x2 latents."""
LR_LATENT, LR_TOKEN = LATENT // SCALE, TOKEN // SCALE
"""Input pixels along the side of a latent and of a token."""
SMALLEST = 16
"""Least side of an input and of a tile, in input pixels."""
