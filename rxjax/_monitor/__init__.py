"""A live look at a training run: temperature, noise, rates, edge of stability."""

from ._monitor import Monitor as Monitor
from ._state import MonitorState as MonitorState
