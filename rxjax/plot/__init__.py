"""Pictures: a flowing density (panels, mean loss, animation), sweeps (heat maps), training (a status page).

Every function draws with Matplotlib's objects alone, so that it works without a display and leaves no global state,
returns the `Figure`, and draws into an `ax` of yours if given one.  Save with `figure.savefig(path)`; in a notebook the
figure shows itself as the last value of a cell.
"""

from ._animate import animate as animate
from ._density import density as density
from ._heatmap import heatmap as heatmap
from ._loss import loss as loss
from ._status import status as status
