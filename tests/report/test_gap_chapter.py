"""The chapter on students without a real image: which runs it shows, and the gap that it tells."""

import json
import re
from dataclasses import replace

import pytest
from commands import invoke
from conftest import quiet_train

from dearkd.data.datasets import open_data
from dearkd.pages.page import Note, Plots
from dearkd.report.collect import collect
from dearkd.report.contents import VALIDATION
from dearkd.report.gap_chapter import gap_section


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_teacher):
    root = tmp_path_factory.mktemp("gap") / "runs"
    options = ["--res", 16, "--iters", 1, "--per-class", 2, "--out", root / "made"]
    result = invoke("synthesize", "--teacher", toy_teacher, *options, "--set", "compile=never")
    assert result.exit_code == 0, result.output
    student = {"student": "toy_student", "teacher.name": str(toy_teacher)}
    real = {**student, "stage1": 2, "stage2": 0}
    steps = ["data.fraction=0.5", "data.keep_steps=true", "data.repeats=2", "data.batch_size=50"]
    quiet_train({**real, "out": str(root / "real")}, steps)
    made = {"data.train": str(root / "made"), "data.evaluation": "digits", "recipe": "best"}
    made |= {**student, "stage1": 3, "out": str(root / "data-free")}
    quiet_train(made, ["data.batch_size=10"])
    return root


def opened(item):
    return open_data(str(item.path))[0]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def top1(folder):
    return summary(folder)["top1"]


def test_images_curves_and_teacher_are_in_one_figure(runs, toy_teacher):
    section = gap_section(collect([runs, toy_teacher]), opened)
    (plots,) = [block for block in section.blocks if isinstance(block, Plots)]
    (plot,) = plots.plots
    assert len(plot.figure.layout.images) == 10
    by_name = {trace.name: trace for trace in plot.figure.data}
    assert set(by_name) == {"data-free", "real"}
    assert by_name["data-free"].x == pytest.approx([0.02, 0.04, 0.06])
    assert by_name["real"].x == pytest.approx([1.4, 2.8])  # of 1,438, in whole batches
    assert summary(runs / "real")["epoch_views"] == 1400
    assert by_name["real"].y[-1] == top1(runs / "real")
    (line,) = plot.figure.layout.shapes
    assert line.y0 == line.y1 == top1(toy_teacher)
    assert [note.text for note in plot.figure.layout.annotations] == [
        f"{toy_teacher.name}, the teacher"
    ]


def test_the_gap_is_told_to_teacher_and_twin(runs, toy_teacher):
    section = gap_section(collect([runs, toy_teacher]), opened)
    (note,) = [block.text for block in section.blocks if isinstance(block, Note)]
    own = top1(runs / "data-free")
    assert f"data-free learned from 20 images of made and reads {own:.2f} % of 359 test" in note
    twin = top1(runs / "real") - own
    way = "below" if twin >= 0 else "above"
    expected = rf"{abs(twin):.2f} points {way} real \(the same network on 719 images of digits\)"
    assert re.search(expected, note)
    assert f"{abs(top1(toy_teacher) - own):.2f} points" in note
    assert "(its teacher)" in note


def test_a_run_that_does_not_say_how_many_images_it_saw_is_told_of_without(runs):
    """As an older version left it; it learned from made images all the same."""
    report = collect([runs])
    older = dict.fromkeys(("train_images", "epoch_views"))
    bare = [replace(run, summary=run.summary | older) for run in report.runs]
    (group,) = report.groups
    groups = (replace(group, runs=tuple(bare), baseline=None),)
    section = gap_section(replace(report, runs=tuple(bare), groups=groups), opened)
    text = section.blocks[0].text
    assert text.startswith("data-free learned from images of made and reads ")
    assert "real (the same network on images of digits)." in text
    (plots,) = [block for block in section.blocks if isinstance(block, Plots)]
    assert len(plots.plots[0].figure.data) == 0  # nobody knows where its curves belong


def test_images_of_a_validation_split_are_called_so(runs):
    report = collect([runs])
    groups = tuple(replace(g, evaluation=f"{g.evaluation}{VALIDATION}") for g in report.groups)
    section = gap_section(replace(report, groups=groups), opened)
    assert "of 359 validation images" in section.blocks[0].text


def test_without_a_student_of_a_set_there_is_no_chapter(runs):
    assert gap_section(collect([runs / "real", runs / "made"]), opened) is None


def test_a_set_whose_images_are_gone_still_has_its_curve(runs):
    section = gap_section(collect([runs]), lambda item: None)
    (plots,) = [block for block in section.blocks if isinstance(block, Plots)]
    assert len(plots.plots[0].figure.layout.images) == 0


def test_the_page_has_the_chapter(runs, tmp_path):
    out = tmp_path / "page.html"
    assert invoke("report", runs, "--out", out, "--no-predictions").exit_code == 0
    assert 'id="without-a-real-image"' in out.read_text()
