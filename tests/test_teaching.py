"""The rule that weighs labels and teacher: its defaults, and what has no effect."""

from typing import Any, get_args, get_type_hints

import pytest

from dearkd import teaching
from dearkd.errors import UserError
from dearkd.models import aligner, heads, pairs
from dearkd.training import settings


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, (0.5, 0.5, None)),
        ({"logits": "soft"}, (0.9, 0.1, 3.0)),
        ({"logits": "standardized"}, (0.1, 0.9, 2.0)),
        ({"class_weight": 0.0}, (0.0, 1.0, None)),
        ({"logits": "soft", "class_weight": 0.0}, (0.0, 1.0, 4.0)),
        ({"logits": "soft", "alpha": 1.0}, (0.0, 1.0, 4.0)),
        ({"logits": "standardized", "class_weight": 0.0}, (0.0, 1.0, 2.0)),
        ({"logits": "soft", "class_weight": 0.7}, (0.7, 0.3, 3.0)),
        ({"logits": "soft", "alpha": 0.3}, (0.7, 0.3, 3.0)),
        ({"class_weight": 1.0, "alpha": 0.2}, (1.0, 0.2, None)),
        ({"alpha": 0.0}, (1.0, 0.0, None)),
        ({"logits": "soft", "temperature": 5.0}, (0.9, 0.1, 5.0)),
    ],
)
def test_what_is_left_open(given: dict[str, Any], found: tuple[Any, ...]) -> None:
    rule = teaching.teaching(**given)
    assert (rule.class_weight, rule.alpha, rule.temperature) == found
    assert teaching.teaching(**vars(rule)) == rule  # as a run that goes on has it


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": 2.0}, "temperature=2.0 has no effect with distill.logits=hard"),
        (
            {"class_weight": 0.0, "alpha": 0.5},
            "alpha=0.5 has no effect with distill.class",
        ),
        ({"logits": "soft", "alpha": 0.0}, "logits=soft has no effect with distill.alpha=0"),
        ({"alpha": -0.1}, "alpha must be at least 0 and at most 1, got -0.1"),
        ({"class_weight": 1.1}, "class_weight must be at least 0 and at most 1, got 1.1"),
        ({"logits": "soft", "temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_what_can_have_no_effect_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        teaching.teaching(**given)


def test_the_configuration_has_the_same_words() -> None:
    """It can't import them, because that loads torch."""
    for name, owner in {
        "Logits": teaching,
        "Token": heads,
        "PairPreset": pairs,
        "AlignerKind": aligner,
        "TargetScale": aligner,
    }.items():
        assert get_args(getattr(settings, name)) == get_args(getattr(owner, name)), name
    assert set(vars(aligner.AlignerForm())) < get_type_hints(settings.DistillConfig).keys()
