"""Every kernel of the library lowers for GPU and TPU on a machine without one, in single precision throughout.

The optimizers do so in the battery, `test_optim_battery.py`; and float6 rounding and the like in their own files.
"""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "lowered_kernels.py"


def test_kernels_lower_for_gpu_and_tpu():
    # Checks call back to the host: ours are switched off in the script, those of Equinox and diffrax by its variable.
    environment = os.environ | {"EQX_ON_ERROR": "off"}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = ["stepping", "passage", "particles", "rates", "rounding", "surfaces"]
    assert done.stdout.splitlines() == [*kernels, "callback refused"]
