"""The report: what it says of finished, unfinished and unlike runs, and in which forms."""

import csv
import html
import io
import json
import math
import re
import shlex
import shutil

import pytest
from commands import invoke, not_among, refused
from PIL import Image
from rich.console import Console

from dearkd.config import load_config
from dearkd.pages.page import Note, Section, Table, page
from dearkd.pages.plots import COLOURS, DASHES, Line
from dearkd.report import report as door
from dearkd.report.collect import collect
from dearkd.report.curves_chapter import switch_marks
from dearkd.report.headline import headline
from dearkd.report.results_chapter import result_section
from dearkd.report.rows import config_difference
from dearkd.report.tables import as_csv, as_json, as_markdown
from dearkd.run_folder.files import file_hash
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.record import Record, Study

IMAGES = 359


def write_run(folder, top1, settings=(), **options):
    """A finished run without weights, as `dearkd train` writes it; top-1 rises to its end."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    options = {"student": "toy_student", "stage1": 2, "stage2": 1, **options}
    config = load_config(None, settings, {**options, "out": str(folder)})
    run.write_config(config)
    for epoch in range(config.epochs):
        second = config.method == "dearkd" and epoch >= config.stage1
        stage = f"stage{1 + second}" if config.method == "dearkd" else config.method
        line = {"epoch": epoch, "stage": stage, "lr": 1e-3, "class": 2.0 - epoch, "loss": 2.0}
        rates = {"images_per_second": 100.0 + epoch, "seconds": 10.0 * (1 + epoch)}
        run.append_metrics({**line, "top1": top1 - config.epochs + 1 + epoch, **rates})
    heads = {name: {"top1": top1, "top5": 99.0} for name in ("class", "distillation", "logits")}
    run.write_summary(
        {
            **{"method": config.method, "student": config.student, "data": config.data.train},
            **{"train_images": 1438, "eval_images": IMAGES, "epochs": config.epochs},
            **{"top1": top1, "top5": 99.0, "heads": heads, "best_top1": top1, "best_epoch": 3},
            **{"parameters": 12345, "seconds": 33.0, "device": "cpu", "peak_memory_bytes": 2**29},
            **{"versions": {"torch": "2.14.1"}, "commit": "abc"},
        }
    )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder as `make demo` leaves it, without the synthetic set."""
    root = tmp_path_factory.mktemp("report") / "runs"
    teacher = {"teacher.name": str(root / "teacher")}
    write_run(root / "teacher", 98.0, method="ce", stage2=0)
    write_run(root / "dearkd", 95.5, **teacher)
    write_run(root / "ce", 90.0, method="ce", seed=1)
    data = {"data.train": "somewhere/synthetic", "data.evaluation": "digits"}
    write_run(root / "data-free", 80.0, ["data.batch_size=20"], **teacher, **data)
    return root


@pytest.fixture(scope="module")
def report(runs):
    return collect([runs])


def copied(runs, name, tmp_path):
    return shutil.copytree(runs / name, tmp_path / name)


def test_a_folder_of_runs_is_expanded_in_natural_order(report):
    assert [run.name for run in report.runs] == ["ce", "data-free", "dearkd", "teacher"]
    assert report.sets == ()


def test_runs_judged_on_the_same_images_are_compared_whatever_they_were_trained_on(report):
    (group,) = report.groups
    assert (group.evaluation, group.images) == ("digits", 359)
    assert group.baseline.name == "ce"  # the first that taught nobody
    dearkd, ce = report.runs[2], report.runs[0]
    points, error = group.delta(dearkd)
    assert points == 5.5
    assert error == pytest.approx(100 * math.sqrt((0.955 * 0.045 + 0.9 * 0.1) / 359))
    assert group.delta(ce) is None


def test_the_teacher_is_known_and_is_no_contestant(report):
    (group,) = report.groups
    assert [run.name for run in group.students] == ["ce", "data-free", "dearkd"]
    assert headline(report) == [
        "4 runs on digits, 359 test images. dearkd (DearKD, two stages) reaches 95.50 % top-1, "
        "5.50 points above ce and 15.50 above data-free (one seed each: differences are not "
        "decided). Taught by teacher (98.00 %)."
    ]


