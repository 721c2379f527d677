"""Runs that differ by their seed alone are one configuration; what is said of several of them."""

import json

import pytest
import yaml
from commands import invoke
from test_report import write_run

from dearkd.report.collect import collect
from dearkd.report.configurations import configurations, over_seeds
from dearkd.report.headline import headline
from dearkd.report.tables import as_json, as_markdown

CE, DEARKD = [90.0, 92.0, 97.0], [91.0, 94.0, 100.0]


def write_seeds(root, name, values, settings=(), **options):
    for seed, top1 in enumerate(values):
        write_run(root / f"{name}-{seed}", top1, settings, seed=seed, **options)


def change(folder, **values):
    """Writes other settings into a run's config.yaml; dots stand for levels."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in values.items():
        *path, last = key.split("__")
        part = config
        for step in path:
            part = part.setdefault(step, {})
        part[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def study(tmp_path):
    write_seeds(tmp_path, "ce", CE, method="ce")
    write_seeds(tmp_path, "dearkd", DEARKD)
    return tmp_path


def grouped(root):
    (group,) = collect([root]).groups
    return group


def test_what_the_machine_chose_does_not_tell_runs_apart(study):
    for seed, (student, teacher) in enumerate(
        [("fp32", "bf16"), ("bf16", "bf16"), ("fp32", "fp32")]
    ):
        change(study / f"dearkd-{seed}", precision=student, teacher__precision=teacher)
    change(study / "ce-1", memory_format="channels_last", teacher__memory_format="channels_last")
    change(study / "ce-2", data__workers=3)
    rows = over_seeds(grouped(study))
    assert [(row["name"], row["seeds"]) for row in rows] == [("ce", 3), ("dearkd", 3)]


def test_runs_of_one_configuration_that_the_machine_ran_unlike_are_named(study):
    change(study / "dearkd-1", precision="bf16")
    for seed in (0, 2):
        change(study / f"dearkd-{seed}", precision="fp32")
    report = collect([study])
    note = (
        "dearkd-0, dearkd-1, dearkd-2 differ beside their seed in precision (fp32, bf16, fp32): "
        "their spread has that in it."
    )
    assert note in as_markdown(report)
    out = study / "page.html"
    assert invoke("report", study, "--no-predictions", "--out", out).exit_code == 0
    assert note in out.read_text()


def test_one_seed_in_two_precisions_is_two_configurations(tmp_path):
    for precision in ("fp32", "bf16"):
        settings = [f"precision={precision}"]
        write_seeds(tmp_path, precision, [90.0, 91.0], settings, method="ce")
    rows = over_seeds(grouped(tmp_path))
    assert [(row["name"], row["seeds"]) for row in rows] == [("bf16", 2), ("fp32", 2)]


def test_settings_that_one_version_writes_and_another_does_not_are_no_difference(study):
    change(study / "ce-1", student_args={}, method_args=None)
    assert [row["seeds"] for row in over_seeds(grouped(study))] == [3, 3]
    change(study / "ce-1", student_args={"mhca_depth": 4})
    assert [row["seeds"] for row in over_seeds(grouped(study))] == [2, 1, 3]


def noted(folder, data, prints):
    """Gives a run other paths, and the fingerprints that it noted."""
    change(folder, data__train=data, data__evaluation=data)
    file = folder / "summary.json"
    content = json.loads(file.read_text())
    sessions = [{"fingerprints": {"data.train": prints, "data.evaluation": prints}}]
    file.write_text(json.dumps({**content, "sessions": sessions if prints else []}))


@pytest.mark.parametrize(
    ("prints", "groups"), [(("1", "1", "1"), 1), (("1", "1", "2"), 2), (("1", "1", None), 2)]
)
def test_images_that_have_moved_are_the_same_if_all_runs_noted_which(tmp_path, prints, groups):
    write_seeds(tmp_path, "ce", CE, method="ce")
    for seed, (data, one) in enumerate(zip(("/a", "/a", "/b"), prints, strict=True)):
        noted(tmp_path / f"ce-{seed}", data, one)
    found = collect([tmp_path]).groups
    assert len(found) == groups
    assert sum(len(configurations(group)) for group in found) == groups


def test_a_run_that_is_alone_stays_in_the_table(study):
    write_run(study / "other", 50.0, ["optim.lr=0.5"], method="ce", seed=0)
    rows = over_seeds(grouped(study))
    assert [(row["name"], row["seeds"]) for row in rows] == [("ce", 3), ("dearkd", 3), ("other", 1)]
    assert rows[2]["standard_deviation"] is None
    assert rows[2]["verdict"] == "one seed"


def test_one_seed_run_twice_counts_once(study):
    write_run(study / "ce-again", 92.0, method="ce", seed=0)
    row = over_seeds(grouped(study))[0]
    assert (row["seeds"], len(row["runs"])) == (3, 4)
    assert row["mean_top1"] == pytest.approx((91 + 92 + 97) / 3)


def test_means_and_paired_differences_are_those_of_hand(study):
    ce, dearkd = over_seeds(grouped(study))
    assert ce["mean_top1"] == 93.0
    assert ce["standard_deviation"] == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    assert ce["difference"] is None
    assert dearkd["against"] == "ce"
    assert dearkd["difference"] == pytest.approx(2.0)  # 1, 2, 3: deviation 1
    assert dearkd["low"] == pytest.approx(2 - 2.484138, abs=1e-6)
    assert dearkd["high"] == pytest.approx(2 + 2.484138, abs=1e-6)
    row = "| dearkd | DearKD, two stages | 95.00 | +2.00 | -0.48 to +4.48 | 4.58 | 3 |"
    assert row in as_markdown(collect([study]))
    assert json.loads(as_json(collect([study])))["over_seeds"] == [ce, dearkd]


def test_the_headline_compares_means_over_seeds_and_says_what_they_show(study):
    assert headline(collect([study])) == [
        "6 runs on digits, 359 test images. dearkd (DearKD, two stages) reaches 95.00 % top-1, "
        "mean of 3 seeds, 2.00 points above ce (95 % interval -0.48 to +4.48: undecided). "
        "Intervals are Student's, of differences paired by seed."
    ]
    write_seeds(study, "far", [70.0, 71.0, 78.0], method="deit-hard")
    (line,) = headline(collect([study]))
    assert "and 22.00 above far (95 % interval +19.52 to +24.48: decided)." in line


def test_the_headline_says_what_the_teacher_of_a_single_run_has(tmp_path):
    write_run(tmp_path / "dearkd", 95.5)
    summary = json.loads((tmp_path / "dearkd" / "summary.json").read_text())
    (tmp_path / "dearkd" / "summary.json").write_text(json.dumps(summary | {"teacher_top1": 97.25}))
    (line,) = headline(collect([tmp_path]))
    assert line.endswith("reaches 95.50 % top-1. Its teacher has 97.25 %.")


def test_the_best_single_seed_does_not_lead(tmp_path):
    write_seeds(tmp_path, "steady", [90.0, 91.0, 92.0], method="ce")
    write_seeds(tmp_path, "lucky", [99.0, 70.0, 71.0])
    (line,) = headline(collect([tmp_path]))
    assert "steady (labels alone) reaches 91.00 % top-1, mean of 3 seeds" in line


def test_one_seed_each_decides_nothing(tmp_path):
    write_run(tmp_path / "ce", 90.0, method="ce")
    write_run(tmp_path / "dearkd", 95.5)
    assert headline(collect([tmp_path])) == [
        "2 runs on digits, 359 test images. dearkd (DearKD, two stages) reaches 95.50 % top-1, "
        "5.50 points above ce (one seed each: differences are not decided)."
    ]


def test_names_that_have_nothing_in_common_give_way_to_what_differs(tmp_path):
    for number, (method, top1) in enumerate([("ce", 90.0), ("ce", 92.0), ("dearkd", 93.0)]):
        write_run(tmp_path / f"digits-{number}", top1, method=method, seed=number % 2)
    assert [one.name for one in configurations(grouped(tmp_path))] == [
        "labels alone",
        "DearKD, two stages",
    ]
