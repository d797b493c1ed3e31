"""The reaction-rate picture of deep learning in JAX: rates, temperature, landscapes and the flow of probability."""

import importlib
from typing import TYPE_CHECKING, Any

from . import (
    budget as budget,
    hardware as hardware,
    landscapes as landscapes,
    measure as measure,
    optim as optim,
    planes as planes,
    proposals as proposals,
    quantization as quantization,
    solvers as solvers,
)
from ._barriers import (
    Barriers as Barriers,
    MergeTree as MergeTree,
    disconnectivity_graph as disconnectivity_graph,
    find_barriers as find_barriers,
    merge_tree as merge_tree,
)
from ._critical_rates import (
    batch_sharpness as batch_sharpness,
    critical_learning_rate as critical_learning_rate,
    sgd_critical_learning_rate as sgd_critical_learning_rate,
)
from ._entropy import free_entropy as free_entropy, gaussian_entropy as gaussian_entropy
from ._escape import (
    AbstractNoise as AbstractNoise,
    ConstantNoise as ConstantNoise,
    CurvatureNoise as CurvatureNoise,
    Escape as Escape,
    SquareLossNoise as SquareLossNoise,
    escape_time as escape_time,
    kramers_time as kramers_time,
    log_escape_time as log_escape_time,
    log_kramers_time as log_kramers_time,
    sgd_escape_time as sgd_escape_time,
)
from ._flow import Flow as Flow, probability_flow as probability_flow
from ._flow_field import flow_field as flow_field, log_total_rate as log_total_rate, total_rate as total_rate
from ._hyperparameters import Hyperparameters as Hyperparameters
from ._jump_rate import JumpRate as JumpRate, jump_rate as jump_rate
from ._minima import Minima as Minima, find_minima as find_minima
from ._minima_network import minima_network as minima_network
from ._minima_statistics import (
    BarrierFit as BarrierFit,
    MinimaDensity as MinimaDensity,
    expected_minima_density as expected_minima_density,
    fit_barrier_distribution as fit_barrier_distribution,
    minima_density as minima_density,
)
from ._monitor import Monitor as Monitor, MonitorState as MonitorState
from ._optimal_rate import (
    expected_decrease as expected_decrease,
    maximal_learning_rate as maximal_learning_rate,
    noise_batch_size as noise_batch_size,
    optimal_learning_rate as optimal_learning_rate,
    optimal_rate_at_batch as optimal_rate_at_batch,
)
from ._optimal_rate_integral import (
    OptimalRate as OptimalRate,
    optimal_learning_rate_integral as optimal_learning_rate_integral,
)
from ._proposal_nodes import SGDProposal as SGDProposal, SGDUpdates as SGDUpdates
from ._rate_laws import (
    AbstractRateLaw as AbstractRateLaw,
    Arrhenius as Arrhenius,
    Glauber as Glauber,
    Metropolis as Metropolis,
    Symmetric as Symmetric,
)
from ._rate_on_grid import (
    GridFlow as GridFlow,
    flow_on_grid as flow_on_grid,
    rate_on_grid as rate_on_grid,
    stencil as stencil,
    total_rate_on_grid as total_rate_on_grid,
)
from ._rate_scaling import RateScaling as RateScaling, fit_rate_scaling as fit_rate_scaling
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
from ._stationary_covariance import sgd_stationary_covariance as sgd_stationary_covariance
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
    from ._sweep import sweep as sweep

# Matplotlib and xarray are loaded when they are first asked for.
_LAZY = {
    "plot": ("rxjax.plot", None),
    "sweep": ("rxjax._sweep", "sweep"),
    "to_dataset": ("rxjax._dataset", "to_dataset"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(module)
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY} - {"Any", "TYPE_CHECKING", "importlib"})
