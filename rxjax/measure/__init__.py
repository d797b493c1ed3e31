"""Measuring the quantities of the theory on a network in training."""

from ._two_batches import TwoBatchNoise as TwoBatchNoise, noise_from_two_batches as noise_from_two_batches
