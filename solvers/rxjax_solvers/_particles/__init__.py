from ._exit_times import ExitTimes as ExitTimes, sample_exit_times as sample_exit_times
from ._gillespie import Jumps as Jumps, gillespie as gillespie
from ._langevin import Paths as Paths, langevin as langevin
from ._sgd import Ensemble as Ensemble, sgd_ensemble as sgd_ensemble
