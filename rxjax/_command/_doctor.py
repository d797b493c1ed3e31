"""The tables of `rxjax doctor`."""

from rich.console import Console
from rich.table import Table

from ..hardware import Hardware, Report
from ..hardware._memory import written


def show(report: Report, console: Console) -> None:
    """Print a report."""
    _table(console, "Versions", report.versions)
    for device in report.devices:
        _table(console, f"\nDevice: {device.device} ({device.platform})", rows(device))
    console.print(f"\n64-bit numbers (x64) are {'on' if report.x64 else 'off'}", highlight=False)
    for problem in report.problems:
        console.print(f"Problem: {problem}", style="bold red", highlight=False, soft_wrap=True)
    if not report.problems:
        console.print("No known problem.", style="green")


def rows(device: Hardware) -> dict[str, str]:
    """The rates of a device, name to text."""
    yes = ", ".join(name for name, works in device.dtypes.items() if works)
    no = ", ".join(name for name, works in device.dtypes.items() if not works)
    return {
        "memory to plan with": written(device.memory),
        "copy bandwidth": f"{device.copy_bandwidth / 1e9:.1f} GB/s, read and written",
        "matrix rate": f"{device.matrix_rate / 1e9:,.0f} GFLOP/s in float32",
        "dispatch latency": f"{device.dispatch_latency * 1e6:.0f} microseconds",
        "dtypes": yes,
        **({"dtypes that fail": no} if no else {}),
    }


def _table(console: Console, title: str, values: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, value)
    console.print(table)