def test_of_runs_whose_folders_have_one_name_the_named_one_is_the_teacher(tmp_path):
    write_run(tmp_path / "cnn" / "seed0", 98.0, method="ce", stage2=0)
    teacher = {"teacher.name": str(tmp_path / "cnn" / "seed0")}
    write_run(tmp_path / "dearkd" / "seed0", 95.5, **teacher)
    write_run(tmp_path / "resnet18", 97.0, method="ce", stage2=0)
    write_run(tmp_path / "deit", 95.0, ["teacher.name=resnet18"])  # timm's
    folders = [tmp_path / name for name in ("cnn", "dearkd", "resnet18", "deit")]
    (group,) = collect(folders).groups
    assert [run.name for run in group.students] == ["dearkd/seed0", "resnet18", "deit"]
    write_run(tmp_path / "other" / "seed0", 96.0, method="ce", stage2=0)
    (group,) = collect([tmp_path / "other", tmp_path / "dearkd"]).groups
    assert [run.name for run in group.students] == ["other/seed0", "dearkd/seed0"]
    shutil.move(tmp_path / "cnn", tmp_path / "moved")
    (group,) = collect([tmp_path / "moved", tmp_path / "dearkd"]).groups
    assert [run.name for run in group.students] == ["dearkd/seed0"]


def test_only_settings_that_differ_are_listed(report):
    difference = config_difference(report.runs)
    assert difference["method"] == ["ce", "dearkd", "dearkd", "ce"]
    assert difference["seed"] == [1, 0, 0, 0]
    assert difference["data.batch_size"] == [None, 20, None, None]
    assert not {"out", "precision", "optim.lr", "data.fraction"} & difference.keys()
    assert config_difference(report.runs[2:3]) == {}


def test_the_stage_switch_lies_between_the_last_epoch_of_one_and_the_first_of_the_other(report):
    assert [run.switches for run in report.runs] == [{}, {2.5: "stage 2"}, {2.5: "stage 2"}, {}]


def test_a_switch_has_the_style_of_a_run_that_is_alone_there(report):
    names, styles = switch_marks(report, report.runs)
    assert (names, styles) == ({2.5: "stage 2"}, {})  # data-free and dearkd switch together
    assert switch_marks(report, report.runs[:2]) == ({2.5: "stage 2"}, {2.5: 1})


def test_no_two_of_many_runs_look_alike():
    lines = [Line("", [], [], style) for style in range(len(COLOURS) * len(DASHES))]
    assert len({(line.colour, line.dash) for line in lines}) == len(lines)


def test_csv_has_a_row_a_run(report):
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert [row["run"] for row in rows] == ["ce", "data-free", "dearkd", "teacher"]
    assert [row["top1"] for row in rows] == ["90.0", "80.0", "95.5", "98.0"]
    assert [row["delta_top1"] for row in rows] == ["", "-10.0", "5.5", "8.0"]
    assert [row["baseline"] for row in rows] == ["", "ce", "ce", "ce"]
    assert rows[2]["class_top1"] == "95.5"
    assert rows[2]["images_per_second"] == "101.0"
    assert rows[2]["peak_memory_bytes"] == str(2**29)


def test_json_has_everything(report, runs):
    content = json.loads(as_json(report))
    assert content["headline"] == headline(report)
    run = content["runs"][2]
    assert run["summary"] == json.loads((runs / "dearkd/summary.json").read_text())
    assert [line["epoch"] for line in run["metrics"]] == [0, 1, 2]
    assert run["config"]["student"] == "toy_student"


def test_markdown_tables_are_whole(report):
    text = as_markdown(report)
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1
    assert "| method | ce | dearkd | dearkd | ce |" in text
    assert (
        "| dearkd | DearKD, two stages | toy_student | digits | 1,438 | 95.50 | +5.50 +- 1.92 |"
        in text
    )


def test_a_chosen_baseline_by_name_or_folder(runs):
    assert collect([runs], "dearkd").groups[0].baseline.name == "dearkd"
    assert collect([runs], str(runs / "teacher")).groups[0].baseline.name == "teacher"
    assert "none of the runs: ce, data-free, dearkd, teacher" in refused(
        "report", runs, "--baseline", "nonsense"
    )


