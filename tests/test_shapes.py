"""Where a value differs from a shape is told by its place; what fits is not told of."""

import pytest

from dearkd.misfit import misfit, number, whole
from dearkd.shapes import ANALYSIS, EPOCH, SUMMARY

SHAPE = {"a": whole, "b?": ([str], type(None)), ...: {...: number}}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"a": 1}, None),
        ({"a": 1, "b": None, "more": {"x": 0.5}}, None),
        ({"a": 1, "b": ["x"]}, None),
        ([], "it is a list"),
        ({}, "a is missing"),
        ({"a": True}, "a is True"),
        ({"a": 1.5}, "a is 1.5"),
        ({"a": 1, "b": ["x", 2]}, "b[1] is 2"),
        ({"a": 1, "more": {"x": float("nan")}}, "more.x is nan"),
        ({"a": 1, "more": 3}, "more is 3"),
        ({"a": "y" * 99}, f"a is '{'y' * 39}..."),
    ],
)
def test_a_misfit_is_told_by_its_place(value, fault):
    assert misfit(value, SHAPE) == fault


def test_lines_of_epochs_and_summaries():
    line = {"epoch": 0, "stage": "ce", "loss": 0.1, "top1": None, "token_cosine": [0.1, 0.2]}
    assert misfit(line, EPOCH) is None
    assert misfit({**line, "attention_distance": [[1.0], [1.0, 2.0]]}, EPOCH) is not None
    assert misfit({**line, "attention_distance": [1.0, 2.0]}, EPOCH) is not None
    assert misfit({**line, "token_cosine": [[0.1]]}, EPOCH) is not None
    assert misfit({**line, "loss": "small"}, EPOCH) is not None
    assert misfit({}, SUMMARY) is None
    assert misfit({"heads": {"class": {"top1": 5.0}}}, SUMMARY) == "heads.class.top5 is missing"


def test_analyses():
    block = {"alpha": [1.0, -1.0], "sigma": [0.7, None], "centres": [[0.0, 1.0], [1.0, 0.0]]}
    assert misfit({"position": [block]}, ANALYSIS) is None  # a head that looks at no place
    assert misfit({"position": [{**block, "sigma": ["wide"]}]}, ANALYSIS) is not None
    fault = misfit({"heads": {"logits": {"top1": 90.0}}}, ANALYSIS)
    assert fault == "heads.logits.reliability is missing"
