"""A study's tables: means, paired differences and what they decide, against numbers of hand."""

from dataclasses import replace

import pytest
from commands import invoke, refused

from dearkd.report.collect import collect
from dearkd.report.study_chapter import study_section
from dearkd.report.study_tables import study_markdown, study_sentence, study_tables
from dearkd.run_folder.record import COPY, Record, Study

LABELS, TAUGHT = [50.0, 52.0, 57.0], [60.0, 63.0, 69.0]
"""Differences 10, 11, 12: mean 11, deviation 1, half-width 4.302653 / sqrt(3) = 2.484138."""


def entry(arm, seed, top1, fraction=None, **more):
    return {
        "arm": arm,
        "fraction": fraction,
        "seed": seed,
        "hash": "0",
        "settings": {
            "data.validation": 5000,
            "epochs": 2,
            "steps": 7,
            "data.batch_size": 64,
            "precision": "fp32",
        },
        "summary": {
            "top1": top1,
            "train_images": 4500,
            "eval_images": 5000,
            "threads": 1,
            "device": "cpu",
            "commit": "abc",
        },
        "machine": {"cpu": "A CPU", "cores": 2},
        "curve": {
            "epoch": [0, 1],
            "stage": ["stage1", "stage2"],
            "top1": [top1 - 1, top1],
            "attention_distance": [[1.0, 2.0], [2.0, top1]],
            "token_cosine": [[0.1, 0.5], [0.1, 0.9]],
            "images_per_second": [100.0, 200.0],
        },
        **more,
    }


def record(tmp_path, entries, fractions=(None,), arms=("labels", "taught")):
    compare = dict.fromkeys(arms[1:], arms[:1])
    study = Study("a_study", arms, (0, 1, 2), fractions, compare)
    return Record(tmp_path / "a_study.json", study, entries)


def both(fraction=None, **more):
    values = {"labels": LABELS, "taught": TAUGHT}
    return [
        entry(arm, seed, top1, fraction, **more)
        for arm, tops in values.items()
        for seed, top1 in enumerate(tops)
    ]


def test_the_commit_of_an_installed_package_is_not_known(tmp_path):
    found = entry("labels", 0, 50.0)
    found["summary"]["commit"] = None
    assert "; student in fp32, 1 thread a run, on A CPU; commit not known." in study_markdown(
        record(tmp_path, [found])
    )


def test_runs_that_were_compiled_are_told_apart(tmp_path):
    entries = both()
    entries[0]["summary"]["compile"] = True
    entries[1]["summary"]["compile"] = False
    assert "student in fp32 (compiled) and fp32, 1 thread" in study_markdown(
        record(tmp_path, entries)
    )
    entries[2]["settings"]["compile"] = True  # where older records have it
    assert "student in fp32 (compiled), 1 thread" in study_markdown(record(tmp_path, entries[2:3]))


def test_means_and_differences_are_those_of_hand(tmp_path):
    arms, differences = study_tables(record(tmp_path, both()))
    assert arms.titles[2] == "top-1 % on 5,000 validation images"
    assert arms.rows == [
        ["labels", "4,500", "53.00 \u00b1 3.61", "3", "150"],
        ["taught", "4,500", "64.00 \u00b1 4.58", "3", "150"],
    ]
    assert differences.rows == [["taught over labels", "+11.00", "+8.52 to +13.48", "decided"]]
    text = study_markdown(record(tmp_path, both()))
    assert "| taught | 4,500 | 64.00 \u00b1 4.58 | 3 | 150 |" in text
    assert "6 runs. " in text
    assert "2 epochs of 7 steps, 64 views a step; student in fp32, 1 thread a run, on A CPU" in text
    assert study_sentence(record(tmp_path, both())) == (
        "Study a_study: 6 of 6 runs finished; decided: taught over labels (+11.00 points)."
    )


@pytest.mark.parametrize(
    ("tops", "words"),
    [
        ({0: 70.0}, "one seed"),
        ({0: 51.0, 1: 50.0, 2: 58.0}, "undecided"),
        ({0: 55.0, 1: 57.0, 2: 62.0}, "undecided (equal differences)"),
        ({0: 60.0, 2: 67.1}, "decided"),
    ],
)
def test_what_the_seeds_decide(tmp_path, tops, words):
    entries = [e for e in both() if e["arm"] == "labels"]
    entries += [entry("taught", seed, top1) for seed, top1 in tops.items()]
    _, differences = study_tables(record(tmp_path, entries))
    assert differences.rows[0][-1] == words


def test_seeds_that_are_not_shared_decide_nothing(tmp_path):
    entries = [entry("labels", 0, 50.0), entry("taught", 1, 60.0)]
    _, differences = study_tables(record(tmp_path, entries))
    assert differences.rows == [["taught over labels", "", "", "no seed in common"]]
    assert "2 of 6 runs. " in study_markdown(record(tmp_path, entries))


def test_a_run_without_a_top1_is_left_out_and_its_arm_stays(tmp_path):
    entries = both()
    entries[0]["summary"]["top1"] = None
    arms, differences = study_tables(record(tmp_path, entries))
    assert arms.rows[0] == ["labels", "4,500", "54.50 \u00b1 3.54", "2", "150"]
    assert differences.rows[0][1] == "+11.50"
    for found in entries[:3]:
        found["summary"] |= {"top1": None, "eval_images": None}
    arms, *_ = study_tables(record(tmp_path, entries))
    assert arms.titles[2] == "top-1 % on 5,000 validation images"
    assert arms.rows[0] == ["labels", "4,500", "", "0", "150"]
    assert arms.rows[1][0] == "taught"