def test_a_half_written_run_is_shown_as_unfinished_and_not_compared(runs, tmp_path):
    cut = copied(runs, "dearkd", tmp_path)
    (cut / "summary.json").unlink()
    lines = (cut / "metrics.jsonl").read_text().splitlines()
    (cut / "metrics.jsonl").write_text("\n".join([*lines[:2], lines[2][:40]]))
    report = collect([runs / "ce", cut])
    unfinished = report.runs[1]
    assert unfinished.status == "unfinished: epoch 2 of 3"
    assert unfinished.top1 == json.loads(lines[1])["top1"]
    (group,) = report.groups  # found its place though its test images are not counted yet
    assert group.delta(unfinished) is None
    out = tmp_path / "page.html"
    assert invoke("report", runs / "ce", cut, "--out", out).exit_code == 0
    text = out.read_text()
    assert "dearkd: unfinished: epoch 2 of 3" in text
    assert "not compared" in text


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.jsonl"])
def test_a_run_without_one_of_its_files_is_still_reported(runs, tmp_path, name):
    cut = copied(runs, "dearkd", tmp_path)
    (cut / name).unlink()
    for form in ("html", "md", "csv", "json"):
        out = tmp_path / f"page.{form}"
        options = ["--no-predictions"] if form == "html" else []
        result = invoke("report", cut, runs / "ce", "--out", out, *options)
        assert result.exit_code == 0, result.output
        assert out.stat().st_size > 100


def test_damaged_files_are_named_and_left_out(runs, tmp_path):
    cut = copied(runs, "dearkd", tmp_path)
    (cut / "summary.json").write_text('{"top1": ')
    (cut / "config.yaml").write_text("a: [b")
    (run,) = collect([cut]).runs
    assert "summary.json is damaged and was left out" in run.notes
    assert "config.yaml is damaged and was left out" in run.notes
    assert not run.finished


@pytest.mark.parametrize("content", ['{"images": [{"file": "icon.png"}]}', '{"name": "an app"}'])
def test_a_manifest_of_another_program_is_named_and_left_out(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    for form in ("html", "md", "csv", "json"):
        out = tmp_path / f"page.{form}"
        assert invoke("report", tmp_path, "--out", out).exit_code == 0
        if form != "csv":
            assert "is not one that dearkd synthesize writes" in out.read_text()


def test_lines_that_are_no_epochs_are_left_out(runs, tmp_path):
    cut = copied(runs, "dearkd", tmp_path)
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"epoch": 3}\n')
    (run,) = collect([cut]).runs
    assert [line["epoch"] for line in run.metrics] == [0, 1, 2]


def test_an_empty_run_folder_is_still_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text("method: ce\nstage1: 3\nstage2: 0\n")
    out = tmp_path / "page.html"
    assert invoke("report", tmp_path, "--out", out).exit_code == 0
    assert "unfinished: epoch 0 of 3" in out.read_text()


def test_runs_on_different_data_are_not_compared_and_that_is_said(runs, tmp_path):
    other = copied(runs, "ce", tmp_path)
    for name in ("config.yaml", "summary.json"):
        text = (other / name).read_text()
        (other / name).write_text(text.replace("digits", "elsewhere"))
    report = collect([runs / "dearkd", other])
    assert [group.evaluation for group in report.groups] == ["digits", "elsewhere"]
    assert all(group.delta(run) is None for group in report.groups for run in group.runs)
    assert "compared only within a table" in headline(report)[-1]
    assert all(row["delta_top1"] == "" for row in csv.DictReader(io.StringIO(as_csv(report))))


def test_a_run_of_which_nobody_knows_the_data_is_not_said_to_have_other_data(runs, tmp_path):
    lost = copied(runs, "ce", tmp_path)
    (lost / "config.yaml").unlink()
    summary = json.loads((lost / "summary.json").read_text())
    del summary["data"]
    (lost / "summary.json").write_text(json.dumps(summary))
    told = "On which data ce was judged is not known: numbers are compared only within a table."
    assert headline(collect([runs / "dearkd", lost]))[-1] == told


