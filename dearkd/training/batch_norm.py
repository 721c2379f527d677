"""BatchNorm's running statistics of a run in several processes, each of which sees its own views.

A process updates its own, r <- (1 - m) r + m b, in every forward pass. Their mean over processes is
what all of them would have with the mean of their batches' statistics, whenever it is taken, as the
update is linear: so it is taken before weights are judged or saved, and not in every step.
"""

from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["share_running_statistics"]


def share_running_statistics(network: nn.Module, accelerator: Accelerator) -> None:
    """Gives every process the mean of all processes' running means and variances.

    Source:
        timm's ``distribute_bn`` does so once an epoch.
    """
    if accelerator.num_processes == 1:
        return
    for module in network.modules():
        if isinstance(module, _NormBase):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    statistic.copy_(accelerator.reduce(statistic, "mean"))
