"""EfficientNet-Lite's published tensors under timm's names: in order, each pair of one kind."""

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_efficientnet_lite.py"


def load_script():
    spec = importlib.util.spec_from_file_location("convert_efficientnet_lite", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tensors_pair_up_in_order():
    renamed = load_script().renamed
    theirs = {
        "stem.0.weight": torch.ones(2, 3),
        "stem.1.weight": torch.ones(2),
        "stem.1.num_batches_tracked": torch.tensor(7),
        "head.bias": torch.zeros(4),
    }
    ours = {
        "conv.weight": torch.zeros(2, 3),
        "bn.weight": torch.zeros(2),
        "bn.num_batches_tracked": torch.tensor(0),
        "fc.bias": torch.zeros(4),
    }
    found = renamed(theirs, ours)
    assert found.keys() == ours.keys()
    assert torch.equal(found["conv.weight"], theirs["stem.0.weight"])
    assert torch.equal(found["bn.weight"], theirs["stem.1.weight"])
    for wrong in ({"head.weight": torch.zeros(4)}, {"head.bias": torch.zeros(5)}):
        rest = {key: value for key, value in theirs.items() if key != "head.bias"}
        with pytest.raises(SystemExit, match=r"head.* is not fc.bias \(4,\)"):
            renamed(rest | wrong, ours)
