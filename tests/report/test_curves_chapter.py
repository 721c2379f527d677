"""The chapter of curves: the titles of what is logged."""

import pytest

from dearkd.report.curves_chapter import term_title


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("hidden", "L_hidden: distance to the teacher's features"),
        ("hidden_0", "L_hidden of pair 1"),
        ("hidden_11", "L_hidden of pair 12"),
        ("hidden_x", "Term hidden_x"),
        ("mine", "Term mine"),
    ],
)
def test_each_pair_of_the_hidden_loss_has_a_curve_of_its_own(key, title):
    assert term_title(key) == title
