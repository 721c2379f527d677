"""How a network is put on a device: its memory layout, and the form of its attention."""

from torch import device, nn

from dearkd.models.attention import set_attention
from dearkd.models.cost import LAYOUTS

__all__ = ["place"]


def place(network: nn.Module, target: device, memory_format: str) -> None:
    """Moves a network to a device; what is trained, judged and analysed is placed by this."""
    network.to(target).to(memory_format=LAYOUTS[memory_format])
    set_attention(network, target)
