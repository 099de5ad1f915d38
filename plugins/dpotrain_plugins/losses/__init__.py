"""The built-in losses, one module for each family.

Each is a function of one pair's scores alone, but for those of :mod:`.over_step`, ``bco`` with its running mean and
``sft`` per token. In docstrings ``h`` is the difference of the two log-ratios,

    h = log pi(y_w|x)/ref(y_w|x) - log pi(y_l|x)/ref(y_l|x),

so that ``beta * h`` is the margin between the two implicit rewards of DPO; ``w`` is the chosen answer and ``l`` the
rejected one, ``|w|`` and ``|l|`` their numbers of scored tokens.
"""

from __future__ import annotations

from dpotrain import hookimpl
from dpotrain.plugin.api import Loss
from dpotrain_plugins.losses.discopop import DiscoPop
from dpotrain_plugins.losses.dpo import Dpo
from dpotrain_plugins.losses.hinge import Hinge
from dpotrain_plugins.losses.ipo import Ipo
from dpotrain_plugins.losses.label_noise import Exo, Robust
from dpotrain_plugins.losses.mix import Mix
from dpotrain_plugins.losses.over_step import Aot, AotUnpaired, BetaDpo
from dpotrain_plugins.losses.per_answer import ApoDown, ApoZero, Bco, CalDpo, Nca, Sppo
from dpotrain_plugins.losses.per_token import AlphaPo, DpoNorm, Simper, Simpo
from dpotrain_plugins.losses.shifted import Dpop, DpoShift, Odpo, RDpo
from dpotrain_plugins.losses.with_nll import Cpo, Orpo, Sft, Slic

dpotrain_interface = 2

#: Those of a pair by itself, as they are listed: the usual ones, those with a reference by family, those without.
LOSSES: tuple[type[Loss], ...] = (
    *(Dpo, Ipo, Hinge),
    *(Robust, Exo),
    *(DpoNorm,),
    *(Dpop, Odpo, RDpo, DpoShift),
    *(Nca, Bco, Sppo, CalDpo, ApoZero, ApoDown),
    *(DiscoPop,),
    *(Simpo, AlphaPo, Simper),
    *(Cpo, Orpo, Slic, Sft),
)

#: Those that are only of all pairs of a step.
COUPLED: tuple[type[Loss], ...] = (Aot, AotUnpaired, BetaDpo)


@hookimpl
def dpotrain_losses() -> list[type[Loss]]:
    return [*LOSSES, *COUPLED, Mix]
