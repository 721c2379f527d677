"""What is annotated with shapes is checked in these tests."""

import importlib.util
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from dearkd.analysis.calibration import reliability
from dearkd.losses import cross_entropy

ROOT = Path(__file__).parents[1]
# beartype draws from Python's generator, which augmentations draw from as well.
UNCHECKED = {"dearkd.data.augment"}


def names_of_annotated_modules() -> set[str]:
    files = [*(ROOT / "dearkd").rglob("*.py"), *(ROOT / "synth").rglob("*.py")]
    annotated = [file for file in files if "from jaxtyping import" in file.read_text()]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in annotated}


@pytest.mark.parametrize("name", sorted(names_of_annotated_modules() - UNCHECKED))
def test_annotated_modules_are_loaded_with_checks(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert type(spec.loader).__module__ == "jaxtyping._import_hook"


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        cross_entropy(torch.zeros(2, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(TypeCheckError):
        reliability(torch.zeros(2), torch.zeros(4, dtype=torch.bool))
