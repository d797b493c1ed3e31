"""Measuring the quantities of the theory on a network in training."""

from ._barrier_between import RESULTS as RESULTS, PathBetween as PathBetween, barrier_between as barrier_between
from ._batch_sharpness import batch_sharpness as batch_sharpness
from ._critical_batch_size import critical_batch_size as critical_batch_size
from ._estimate import Estimate as Estimate
from ._fluctuation_dissipation import fluctuation_dissipation as fluctuation_dissipation
from ._gradient_noise import GradientNoise as GradientNoise, gradient_noise as gradient_noise
from ._lambda_max import LargestEigenvalue as LargestEigenvalue, lambda_max as lambda_max
from ._local_entropy import local_entropy as local_entropy
from ._optimal_learning_rate import StepRates as StepRates, optimal_learning_rate as optimal_learning_rate
from ._report import Report as Report, report as report
from ._scatter import LowRank as LowRank
from ._spectrum import Spectrum as Spectrum, spectrum as spectrum
from ._trace import trace as trace
from ._two_batches import TwoBatchNoise as TwoBatchNoise, noise_from_two_batches as noise_from_two_batches