def test_runs_on_a_validation_split_are_not_compared_with_those_on_test_images(runs, tmp_path):
    split = write_run(tmp_path / "split", 91.0, ["data.validation=359"], method="ce")
    report = collect([runs / "ce", split])
    names = [group.evaluation for group in report.groups]
    assert names == ["digits", "digits (validation split)"]
    assert "1 run on digits (validation split), 359 images." in headline(report)[1]
    settings = ["data.validation=359", "data.fraction=0.5"]
    half = write_run(tmp_path / "half", 91.0, settings, method="ce")
    text = shown(result_section(collect([split, half])))
    assert "One validation image is 0.28 points" in text
    assert "359 validation images leave" in text


def shown(section):
    """A chapter as HTML."""
    return page("", [], [section]).partition("<main>")[2]


def test_equal_runs_are_not_coloured_though_their_standard_error_is_0(tmp_path):
    write_run(tmp_path / "all", 100.0, method="ce")
    write_run(tmp_path / "half", 100.0, ["data.fraction=0.5"], method="ce")
    text = shown(result_section(collect([tmp_path])))
    assert "+0.00 \u00b1 0.00" in text
    assert 'class="bad"' not in text


def test_the_same_name_with_another_number_of_test_images_is_other_data(runs, tmp_path):
    other = copied(runs, "ce", tmp_path)
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**summary, "eval_images": 100}))
    assert len(collect([runs / "dearkd", other]).groups) == 2


def test_what_was_measured_once_is_said_and_not_drawn(tmp_path):
    write_run(tmp_path / "short", 61.25, method="ce", stage1=1, stage2=0)
    out = tmp_path / "page.html"
    assert invoke("report", tmp_path / "short", "--out", out, "--no-predictions").exit_code == 0
    text = out.read_text()
    main = text.partition("<main>")[2]
    assert "data-figure" not in main
    assert "checkbox" not in main  # nothing there that a click could hide
    assert "Logged once, so there is no curve" in main
    for title, value in (("Accuracy on the evaluation images, %", "61.25"), ("Total loss", "2")):
        assert re.search(rf"{title}\s*</th>\s*<td>\s*{value}\s*</td>", main)


def test_commands_to_repeat_are_quoted_for_a_shell(tmp_path):
    folder = write_run(tmp_path / "it's my run", 61.25, method="ce", stage1=1, stage2=0)
    line = json.loads((folder / "metrics.jsonl").read_text()) | {"attention_distance": [[1.0]]}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    out = tmp_path / "page.html"
    assert invoke("report", folder, "--out", out, "--no-predictions").exit_code == 0
    text = html.unescape(out.read_text())
    assert shlex.join(["dearkd", "train", f"{folder}/config.yaml", "--out", "NEW"]) in text
    assert shlex.join(["dearkd", "analyze", str(folder)]) in text


def test_an_epoch_without_a_number_is_left_out_of_the_medians(runs, tmp_path):
    cut = copied(runs, "ce", tmp_path)
    file = cut / "metrics.jsonl"
    line = json.loads(file.read_text().splitlines()[0])
    rates = [{"epoch": n, "images_per_second": rate} for n, rate in enumerate((None, 4.0, 8.0))]
    file.write_text("".join(json.dumps({**line, **rate}) + "\n" for rate in rates))
    assert collect([cut]).runs[0].images_per_second == 6.0


def test_the_arithmetic_of_student_and_teacher_is_shown_as_far_as_it_is_known(runs, tmp_path):
    cut = copied(runs, "dearkd", tmp_path)
    file = cut / "summary.json"
    chosen = {"precision": "bf16", "memory_format": "contiguous", "teacher_precision": "fp32"}
    chosen |= {"teacher_memory_format": "channels_last"}
    chosen |= {"arithmetic": {"student": "bf16: units here", "teacher": "fp32: none there"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | chosen))
    out = tmp_path / "page.html"
    targets = [cut, runs / "ce"]
    assert invoke("report", *targets, "--out", out, "--no-predictions").exit_code == 0
    text = out.read_text()
    assert "bf16, contiguous" in text
    assert "fp32, channels_last" in text
    assert "dearkd: student bf16: units here; teacher fp32: none there." in text
    rows = list(csv.DictReader(io.StringIO(as_csv(collect(targets)))))
    assert rows[0]["teacher_memory_format"] == "channels_last"
    assert rows[0]["teacher_arithmetic"] == "fp32: none there"
    assert rows[1]["teacher_precision"] == ""  # it had no teacher