def test_each_fraction_has_its_rows(tmp_path):
    found = record(tmp_path, both(0.1) + both(0.02), fractions=(0.02, 0.1))
    arms, differences = study_tables(found)
    assert [row[0] for row in arms.rows] == ["labels", "taught"] * 2
    assert [row[0] for row in differences.rows] == [
        "taught over labels (2 %)",
        "taught over labels (10 %)",
    ]


def test_an_arm_shows_the_test_images_once_its_runs_have_read_them(tmp_path):
    tests = {"test": {"top1": 40.0, "images": 5000}}
    none = record(tmp_path, [*both()[:5], *both(**tests)[5:]])  # one of an arm's three
    assert len(study_tables(none)) == 2
    one = record(tmp_path, [*both()[:3], *both(**tests)[3:5]])  # two of two that are finished
    arms, *differences = study_tables(one)
    assert arms.titles[3] == "top-1 % on 5,000 test images"
    assert [row[3] for row in arms.rows] == ["", "40.00 \u00b1 0.00"]
    assert len(differences) == 1
    assert "taught over labels" in study_sentence(one)  # of the validation images
    arms, *differences = study_tables(record(tmp_path, both(**tests)))
    assert arms.rows[0][3] == "40.00 \u00b1 0.00"
    assert [table.rows[0][-1] for table in differences] == [
        "decided",
        "undecided (equal differences)",
    ]


def test_runs_of_arms_that_the_study_has_no_more_are_not_shown(tmp_path):
    entries = [*both(), entry("gone", 0, 99.0)]
    assert "gone" not in study_markdown(record(tmp_path, entries))


def test_nothing_is_finished_yet(tmp_path):
    text = study_markdown(record(tmp_path, []))
    assert "| labels |" not in text
    assert "No run is finished yet." in text


def test_curves_are_means_with_a_band_of_one_deviation(tmp_path):
    section = study_section(record(tmp_path, both()))
    (plots,) = [block for block in section.blocks if block.kind == "plots"]
    (plot,) = [plot for plot in plots.plots if plot.title.startswith("Accuracy")]
    shown = {plot.title: plot.figure.data[1].y for plot in plots.plots}
    assert list(shown["Attention distance, mean of all blocks, in patches"]) == [1.5, 27.5]
    assert list(shown["Cosine of the two tokens after the last block"]) == [0.5, 0.9]
    band, line, *_ = plot.figure.data
    assert list(line.y) == [52.0, 53.0]
    assert (line.name, band.name, band.showlegend) == ("labels", "labels", False)  # hidden together
    deviation = 13**0.5  # of 50, 52, 57: (9 + 1 + 16) / 2
    assert list(band.y)[:2] == pytest.approx([52 + deviation, 53 + deviation])
    assert list(band.y)[2:] == pytest.approx([53 - deviation, 52 - deviation])


def test_what_more_images_are_worth_is_a_curve_over_their_number(tmp_path):
    entries = both(0.1)
    for taught, top1 in (("labels", 40.0), ("taught", 45.0)):
        few = entry(taught, 0, top1, 0.02)
        few["summary"]["train_images"] = 900
        entries.append(few)
    section = study_section(record(tmp_path, entries, fractions=(0.02, 0.1)))
    titles = [p.title for block in section.blocks if block.kind == "plots" for p in block.plots]
    assert titles[0].startswith("What more images are worth")
    plot = next(block for block in section.blocks if block.kind == "plots").plots[0]
    band, line, _, taught = plot.figure.data
    assert (list(line.x), list(line.y)) == ([900, 4500], [40.0, 53.0])
    assert list(taught.y) == [45.0, 64.0]
    assert list(band.y)[:2] == pytest.approx([40.0, 53 + 13**0.5])
    assert plot.figure.layout.xaxis.type == "log"


def test_a_study_is_shown_once_of_its_folder_and_its_record(tmp_path):
    found = record(tmp_path, both())
    found.write()
    found.write(tmp_path / "a_study" / COPY)
    found.write(tmp_path / "moved.json")
    other = Record(tmp_path / "other.json", replace(found.study, name="other"), found.entries)
    other.write()
    targets = [tmp_path / name for name in ("a_study", "a_study.json", "moved.json", "other.json")]
    shown = collect([tmp_path / "a_study" / COPY, *targets]).studies
    assert [record.study.name for record in shown] == ["a_study", "other"]


def test_arms_without_a_run_are_named_below_the_table(tmp_path):
    text = study_markdown(record(tmp_path, both()[:3]))
    assert "| taught |" not in text
    assert "No run yet: taught." in text
    assert "No run yet" not in study_markdown(record(tmp_path, both()))


def test_a_page_takes_no_place_of_the_users_own(tmp_path, monkeypatch):
    record(tmp_path, both()).write()
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "report.html"
    page.write_text("<title>My own</title>")
    words = "report.html is there and no report of dearkd; name another file by --out"
    assert words in refused("report", "a_study.json")
    assert page.read_text() == "<title>My own</title>"
    page.unlink()
    for _ in range(2):  # its own is made anew
        result = invoke("report", "a_study.json")
        assert result.exit_code == 0, result.output
    assert "dearkd report: study a_study" in page.read_text()
