"""Optimizers of the rate theory: optax transformations that find their learning rate, batch size and temperature."""

from ._aliases import rate_adamw as rate_adamw, rate_sgd as rate_sgd
from ._anneal_temperature import (
    AnnealTemperatureState as AnnealTemperatureState,
    anneal_temperature as anneal_temperature,
)
from ._batch_controller import BatchControllerState as BatchControllerState, batch_controller as batch_controller
from ._batch_rules import (
    annealed_accumulation as annealed_accumulation,
    noise_scale_batch as noise_scale_batch,
    norm_test_batch as norm_test_batch,
)
from ._controller import ControllerState as ControllerState
from ._langevin import (
    LangevinState as LangevinState,
    langevin as langevin,
    preconditioned_langevin as preconditioned_langevin,
)
from ._optimal_learning_rate import (
    OptimalLearningRateState as OptimalLearningRateState,
    optimal_learning_rate as optimal_learning_rate,
)
from ._rate_control import RateControlState as RateControlState, rate_control as rate_control
from ._rate_schedule import RateSchedule as RateSchedule, RateScheduleState as RateScheduleState
from ._scale_by_reaction_rate import (
    ReactionRateState as ReactionRateState,
    scale_by_reaction_rate as scale_by_reaction_rate,
)
from ._temperature_schedules import (
    constant_entropy_production as constant_entropy_production,
    cosine_temperature as cosine_temperature,
    geometric_temperature as geometric_temperature,
    linear_temperature as linear_temperature,
)
