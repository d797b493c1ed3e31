"""What each metric is and what it asks for, in a few words; `docs/optimizers.md` has the sentences."""

from collections.abc import Callable
from typing import NamedTuple


class Entry(NamedTuple):
    """One line of the live table."""

    meaning: str
    advice: Callable[[float], str] = lambda x: ""


def _edge(x: float) -> str:
    return "above the edge of stability" if x > 1.05 else "at the edge" if x > 0.9 else ""


def _log_rate(x: float) -> str:
    return "drift: room for heat" if x > 0.5 else "at equilibrium: cool or stop" if x < -0.9 else ""


def _balance(x: float) -> str:
    return "in equilibrium: cool or stop" if 0.8 < x < 1.25 else ""


def _growth(x: float) -> str:
    return "drifting" if x > 1.5 else "diffusing" if x > 0.6 else "confined"


def _below(limit: float | int, words: str) -> Callable[[float], str]:
    return lambda x: words if x < limit else ""


def _above(limit: float | int, words: str) -> Callable[[float], str]:
    return lambda x: words if x > limit else ""


ENTRIES: dict[str, Entry] = {
    "steps": Entry("finite steps so far"),
    "nonfinite": Entry("steps left out", _above(0, "NaN or infinite: look at data and rate")),
    "loss": Entry("loss of the batch"),
    "grad_norm": Entry("|g|"),
    "update_norm": Entry("|update|"),
    "param_norm": Entry("|parameters|"),
    "update_ratio": Entry("|update| / |parameters|", _above(0.1, "large: lower the rate")),
    "learning_rate": Entry("as the optimizer says"),
    "rate": Entry("|update| / |g|"),
    "recommended_learning_rate": Entry("where the gauge would move it"),
    "phase": Entry("0 growth, 1 controlled"),
    "skipped": Entry("steps the optimizer skipped"),
    "log_rate": Entry("of the last reaction", _log_rate),
    "gauge": Entry("log-rate, averaged", _below(-0.5, "too hot: lower the rate")),
    "fluctuation_dissipation": Entry("1 at equilibrium", _balance),
    "growth_exponent": Entry("of squared displacement", _growth),
    "temperature": Entry("(rate/2) tr C"),
    "temperature_per_parameter": Entry("the same over d"),
    "trace_c": Entry("noise of the batch gradient"),
    "squared_gradient": Entry("|G|^2 below the noise"),
    "noise_to_signal": Entry("tr C / |G|^2", _above(10, "noisy: a larger batch pays")),
    "trace_sigma": Entry("noise of one example"),
    "critical_batch": Entry("tr Sigma / |G|^2"),
    "recommended_batch": Entry("by the norm test, or the optimizer"),
    "noise_scale": Entry("rate N / B"),
    "lambda_max": Entry("sharpness of the batch"),
    "lambda_max_error": Entry("its residual"),
    "edge": Entry("rate lambda_max / 2", _edge),
    "batch_sharpness": Entry("curvature along the gradient"),
    "step_edge": Entry("overshoot along the step", _above(1, "steps climb: lower the rate")),
    "sde_valid": Entry("1: a diffusion", _below(0.5, "steps too large for a diffusion")),
    "barrier": Entry("back to the last snapshot"),
    "ridge": Entry("above both ends", _above(0, "another basin since then")),
    "survival": Entry("updates kept, by count", _below(0.5, "lost in rounding: stochastic rounding")),
    "survival_abs": Entry("by |update|"),
    "survival_squared": Entry("by update^2"),
}
