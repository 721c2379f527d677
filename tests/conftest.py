"""Shape checks on the math modules, and threads that don't fight over two cores."""

import os

from jaxtyping import install_import_hook

if os.environ.get("DEARKD_NO_SHAPE_CHECKS") != "1":  # tests that compile or export switch it off
    install_import_hook(
        [
            "dearkd.losses",
            "dearkd.objectives",
            "dearkd.evaluate",
            "dearkd.mixing",
            "dearkd.models",
            "synth.priors",
            "synth.intra_divergence",
            "synth.bn_statistics",
            "synth.augment",
            "synth.quality",
        ],
        "beartype.beartype",
    )

import torch  # noqa: E402 - after the hook, which must see the first import of our modules

torch.set_num_threads(1)
