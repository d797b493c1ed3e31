"""The reaction-rate picture of deep learning in JAX."""

from . import landscapes as landscapes
from . import solvers as solvers
from ._flow import Flow as Flow
from ._flow import probability_flow as probability_flow
from ._hyperparameters import Hyperparameters as Hyperparameters
from ._temperature import (
    adam_temperature as adam_temperature,
)
from ._temperature import (
    batch_covariance as batch_covariance,
)
from ._temperature import (
    effective_temperature as effective_temperature,
)
from ._temperature import (
    noise_scale as noise_scale,
)
from ._version import __version__ as __version__
