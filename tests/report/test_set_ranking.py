"""Sets beside what students learned from them: rank correlations, and who is compared with whom."""

import json
import math

import numpy as np
import pytest
from commands import invoke
from scipy import stats
from test_report import write_run

from dearkd.report.collect import collect
from dearkd.report.set_ranking import rank_correlation, rankings

BUDGET = {"student": "tiny", "steps": 600, "batch_size": 64}


def slow_ranks(values):
    """One more than the smaller values, and half of the other equal ones."""
    return [
        1 + sum(other < value for other in values) + (values.count(value) - 1) / 2
        for value in values
    ]


def slow_correlation(first, second):
    """Pearson's coefficient of the ranks, sum by sum."""
    one, other = slow_ranks(first), slow_ranks(second)
    mean = (len(one) + 1) / 2
    shared = sum((a - mean) * (b - mean) for a, b in zip(one, other, strict=True))
    sizes = [sum((a - mean) ** 2 for a in ranks) for ranks in (one, other)]
    return shared / math.sqrt(sizes[0] * sizes[1])


@pytest.mark.parametrize("count", [3, 4, 11])
@pytest.mark.parametrize("ties", [False, True])
def test_the_rank_correlation_is_that_of_a_slow_form_and_of_scipy(count, ties):
    generator = np.random.default_rng(count)
    first, second = generator.normal(size=(2, count))
    if ties:
        first[0] = first[-1]
        second = np.round(second)
        second[1] = second[0] + 1
    found = rank_correlation(first.tolist(), second.tolist())
    assert found == pytest.approx(slow_correlation(first.tolist(), second.tolist()), abs=1e-12)
    assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_its_limits():
    assert rank_correlation([1.0, 2.0, 30.0], [5.0, 6.0, 7.0]) == 1
    assert rank_correlation([1.0, 2.0, 30.0], [7.0, 6.0, 5.0]) == -1
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert rank_correlation([4.0, 4.0, 4.0], [1.0, 2.0, 3.0]) is None


def make_set(root, name, *, recognised, images=4, **stored):
    """A set of which only the files that a report reads are there."""
    folder = root / name
    folder.mkdir(parents=True)
    verdict = {"recognition": {"overall": recognised, "per_class": {"0": recognised}}}
    manifest = {
        "classes": {"names": ["0"], "indices": [0], "total": 1},
        "config": {"resolutions": [16]},
        "groups": [],
        "images": [{"file": f"0/{number}.png", "target": 0} for number in range(images)],
        "quality": {"teacher": {**verdict, "confidence_histogram": [0] * 10}},
        "teacher": {"name": "cnn"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "diversity.json").write_text(json.dumps(stored))
    return folder


def probe(top1, **changed):
    facts = {"budget": BUDGET, "teacher": "cnn", "against": "digits", "eval_images": 359, "seed": 0}
    return {"probe_top1": top1, "probe": {**facts, **changed}}


@pytest.fixture
def sets(tmp_path):
    """Three sets whose probes may be compared, one of another budget, and one without a probe."""
    near = {"network": "cnn", "frechet_distance": 5.0, "density": 1.0, "coverage": 0.5}
    make_set(tmp_path, "a", recognised=1.0, nearness=near, **probe(80.0))
    farther = near | {"frechet_distance": 9.0}
    make_set(tmp_path, "b", recognised=0.8, images=6, nearness=farther, **probe(60.0))
    make_set(tmp_path, "c", recognised=0.9, nearness=near | {"frechet_distance": 7}, **probe(70.0))
    longer = BUDGET | {"steps": 1200}
    make_set(tmp_path, "d", recognised=0.5, nearness=near, **probe(99.0, budget=longer))
    make_set(tmp_path, "e", recognised=0.5)
    return tmp_path


def test_sets_are_ranked_by_probes_of_one_budget_alone(sets):
    (found,) = rankings(collect([sets]))
    assert found.sets == ("a", "c", "b")
    assert found.top1 == (80.0, 70.0, 60.0)
    correlations = found.correlations
    assert correlations["recognised by teacher cnn, %"] == pytest.approx(1)
    assert correlations["frechet distance (cnn)"] == pytest.approx(-1)
    assert correlations["density (cnn)"] is None
    assert correlations["images"] == pytest.approx(slow_correlation([4, 4, 6], [80, 70, 60]))
    assert "600 steps of 64, taught by cnn" in found.judged_by
    assert "number of images, which differs" in found.note


def test_two_sets_are_shown_without_a_number(sets):
    (found,) = rankings(collect([sets / "a", sets / "b", sets / "d"]))
    assert set(found.correlations.values()) == {None}
    assert "needs 3 sets, and 2 are here" in found.note
    assert rankings(collect([sets / "a", sets / "d", sets / "e"])) == []


def test_all_forms_of_the_report_have_it(sets):
    page, table = sets / "page.html", invoke("report", sets, "--format", "md")
    assert table.exit_code == 0, table.output
    assert "| rank correlation with top-1 | -0.87 | +1.00 | -1.00 | - | - |  |" in table.stdout
    content = json.loads(invoke("report", sets, "--format", "json").stdout)
    assert content["rankings"][0]["rank_correlations"]["frechet distance (cnn)"] == -1
    assert "probe_top1" in invoke("report", sets, "--format", "csv").stdout.splitlines()[0]
    result = invoke("report", sets, "--out", page)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "rank correlation with top-1" in page.read_text()


def test_runs_on_the_sets_rank_them_too_and_the_probe_is_then_a_measure(sets, tmp_path):
    for place, (name, top1) in enumerate({"a": 50.0, "b": 40.0, "c": 60.0}.items()):
        data = {"data.train": str(sets / name), "data.evaluation": "digits"}
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"{name}-{seed}"
            options = {"method": "ce", "seed": seed, "stage2": 0, "stage1": 2 + (place == 1)}
            write_run(folder, top1 + seed, ["data.batch_size=20"], **options, **data)
            summary = json.loads((folder / "summary.json").read_text())
            summary["train_images"] = 960 if place == 1 else 1440  # as many steps
            (folder / "summary.json").write_text(json.dumps(summary))
    write_run(tmp_path / "runs" / "short", 1.0, ["data.batch_size=720"], method="ce", **data)
    report = collect([tmp_path / "runs", sets])
    by_runs = [found for found in rankings(report) if "run" in found.judged_by]
    (found,) = by_runs
    assert dict(zip(found.sets, found.top1, strict=True)) == {"c": 60.5, "a": 50.5, "b": 40.5}
    assert "144 steps, 6 runs" in found.judged_by
    (probed,) = [name for name in found.measures if "600 steps" in name]
    assert found.correlations[probed] == pytest.approx(0.5)


def test_a_stored_result_of_another_shape_is_passed_over(sets):
    for name, content in (("a", {"probe_top1": "high", "probe": 3}), ("c", {"probe_top1": 5.0})):
        (sets / name / "diversity.json").write_text(json.dumps(content))
    assert rankings(collect([sets])) == []
