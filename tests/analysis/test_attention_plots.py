"""The figures show the numbers they are given, and can be put on a page."""

import json
import math

import numpy as np
import pytest

from dearkd.analysis import attention_plots as plots
from dearkd.analysis.position_plot import position_heads, reach_of
from dearkd.analysis.reliability_plot import reliability_diagram

METRICS = [
    {"epoch": e, "attention_distance": [[1.0 + e, 3.0 + e], [2.0, 2.5]], "token_cosine": [0.1, 0.2]}
    for e in range(3)
]
POSITION = [
    {"alpha": [1.0, 0.5], "sigma": [math.sqrt(0.5), 1.0], "centres": [[-1.0, 2.0], [0.0, 0.0]]},
    {"alpha": [-0.5, 0.001], "sigma": [None, 22.4], "centres": [[0.0, 1.0], [0.5, 0.5]]},
]


def traces(figure):
    json.loads(figure.to_json())  # a page can hold it
    return {trace.name: trace for trace in figure.data}


def test_distance_by_epoch_has_a_curve_a_block_and_marks_the_switch():
    figure = plots.distance_by_epoch([*METRICS, {"epoch": 3}], {2.5: "stage2"})
    found = traces(figure)
    assert found.keys() == {"block 1", "block 2", "all blocks", "scale"}
    assert found["block 1"].x == (1, 2, 3)
    assert found["block 1"].y == (2.0, 3.0, 4.0)
    np.testing.assert_allclose(found["all blocks"].y, [2.125, 2.625, 3.125])
    assert [shape.x0 for shape in figure.layout.shapes] == [2.5]
    assert len({found[name].line.color for name in ("block 1", "block 2", "all blocks")}) == 3
    assert figure.layout.xaxis.dtick == 1  # three epochs have no halves
    bar = found["scale"].marker
    assert [bar.colorscale[0][1], bar.colorscale[-1][1]] == [
        found[f"block {n}"].line.color for n in (1, 2)
    ]


def test_blocks_of_two_kinds_are_told_apart():
    found = traces(plots.distance_by_epoch(METRICS, mhca_blocks=1))
    assert found["block 1"].line.dash == found["MHCA: blocks 1-1"].line.dash == "solid"
    assert found["block 2"].line.dash == found["MHSA: blocks 2-2"].line.dash == "dash"


def test_average_distance_has_a_curve_a_run():
    found = traces(plots.average_distance_by_epoch({"a": METRICS, "b": METRICS[:2]}))
    np.testing.assert_allclose(found["a"].y, [2.125, 2.625, 3.125])
    assert found["b"].x == (1, 2)
    assert found["a"].line.color != found["b"].line.color
    styled = traces(plots.average_distance_by_epoch({"b": METRICS}, styles={"a": 0, "b": 1}))
    assert styled["b"].line.color == found["b"].line.color


@pytest.mark.parametrize(
    "figure", [plots.distance_by_epoch, lambda m: plots.average_distance_by_epoch({"a": m})]
)
def test_runs_without_the_measure_are_named(figure):
    with pytest.raises(ValueError, match=r"no line of metrics\.jsonl has attention_distance"):
        figure([{"epoch": 0, "loss": 1.0}])


def test_every_head_is_a_dot_over_its_block():
    figure = plots.distance_by_block({"run": [[1.0, 3.0], [2.0, 2.5]]})
    dots, means = figure.data
    assert list(zip(dots.x, dots.y, strict=True)) == [(1, 1.0), (1, 3.0), (2, 2.0), (2, 2.5)]
    assert means.y == (2.0, 2.25)
    traces(figure)


def test_a_run_has_the_same_look_in_every_figure():
    runs = {"run": [[1.0, 3.0], [2.0, 2.5]]}
    mean = plots.distance_by_block(runs, {"run": 9}).data[1]
    curve = plots.average_distance_by_epoch({"run": METRICS}, styles={"run": 9}).data[0]
    assert (mean.line.color, mean.line.dash) == (curve.line.color, curve.line.dash)
    assert mean.line.dash != "solid"


def test_token_cosine_starts_at_the_input():
    found = traces(plots.token_cosine_by_depth({"run": [0.06, 0.5, 0.93]}))
    assert found["run"].x == (0, 1, 2)
    assert found["run"].y == (0.06, 0.5, 0.93)


def test_rings_have_the_place_and_width_of_their_heads():
    figure = position_heads(POSITION, [8, 8])
    traces(figure)
    rings = [trace for trace in figure.data if trace.text]
    x, y = np.asarray(rings[0].x), np.asarray(rings[0].y)
    np.testing.assert_allclose(np.hypot(x - 2.0, y + 1.0), math.sqrt(0.5), atol=2e-3)
    assert "+2.00 right" in rings[0].text
    assert (rings[2].x, rings[2].y) == ((1.0,), (0.0,))
    assert "no width" in rings[2].text
    low, high = figure.layout.yaxis.range
    assert low > high  # rows go down
    reach = reach_of(POSITION, [8, 8])
    assert 2.0 + math.sqrt(0.5) <= reach <= 7.5


def test_reach_stays_within_the_grid():
    far = [{"alpha": [1.0], "sigma": [0.7], "centres": [[40.0, 0.0]]}]
    assert reach_of(far, [4, 4]) == 3.5


def test_reliability_has_the_diagonal_and_a_point_a_bin():
    heads = {"class": {"ece": 0.125, "reliability": [[0.3, 0.25, 10], [0.9, 0.7, 30]]}}
    found = traces(reliability_diagram(heads))
    assert found["calibrated"].x == found["calibrated"].y
    curve = found["class (ECE 0.125)"]
    assert (curve.x, curve.y) == ((0.3, 0.9), (0.25, 0.7))
    assert curve.marker.size[1] > curve.marker.size[0]
