"""Every kernel of the library lowers for GPU and TPU on a machine without one, in single precision throughout.

The optimizers do so in the battery, `test_optim_battery.py`; and float6 rounding and the like in their own files.
"""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import rxjax as rx

TESTS = Path(__file__).parent
SCRIPT = TESTS / "lowered_kernels.py"
PACKAGES = ["budget", "hardware", "landscapes", "measure", "optim", "planes", "plot", "proposals", "quantization"]
# Public names that are no programs for a device, by the reason.
NOT_KERNELS = {
    "holds what a kernel returns": """
        rx.BarrierFit rx.Barriers rx.Escape rx.Flow rx.GridFlow rx.JumpRate rx.MergeTree rx.Minima rx.MinimaDensity
        rx.MonitorState rx.OptimalRate rx.RateScaling rx.SGDUpdates rx.landscapes.PlaneLandscape
        rx.measure.Estimate rx.measure.GradientNoise rx.measure.LargestEigenvalue rx.measure.LowRank
        rx.measure.PathBetween rx.measure.Report rx.measure.Spectrum rx.measure.StepRates rx.measure.TwoBatchNoise
        rx.optim.AnnealTemperatureState rx.optim.BatchControllerState rx.optim.ControllerState rx.optim.LangevinState
        rx.optim.OptimalLearningRateState rx.optim.RateControlState rx.optim.RateScheduleState
        rx.optim.ReactionRateState rx.planes.DensityDistance rx.planes.ExitTime rx.planes.MeasuredPlane
        rx.planes.PlaneRuns rx.planes.PrincipalDirections rx.quantization.SurvivalReport
        rx.solvers.Deflated rx.solvers.Ensemble rx.solvers.ExitTimes rx.solvers.Factor rx.solvers.Jumps
        rx.solvers.Paths rx.solvers.Solution rx.landscapes.CallableLandscape""",
    "words for an outcome": "rx.measure.RESULTS rx.solvers.RESULTS",
    "abstract": """
        rx.AbstractNoise rx.AbstractRateLaw rx.landscapes.AbstractLandscape rx.proposals.AbstractProposal
        rx.solvers.AbstractGenerator""",
    "a part that `solve` puts together, lowered inside it": "rx.solvers.GeneratorTerm rx.solvers.DensityController",
    "searches on the host, by small programs of its own": "rx.find_barriers",
    "a table or a tree made on the host": "rx.merge_tree rx.to_dataset",
    "reads shapes alone, while compiling": "rx.stencil rx.landscapes.check_landscape",
    "a switch for tracing": "rx.solvers.checks_off",
    "draws": """
        rx.disconnectivity_graph rx.plot.animate rx.plot.density rx.plot.heatmap rx.plot.loss rx.plot.status""",
    "compiles and runs what the user gives it": "rx.sweep rx.budget.estimate rx.budget.fit",
    "a plan, in numbers of the host": "rx.budget.Estimate rx.budget.Proposal",
    "looks at the machine at hand": """
        rx.hardware.Hardware rx.hardware.Report rx.hardware.Scaling rx.hardware.StepRate rx.hardware.available_memory
        rx.hardware.known_problems rx.hardware.measure rx.hardware.parallel_efficiency rx.hardware.report
        rx.hardware.self_tests rx.hardware.updates_per_second""",
}


def test_kernels_lower_for_gpu_and_tpu():
    # Checks call back to the host: ours are switched off in the script, those of Equinox and diffrax by its variable.
    environment = os.environ | {"EQX_ON_ERROR": "off"}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = ["stepping", "passage", "particles", "rates", "rounding", "surfaces", "minima", "measurements"]
    kernels += ["on_planes", "training", "in_complex_numbers"]
    assert done.stdout.splitlines() == [*kernels, "callback refused"]


def mentioned(file, **aliases):
    """The dotted names inside the functions of a file, and in its table of optimizers."""

    def dotted(node):
        if isinstance(node, ast.Name):
            return aliases.get(node.id, f"rx.{node.id}" if node.id in [*PACKAGES, "solvers"] else node.id)
        return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""

    nodes = [n for n in ast.parse((TESTS / file).read_text()).body if isinstance(n, ast.FunctionDef | ast.Assign)]
    tables = [n for n in nodes if isinstance(n, ast.FunctionDef) or ast.unparse(n.targets[0]) == "OPTIMIZERS"]
    return {dotted(n) for table in tables for n in ast.walk(table) if isinstance(n, ast.Attribute)}


def test_every_public_callable_is_lowered_or_says_why_not():
    modules = {"rx": rx, **{f"rx.{name}": importlib.import_module(f"rxjax.{name}") for name in [*PACKAGES, "solvers"]}}
    ours = lambda thing: callable(thing) and str(getattr(thing, "__module__", "")).startswith("rxjax")
    lazy = {"rx.sweep", "rx.to_dataset"}
    public = lazy | {
        f"{path}.{name}"
        for path, module in modules.items()
        for name, thing in vars(module).items()
        if not name.startswith("_") and ours(thing)
    }
    lowered = mentioned("lowered_kernels.py") | mentioned("optimizers.py", RATE="rx.optim")
    excused = [name for names in NOT_KERNELS.values() for name in names.split()]
    assert len(set(excused)) == len(excused)
    missing = public - lowered - set(excused)
    assert not missing, f"{sorted(missing)} must be lowered in lowered_kernels.py, or say in NOT_KERNELS why not."
    assert not set(excused) - public, f"{sorted(set(excused) - public)} are not public."
    assert not set(excused) & lowered, f"{sorted(set(excused) & lowered)} are lowered."