def test_an_analysis_of_other_images_or_weights_says_so(runs, tmp_path):
    cut = copied(runs, "ce", tmp_path)
    head = {"top1": 1.5, "confidence": 0.25, "ece": 0.235, "agreement_teacher": None}
    heads = {"logits": {**head, "reliability": [[0.25, 0.015, 1200]]}}
    record = {"data": "far/elsewhere", "head_images": 1200, "heads": heads, "weights": "best"}
    record |= {"attention_distance": [[1.0]], "position": [], "token_cosine": None}
    (cut / "analysis.json").write_text(json.dumps(record))
    out = tmp_path / "page.html"
    assert invoke("report", cut, "--out", out, "--no-predictions").exit_code == 0
    assert "elsewhere, 1,200 images, best weights" in out.read_text()
    assert "a dot is a head. ce: of its best weights." in out.read_text()
    (cut / "analysis.json").write_text(json.dumps(record | {"weights": "final"}))
    assert invoke("report", cut, "--out", out, "--no-predictions").exit_code == 0
    assert "weights" not in out.read_text().partition("1,200 images")[2][:40]


def test_an_analysis_of_earlier_weights_is_left_out(runs, tmp_path):
    cut = copied(runs, "ce", tmp_path)
    record = {"attention_distance": [[1.0]], "weights": "final", "weights_sha256": None}
    for content, digest, kept in (
        (b"one", file_hash, True),
        (b"two", lambda _: "0", False),
        (b"two", lambda _: None, True),  # of an older version
    ):
        (cut / "model.safetensors").write_bytes(content)
        record["weights_sha256"] = digest(cut / "model.safetensors")
        (cut / "analysis.json").write_text(json.dumps(record))
        (run,) = collect([cut]).runs
        assert bool(run.analysis) == kept
        told = f"of earlier weights and was left out; again: dearkd analyze {cut}"
        assert any(told in note for note in run.notes) != kept


BLOCK = {"alpha": [1.0, 2.0], "sigma": [0.7, None], "centres": [[0, 1], [1, 0]]}
HEAD = {"top1": 90.0, "confidence": 0.9, "ece": 0.1, "agreement_teacher": None}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"position": [BLOCK]}, "it has a position and no grid"),
        (
            {"position": [BLOCK | {"sigma": [1.0]}], "grid": [4, 4]},
            "position[0] is not of one number of heads",
        ),
        (
            {"position": [BLOCK | {"centres": [[1], [2]]}], "grid": [4, 4]},
            "position[0] is not of one number of heads",
        ),
        ({"attention_distance": [1.0]}, "attention_distance is a list"),
        (
            {"heads": {"logits": HEAD | {"reliability": [[0.5, 1]]}}},
            "a head&#39;s reliability has no three columns",
        ),
    ],
)
def test_an_analysis_that_was_edited_by_hand_is_told_and_left_out(runs, tmp_path, change, fault):
    cut = copied(runs, "ce", tmp_path)
    (cut / "analysis.json").write_text(json.dumps({"attention_distance": [[1.0]]} | change))
    out = tmp_path / "page.html"
    result = invoke("report", cut, "--out", out, "--no-predictions")
    assert result.exit_code == 0, result.exception
    assert f"analysis.json is damaged ({fault}) and was left out" in out.read_text()


def test_attention_maps_of_any_size_and_damaged_ones(runs, tmp_path):
    cut = copied(runs, "ce", tmp_path)
    (cut / "analysis.json").write_text(json.dumps({"attention_distance": [[1.0]]}))
    Image.new("RGB", (2, 16384)).save(cut / "attention_maps.png")  # WEBP has no such sides
    out = tmp_path / "page.html"
    assert invoke("report", cut, "--out", out, "--no-predictions").exit_code == 0
    assert 'src="data:image/png' in out.read_text()
    (cut / "attention_maps.png").write_bytes(b"x")
    assert invoke("report", cut, "--out", out, "--no-predictions").exit_code == 0
    assert "ce: cannot decode attention_maps.png (not an image)." in out.read_text()


def test_equal_names_are_told_apart_and_a_run_given_twice_counts_once(runs, tmp_path):
    other = copied(runs, "ce", tmp_path)
    report = collect([runs / "ce", other, runs])
    names = [run.name for run in report.runs]
    assert names[:2] == ["runs/ce", f"{tmp_path.name}/ce"]
    assert len(names) == 5


