"""Engines compute the networks of a model; everything else of an upscale is numpy and the same for all of them."""
