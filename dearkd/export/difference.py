"""The difference between the logits of a network and of its export."""

import torch
from torch import Tensor

from dearkd.errors import UserError
from dearkd.export.formats import Readout
from dearkd.trained.exported import Graph
from dearkd.trained.trained import Trained

__all__ = ["CHECK_BATCHES", "difference"]

TOLERANCE = 1e-4
"""Largest difference of two logits that passes for rounding, as a share of the largest logit."""
CHECK_BATCHES = (1, 3)
"""Images that a model and its export are compared on."""


def difference(readout: Readout, exported: Trained) -> float:
    """Largest absolute difference of logits between a model and what was exported from it.

    Both are run on the same noise, in batches of 1 and 3 images.

    Raises:
        UserError: If they differ by more than rounding, or in the best class.
    """
    generator, size = torch.Generator().manual_seed(0), exported.img_size
    worst = 0.0
    for batch in CHECK_BATCHES:
        images = torch.randn(batch, 3, size, size, generator=generator)
        with torch.inference_mode():
            pairs = list(zip(readout(images), _outputs(exported, images), strict=True))
        for ours, theirs in pairs:
            gap, bound = float((ours - theirs).abs().max()), TOLERANCE * float(ours.abs().max())
            same = torch.equal(ours.argmax(1), theirs.argmax(1))
            if not (same and gap <= bound):
                raise UserError(
                    f"the exported model differs by {gap:.2g} on a batch of {batch} (rounding: "
                    f"{bound:.2g}; same best class: {'yes' if same else 'no'}), so nothing was "
                    "written; --no-check writes it all the same"
                )
            worst = max(worst, gap)
    return worst


def _outputs(exported: Trained, images: Tensor) -> tuple[Tensor, ...]:
    network = exported.network
    return network.outputs(images) if isinstance(network, Graph) else (network(images),)