def test_what_is_no_run_gets_one_line(tmp_path, runs):
    assert "does not exist; pass a run folder" in refused("report", tmp_path / "nowhere")
    assert "x" * 300 in refused("report", "x" * 300)  # no name for a file
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused("report", tmp_path / "empty")
    assert "is a file; pass the run folder" in refused("report", runs / "ce/summary.json")
    assert "'pdf' is not one of" in not_among("report", runs, "--format", "pdf")
    assert "end it in .html, .md, .csv, .json" in refused(
        "report", runs, "--out", tmp_path / "table.tex"
    )
    for out in ("/proc/page.md", runs / "ce/summary.json/page.md"):
        assert f"cannot write {out} (" in refused("report", runs / "ce", "--out", out)
    assert "is a folder; name a file in it" in refused("report", runs / "ce", "--out", tmp_path)


@pytest.mark.parametrize("option", ["--predictions", "--no-predictions"])
def test_an_option_of_the_page_is_refused_for_a_table(runs, option):
    line = refused("report", runs, "--format", "md", option)
    assert f"{option} is for the page; a md table asks no run" in line


@pytest.mark.parametrize("options", [("--format", "md"), ("--no-predictions",)])
def test_trust_is_refused_where_no_run_is_asked(runs, options):
    line = refused("report", runs, *options, "--trust")
    assert "--trust has no effect: nothing here runs code; leave it out" in line


def test_the_one_who_waits_hears_whom_the_page_asks(runs, tmp_path):
    result = invoke("report", runs / "ce", runs / "dearkd", "--out", tmp_path / "page.html")
    assert "--no-predictions leaves that out" in result.stderr
    shown = "on its evaluation images"
    assert result.stderr.index(f"ce {shown}") < result.stderr.index(f"dearkd {shown}")
    assert shown not in result.stdout


def test_tables_go_to_the_terminal_and_the_form_follows_the_name(runs, tmp_path):
    result = invoke("report", runs / "ce", "--format", "csv")
    assert result.stdout.startswith("run,path,status")
    out = tmp_path / "deep/table.md"
    assert invoke("report", runs / "ce", "--out", out).exit_code == 0
    assert "| run | learned by |" in out.read_text()


@pytest.mark.parametrize("form", ["html", "md", "csv", "json"])
def test_a_report_replaces_an_earlier_one_and_no_other_file(runs, tmp_path, form):
    run = copied(runs, "ce", tmp_path)
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "last.pt").write_bytes(b"weights")
    record = tmp_path / "study.json"
    Record(record, Study("s", ("a",), (0,), (None,), {})).write(run / "record.json")
    shutil.copy(run / "record.json", record)
    quiet = ["--no-predictions"] if form == "html" else []
    options = ["--format", form, *quiet, "--out"]
    for out in (run / f"mine.{form}", tmp_path / f"mine.{form}"):
        for _ in range(2):
            assert invoke("report", run, *options, out).exit_code == 0
    for name in ("summary.json", "metrics.jsonl", "config.yaml", "checkpoint/last.pt"):
        before = (run / name).read_bytes()
        line = refused("report", run, *options, run / name)
        assert f"--out {run / name} is a file of a run; name another one" in line
        assert (run / name).read_bytes() == before
    for file in (record, run / "record.json"):
        assert "is the record of a study" in refused("report", run, *options, file)


def test_names_cannot_break_out_of_the_page():
    evil = "</script><script>alert(1)</script>"
    section = Section(evil, [Note(evil), Table([evil], [[evil]])])
    assert "<script>alert" not in page(evil, [evil], [section])


def test_square_brackets_in_a_name_are_no_markup(runs, tmp_path):
    out = tmp_path / "[red]a[/b].md"
    assert str(out) in invoke("report", runs / "ce", "--out", out).output
    assert out.is_file()


def test_the_console_hears_where_the_page_is(runs, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    options = {"out": tmp_path / "p.html", "predictions": False}
    door.write_report([runs / "ce"], console=console, errors=console, **options)
    assert f"report: {tmp_path}/p.html" in console.file.getvalue()
