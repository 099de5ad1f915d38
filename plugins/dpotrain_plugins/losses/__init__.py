"""The built-in losses: sigmoid DPO with label smoothing, IPO, and the hinge. One module for each family.

Each is a function of one pair's log-ratios alone. With ``h`` the difference of the two log-ratios,

    h = log pi(y_w|x)/ref(y_w|x) - log pi(y_l|x)/ref(y_l|x),

``beta * h`` is the margin between the two implicit rewards of DPO.
"""

from __future__ import annotations

from dpotrain import hookimpl
from dpotrain.plugin.api import Loss
from dpotrain_plugins.losses.dpo import Dpo
from dpotrain_plugins.losses.hinge import Hinge
from dpotrain_plugins.losses.ipo import Ipo
from dpotrain_plugins.losses.mix import Mix

dpotrain_interface = 2


@hookimpl
def dpotrain_losses() -> list[type[Loss]]:
    return [Dpo, Ipo, Hinge, Mix]
