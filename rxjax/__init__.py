"""The reaction-rate picture of deep learning in JAX: rates, temperature, landscapes and the flow of probability."""

import importlib
from typing import TYPE_CHECKING, Any

from . import landscapes as landscapes, proposals as proposals, quantization as quantization, solvers as solvers
from ._entropy import free_entropy as free_entropy, gaussian_entropy as gaussian_entropy
from ._flow import Flow as Flow, probability_flow as probability_flow
from ._flow_field import flow_field as flow_field, log_total_rate as log_total_rate, total_rate as total_rate
from ._hyperparameters import Hyperparameters as Hyperparameters
from ._rate_laws import (
    AbstractRateLaw as AbstractRateLaw,
    Arrhenius as Arrhenius,
    Glauber as Glauber,
    Metropolis as Metropolis,
    Symmetric as Symmetric,
)
from ._rates import (
    activation_energy as activation_energy,
    attempt_frequency as attempt_frequency,
    batch_modified_rate as batch_modified_rate,
    energy_difference as energy_difference,
    log_rate_density as log_rate_density,
    quantized_rate as quantized_rate,
    rate_density as rate_density,
    transition_probability as transition_probability,
    update_angle as update_angle,
)
from ._temperature import (
    adam_temperature as adam_temperature,
    batch_covariance as batch_covariance,
    effective_temperature as effective_temperature,
    noise_scale as noise_scale,
)
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import plot as plot
    from ._dataset import to_dataset as to_dataset

# Matplotlib and xarray are loaded when they are first asked for.
_LAZY = {"plot": ("rxjax.plot", None), "to_dataset": ("rxjax._dataset", "to_dataset")}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(module)
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value
    return value
