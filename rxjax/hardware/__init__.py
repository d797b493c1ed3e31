"""What the machine at hand can do, measured: bandwidth, matrix rate, latency, dtypes, and how near a program comes."""

from ._doctor import (
    Report as Report,
    known_problems as known_problems,
    report as report,
    self_tests as self_tests,
)
from ._measure import Hardware as Hardware, measure as measure
from ._memory import available_memory as available_memory
from ._scaling import (
    Scaling as Scaling,
    StepRate as StepRate,
    parallel_efficiency as parallel_efficiency,
    updates_per_second as updates_per_second,
)
