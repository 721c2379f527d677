"""`dearkd sweep` from its file to its record: trained, skipped, gone on with, refused."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest
import yaml
from commands import invoke, refused
from conftest import photo_classes
from toy_studies import strangers_cnn, written_study

from dearkd.report.study_tables import study_markdown
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.record import read_record
from dearkd.sweep import children
from dearkd.sweep import sweep as door
from dearkd.training.loop import Trainer

ALL = ["labels-seed0", "wide-labels-seed0", "labels-seed1", "wide-labels-seed1"]
CHANCE = ("seconds", "peak_memory_bytes", "commit", "machine", "images_per_second", "data_wait")
"""What a second run of the same command has otherwise."""


class Done:
    """A child that has ended before anyone asks."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode

    def wait(self):
        return self.returncode

    def terminate(self):
        pass


@contextmanager
def trained_here():
    """Runs each child's command here, where the toy networks are known; lists what was run."""
    run = []

    def start(child, threads):
        run.append((child.name, *child.words[:1]))
        result = invoke(*child.words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        child.log.parent.mkdir(parents=True, exist_ok=True)
        child.log.write_text(result.output)
        return Done(result.exit_code)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children.Child, "start", start)
        patch.setattr(children, "POLL_SECONDS", 0)
        yield run


@pytest.fixture
def in_process():
    with trained_here() as run:
        yield run


@pytest.fixture
def write_study(tmp_path):
    return partial(written_study, tmp_path)


class KilledError(Exception):
    pass


def swept(study, *options):
    result = invoke("sweep", study, "--out", study.parent / "runs", *options)
    assert result.exit_code == 0, result.output
    return result.stdout


def record_of(study):
    return read_record(study.parent / "runs.json")


def name_of(entry):
    return f"{entry['arm'].replace(', ', '-')}-seed{entry['seed']}"


def numbers(record):
    """The record without what chance decides."""
    text = json.dumps(record.of_study())
    return json.loads(text, object_hook=lambda d: {k: v for k, v in d.items() if k not in CHANCE})


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished study, what was run for it, and what was said."""
    study = written_study(tmp_path_factory.mktemp("study"))
    with trained_here() as run:
        text = swept(study)
    return study, run, text


@pytest.fixture
def finished(first, tmp_path):
    """A finished study to change."""
    shutil.copytree(first[0].parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / first[0].name


def test_every_run_is_trained_and_recorded(first):
    study, run, text = first
    assert run == [(name, "train") for name in ALL]
    record = record_of(study)
    entries = record.of_study()
    assert [(e["arm"], e["seed"]) for e in entries] == [
        ("labels", 0),
        ("labels", 1),
        ("wide, labels", 0),
        ("wide, labels", 1),
    ]
    for entry in entries:
        folder = study.parent / "runs" / f"{entry['arm'].replace(', ', '-')}-seed{entry['seed']}"
        summary = json.loads((folder / "summary.json").read_text())
        assert entry["summary"]["top1"] == summary["top1"]
        assert len(entry["curve"]["loss"]) == 2
        (_, last) = entry["curve"]["attention_distance"]
        heads = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
        means = [sum(block) / len(block) for block in heads["attention_distance"]]
        assert last == pytest.approx(means, rel=1e-4)
        assert len(entry["hash"]) == 16
    assert len({entry["hash"] for entry in entries}) == 2
    assert str(study.parent) not in (study.parent / "runs.json").read_text()
    assert "wide, labels over labels" in " ".join(text.split())
    assert (study.parent / "runs" / "table.md").read_text() == study_markdown(record)
    assert (
        "Accuracy on the evaluation images" in (study.parent / "runs" / "curves.html").read_text()
    )


def test_finished_runs_are_skipped_whether_their_folders_are_there_or_not(finished, in_process):
    swept(finished)
    assert in_process == []
    shutil.rmtree(finished.parent / "runs")
    assert "4 runs, 4 finished, 0 to train" in swept(finished)
    assert in_process == []


def test_without_its_record_a_finished_folder_counts_too(finished, in_process):
    before = numbers(record_of(finished))
    (finished.parent / "runs.json").unlink()
    swept(finished)
    assert in_process == []
    assert numbers(record_of(finished)) == before


def test_killed_in_the_middle_it_goes_on_to_the_same_record(
    first, in_process, write_study, monkeypatch
):
    study = write_study(seeds=[0])
    save, saved = Trainer._save, []

    def killed(self, *rest):
        save(self, *rest)
        saved.append(self)
        if len(saved) == 3:  # two epochs of the first run, one of the second
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        result = invoke("sweep", study, "--out", study.parent / "runs")
    assert isinstance(result.exception, KilledError)
    assert len(record_of(study).of_study()) == 1
    in_process.clear()
    swept(study)
    assert in_process == [(ALL[1], "train")]
    whole = [entry for entry in numbers(record_of(first[0])) if entry["seed"] == 0]
    assert numbers(record_of(study)) == whole


def test_its_images_may_move_between_two_calls_and_not_change(
    in_process, write_study, monkeypatch, tmp_path
):
    photo_classes(tmp_path / "here")
    (tmp_path / "code-here").mkdir()
    (tmp_path / "code-here" / "own.py").write_text("")
    data = {"data": {"train": "digits", "img_size": 16, "batch_size": 20}}
    study = write_study(seeds=[0], settings=data)
    save = Trainer._save

    def killed(self, *rest):
        save(self, *rest)
        raise KilledError

    def at(name):
        own = tmp_path / f"code-{name}" / "own.py"
        return ["--data", tmp_path / name, "--eval-data", tmp_path / name, "--import", own]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        begun = invoke("sweep", study, "--out", study.parent / "runs", *at("here"))
    assert isinstance(begun.exception, KilledError)
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "code-here").rename(tmp_path / "code-there")
    one = next((tmp_path / "there").rglob("*.png"))
    one.rename(tmp_path / "kept.png")
    told = refused("sweep", study, "--out", study.parent / "runs", *at("there"))
    assert "arm 'labels', seed 0: data.train: not the training images that the run began" in told
    (tmp_path / "kept.png").rename(one)
    swept(study, *at("there"))
    assert len(record_of(study).of_study()) == 2
    run = RunFolder(study.parent / "runs" / "labels-seed0")
    assert [session["from_epoch"] for session in run.sessions()] == [0, 1]
    assert run.read_config().data.train == str(tmp_path / "there")
    assert run.read_config().imports == (str(tmp_path / "code-there" / "own.py"),)


def test_a_begun_run_keeps_its_teachers_answers_where_the_command_says_now(
    in_process, write_study, monkeypatch, toy_teacher, tmp_path
):
    study = write_study(arms={"hard": {"method": "deit-hard"}}, seeds=[0])
    save = Trainer._save

    def killed(self, *rest):
        save(self, *rest)
        raise KilledError

    def kept(name):
        return ["--teacher", toy_teacher, "--cache-labels", tmp_path / name]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        begun = invoke("sweep", study, "--out", study.parent / "runs", *kept("here"))
    assert isinstance(begun.exception, KilledError)
    shutil.rmtree(tmp_path / "here")
    swept(study, *kept("there"))
    (folder,) = (tmp_path / "there" / "seed-0").iterdir()
    run = RunFolder(study.parent / "runs" / "hard-seed0")
    assert run.read_config().cache_labels == str(folder)
    assert not (tmp_path / "here").exists()


def test_what_another_command_does_while_this_one_plans_is_kept(finished, in_process, monkeypatch):
    swept(finished, "--test", "digits")
    before, place = numbers(record_of(finished)), finished.parent
    planned = door.plan

    def plan(*args, **options):
        for name in ("runs", "runs.json"):
            (place / "meanwhile" / name).rename(place / name)
        return planned(*args, **options)

    (place / "meanwhile").mkdir()
    for name in ("runs", "runs.json"):
        (place / name).rename(place / "meanwhile" / name)
    in_process.clear()
    monkeypatch.setattr(door, "plan", plan)
    swept(finished, "--test", "digits")
    assert in_process == []
    assert numbers(record_of(finished)) == before


def test_a_run_whose_teacher_brings_code_goes_on_after_its_stage(
    in_process, write_study, monkeypatch, tmp_path
):
    taught = {"teacher.name": str(strangers_cnn(tmp_path / "cnn", "strangers_second_cnn"))}
    study = write_study(arms={"labels": {"method": "ce"}, "taught": taught}, seeds=[0])
    save = Trainer._save

    def killed(self, *rest):
        save(self, *rest)
        if self.config.method == "dearkd":
            raise KilledError  # between the stages

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        begun = invoke("sweep", study, "--out", study.parent / "runs", "--trust")
    assert isinstance(begun.exception, KilledError)
    swept(study, "--trust")
    assert len(record_of(study).of_study()) == 2
    run = RunFolder(study.parent / "runs" / "taught-seed0")
    assert [session["from_epoch"] for session in run.sessions()] == [0, 1]


def test_a_study_that_has_changed_is_not_mixed_with_what_was_run(finished, in_process):
    study = yaml.safe_load(finished.read_text())
    study["settings"]["optim"]["lr"] = 0.02
    finished.write_text(yaml.safe_dump(study, sort_keys=False))
    line = refused("sweep", finished, "--out", finished.parent / "runs")
    assert "arm 'labels', seed 0: record" in line
    assert "has optim.lr=0.01, and the study says 0.02" in line
    (finished.parent / "runs.json").unlink()
    line = refused("sweep", finished, "--out", finished.parent / "runs")
    assert "runs/labels-seed0 has optim.lr=0.01, and the study says 0.02" in line
    assert in_process == []


def test_another_machine_is_told_how_to_go_on(finished):
    line = refused("sweep", finished, "--out", finished.parent / "runs", "--set", "precision=bf16")
    assert "record" in line
    assert "where this machine's rule chose that, --set precision=fp32; else take" in line


def test_a_run_that_fails_stops_no_other_and_is_named(write_study, in_process, monkeypatch):
    study = write_study(seeds=[0])
    save = Trainer._save

    def failing(self, *rest):
        if self.config.method == "ce" and not self.config.student_args:
            from dearkd.errors import UserError

            raise UserError("the loss is lost")
        save(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", failing)
        result = invoke("sweep", study, "--out", study.parent / "runs")
    assert result.exit_code == 1
    assert "failed: labels-seed0: the loss is lost (exit code 2" in result.stdout
    assert [entry["arm"] for entry in record_of(study).of_study()] == ["wide, labels"]
    swept(study)
    assert len(record_of(study).of_study()) == 2


def test_one_arm_alone_can_be_trained(write_study, in_process):
    study = write_study(seeds=[0])
    text = swept(study, "--only", "labels", "--jobs", 2)
    assert [name for name, _ in in_process] == ["labels-seed0"]
    assert "1 of 2 runs" in text


def test_one_seed_and_one_fraction_alone_can_be_trained(write_study, in_process):
    data = {"data": {"train": "digits", "batch_size": 200}}
    study = write_study(seeds=[0, 1], fractions=[0.2, 0.3], settings=data)
    text = swept(study, "--seed", 1, "--fraction", 0.2)
    assert [name for name, _ in in_process] == ["labels-0.2-seed1", "wide-labels-0.2-seed1"]
    assert "2 of 8 runs" in text
    in_process.clear()
    text = swept(study, "--seed", 1, "--only", "labels", "--fraction", 0.2, "--fraction", 0.3)
    assert [name for name, _ in in_process] == ["labels-0.3-seed1"]
    assert "3 of 8 runs" in text


def test_a_seed_alone_is_not_mixed_with_other_settings_of_its_arm(write_study, in_process):
    study = write_study(arms={"labels": {"method": "ce"}})
    swept(study, "--seed", 0)
    named = ["--seed", 1, "--out", study.parent / "runs"]
    line = refused("sweep", study, *named, "--set", "optim.lr=0.02")
    assert "arm 'labels', seed 1: the record has optim.lr=0.01 at seed 0, and the" in line
    swept(study, "--seed", 1, "--dry-run", "--set", "precision=bf16")  # as on another machine
    assert [name for name, _ in in_process] == ["labels-seed0"]


def test_what_other_arms_need_may_still_be_missing(write_study, in_process, tmp_path):
    arms = {
        "labels": {"method": "ce"},
        "later": {"method": "ce", "data.train": str(tmp_path / "x")},
    }
    study = write_study(arms=arms, seeds=[0], differs=["data.train"])
    assert "arm 'later': data" in refused("sweep", study, "--out", study.parent / "runs")
    text = swept(study, "--only", "labels")
    assert [name for name, _ in in_process] == ["labels-seed0"]
    assert "1 of 2 runs" in text


def test_a_recorded_arm_is_not_looked_at_again_where_another_is_asked_for(
    write_study, in_process, tmp_path
):
    for name, count in (("photos", 40), ("labels", 60)):
        photo_classes(tmp_path / name, count)
    arms = {
        name: {"method": "ce", "data.train": str(tmp_path / name)} for name in ("photos", "labels")
    }
    data = {"evaluation": "digits", "batch_size": 20, "img_size": 16}
    named = ["data.train", "steps", "train_images"]
    study = write_study(arms=arms, seeds=[0], differs=named, settings={"data": data})
    swept(study, "--only", "photos")
    shutil.rmtree(tmp_path / "photos")
    in_process.clear()
    text = swept(study, "--only", "labels", "--dry-run")
    assert "photos-seed0" not in text and "labels-seed0" in text
    named = ["--only", "labels", "--out", study.parent / "runs", "--set", "optim.lr=0.02"]
    line = refused("sweep", study, *named)
    assert "arms 'labels' and 'photos' differ in optim.lr (0.02 and 0.01), which a compari" in line
    rule = record_of(study).of_study()[0]["settings"]["memory_format"]
    other = "contiguous" if rule == "channels_last" else "channels_last"
    named[-1] = f"memory_format={other}"
    line = refused("sweep", study, *named)
    assert f"where this machine's rule chose that, --set memory_format={rule}, or name it" in line
    assert "1 run, 0 finished, 1 to train" in swept(study, "--only", "labels")
    assert in_process == [("labels-seed0", "train")]
    assert [entry["arm"] for entry in record_of(study).of_study()] == ["photos", "labels"]


def test_a_new_arm_or_seed_is_all_that_is_trained(finished, in_process):
    study = yaml.safe_load(finished.read_text())
    study["seeds"] = [0, 1, 2]
    study["arms"]["shallow"] = {"method": "ce", "student_args.depth": 2}
    finished.write_text(yaml.safe_dump(study, sort_keys=False))
    swept(finished, "--only", "labels")
    assert [name for name, _ in in_process] == ["labels-seed2"]
    assert record_of(finished).study.arms == ("labels", "wide, labels", "shallow")


def test_the_test_images_are_read_once_and_shown_when_all_have(write_study, in_process):
    study = write_study(arms={"labels": {"method": "ce"}}, seeds=[0])
    swept(study)
    in_process.clear()
    swept(study, "--test", "digits")
    assert in_process == [("labels-seed0", "eval")]
    table = (study.parent / "runs" / "table.md").read_text()
    assert "| top-1 % on 359 test images | seeds |" in table
    entries = record_of(study).of_study()
    assert [e["test"]["top1"] for e in entries] == [e["summary"]["top1"] for e in entries]
    in_process.clear()
    swept(study, "--test", "digits")
    assert in_process == []


def test_an_evaluation_that_says_nothing_fails_alone(finished, in_process, monkeypatch):
    monkeypatch.setattr(children.Child, "last_object", lambda child: None)
    result = invoke("sweep", finished, "--out", finished.parent / "runs", "--test", "digits")
    assert result.exit_code == 1
    assert "failed: labels-seed0, test: it printed no result (" in result.stdout
    assert len(in_process) == 4


def test_test_images_that_can_not_be_or_are_others_are_refused_before_any_training(
    finished, in_process, tmp_path
):
    study = yaml.safe_load(finished.read_text())
    study["seeds"] = [0, 1, 2]
    finished.write_text(yaml.safe_dump(study, sort_keys=False))
    line = refused("sweep", finished, "--out", finished.parent / "runs", "--test", "nowhere")
    assert "data 'nowhere' does not exist" in line
    assert in_process == []
    record = record_of(finished)
    record.entries[0]["test"] = {"top1": 1.0, "heads": {}, "images": 359, "data": "others"}
    record.write()
    line = refused("sweep", finished, "--out", finished.parent / "runs", "--test", "digits")
    assert "arm 'labels', seed 0 has read other test images than --test digits" in line
    assert in_process == []


def test_a_run_reads_the_test_images_with_its_imports(write_study, in_process, monkeypatch):
    own = write_study().parent / "own.py"
    own.write_text("")
    words, start = [], children.Child.start

    def noted(child, threads):
        words.append(" ".join(child.words))
        return start(child, threads)

    monkeypatch.setattr(children.Child, "start", noted)
    study = write_study(arms={"labels": {"method": "ce"}}, seeds=[0])
    swept(study, "--import", own, "--test", "digits")
    assert words[1].endswith(f"--data digits --json --import {own}")


def test_weights_that_are_gone_can_not_read_the_test_images(finished, in_process):
    shutil.rmtree(finished.parent / "runs" / "labels-seed0")
    result = invoke("sweep", finished, "--out", finished.parent / "runs", "--test", "digits")
    assert result.exit_code == 1
    assert "failed: labels-seed0: its weights are gone, so it can't read digits" in result.stdout
    assert len(in_process) == 3


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_weights_of_another_run_do_not_read_the_test_images(finished, in_process, content):
    """A record may come from elsewhere, and the folders here from an earlier study."""
    summary = finished.parent / "runs" / "labels-seed0" / "summary.json"
    stored = json.loads(summary.read_text())
    text = json.dumps(stored | {"seconds": stored["seconds"] + 1}) if content is None else content
    summary.write_text(text)
    result = invoke("sweep", finished, "--out", finished.parent / "runs", "--test", "digits")
    assert result.exit_code == 1
    assert "labels-seed0 has another run than the record, by top-1 or seconds" in result.stdout
    assert len(in_process) == 3
    tested = {name_of(entry): "test" in entry for entry in record_of(finished).of_study()}
    assert tested == {name: name != "labels-seed0" for name in ALL}


def test_the_table_comes_from_the_record_alone(finished, in_process):
    shutil.rmtree(finished.parent / "runs")
    text = swept(finished, "--table")
    assert text == study_markdown(record_of(finished))
    (finished.parent / "runs.json").unlink()
    for idle in ("--trust", "--dry-run"):
        assert f"{idle} has no effect with --table" in refused("sweep", finished, "--table", idle)
    named = ("--data", "--eval-data", "--teacher", "--cache-labels", "--import", "--set")
    for idle in ("--test", "--jobs", "--only", "--seed", "--fraction", *named):
        line = refused("sweep", finished, "--table", idle, 2)
        assert f"{idle} has no effect with --table" in line
    line = refused("sweep", finished, "--out", finished.parent / "runs", "--table")
    assert "runs.json; run the study, or name its file by --record" in line


def test_the_folder_that_one_is_in_can_hold_the_runs(finished, monkeypatch):
    monkeypatch.chdir(finished.parent / "runs")
    assert invoke("sweep", finished, "--out", ".", "--table").stdout == study_markdown(
        record_of(finished)
    )


def test_a_dry_run_says_what_is_left_and_writes_nothing(finished, in_process):
    shutil.rmtree(finished.parent / "runs" / "labels-seed0")
    before = sorted(finished.parent.rglob("*"))
    study = yaml.safe_load(finished.read_text())
    study["arms"]["shallow"] = {"method": "ce", "student_args.depth": 2}
    finished.write_text(yaml.safe_dump(study, sort_keys=False))
    text = swept(finished, "--dry-run")
    assert text.count("finished") == 4
    assert text.count("to train") == 2
    assert "about " in text
    assert sorted(finished.parent.rglob("*")) == before
    assert in_process == []


def test_a_file_where_a_run_would_go_is_refused_before_any_training(write_study, in_process):
    study = write_study(seeds=[0])
    (study.parent / "runs").mkdir()
    (study.parent / "runs" / ALL[1]).write_text("")
    line = refused("sweep", study, "--out", study.parent / "runs")
    assert f"{ALL[1]} is a file; choose a folder" in line
    assert in_process == []


def test_the_teachers_answers_are_kept_by_seed_images_and_form(
    write_study, in_process, toy_teacher, tmp_path
):
    """A folder of answers is of one seed, and labels alone do not do for soft distillation."""
    hard = {"method": "deit-hard"}
    arms = {"hard": hard, "wide": hard | {"student_args.mlp_ratio": 2.0}}
    arms["soft"] = {"method": "deit-soft"}
    study = write_study(arms=arms, fractions=[0.18, 0.3], settings={"data": {"batch_size": 200}})
    named = ["--teacher", toy_teacher, "--cache-labels", tmp_path / "kept"]
    swept(study, *named, "--fraction", 0.18, "--seed", 0)
    for fraction, seed in ((0.18, 1), (0.3, 0)):
        swept(study, *named, "--fraction", fraction, "--seed", seed, "--only", "hard")
    used = {}
    for folder in (tmp_path / "runs").glob("*-seed*"):
        found = json.loads((folder / "summary.json").read_text())["teacher_labels"]
        used[folder.name] = (found["read"] > 0, found["computed"] > 0)
    assert len(used) == 5
    for name, (read, computed) in used.items():
        assert (read, computed) == ((True, False) if name.startswith("wide") else (False, True))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("summary.json", b"{", "Expecting property name"),
        ("summary.json", b"{}", "summary.top1 is missing"),
        ("metrics.jsonl", b"5\n\xff", "curve.epoch is missing"),
        ("metrics.jsonl", b'{"epoch": 0}\n', "is missing"),
        ("metrics.jsonl", b"", "curve.epoch is missing"),
    ],
)
def test_a_damaged_folder_is_named_and_does_not_spoil_the_record(
    finished, in_process, name, content, fault
):
    record = finished.parent / "runs.json"
    stored = json.loads(record.read_text())
    lacking = [entry for entry in stored["runs"] if (entry["arm"], entry["seed"]) != ("labels", 1)]
    record.write_text(json.dumps(stored | {"runs": lacking}))
    folder = finished.parent / "runs" / "labels-seed1"
    (folder / name).write_bytes(content)
    line = refused("sweep", finished, "--out", finished.parent / "runs")
    assert f"{folder} has a damaged summary.json or metrics.jsonl (" in line
    assert fault in line
    assert len(read_record(record).of_study()) == 3
    shutil.rmtree(folder)
    swept(finished)
    assert in_process == [("labels-seed1", "train")]
    assert len(read_record(record).of_study()) == 4


def test_results_without_a_configuration_are_not_taken_for_those_of_an_arm(finished, in_process):
    (finished.parent / "runs.json").unlink()
    (finished.parent / "runs" / "labels-seed1" / "config.yaml").unlink()
    line = refused("sweep", finished, "--out", finished.parent / "runs")
    assert "labels-seed1 has a summary.json, but no config.yaml that says of which run" in line
    assert in_process == []


def test_another_study_or_file_is_no_record(finished, write_study):
    other = write_study("others")
    line = refused("sweep", other, "--record", finished.parent / "runs.json")
    assert "is of study toys, not others; name another file by --record" in line
    (finished.parent / "runs.json").write_text("{")
    assert "is no JSON" in refused("sweep", finished, "--out", finished.parent / "runs")
    (finished.parent / "runs.json").write_text("{}")
    assert "is no record" in refused("sweep", finished, "--out", finished.parent / "runs")


def test_the_report_shows_the_study_with_its_runs_and_without(finished):
    root = finished.parent / "runs"
    table = study_markdown(record_of(finished)).split("\n\n")[0]
    for target in (root, finished.parent / "runs.json"):
        assert table in invoke("report", target, "--format", "md").stdout
    out = finished.parent / "page.html"
    assert invoke("report", root, "--no-predictions", "--out", out).exit_code == 0
    assert "Study toys" in out.read_text()
    lines = invoke("report", finished.parent / "runs.json", "--format", "csv").stdout.splitlines()
    assert len(lines) == 5
    content = json.loads(invoke("report", root, "--format", "json").stdout)
    assert [len(study["runs"]) for study in content["studies"]] == [4]


@pytest.mark.slow
def test_real_children_are_stopped_by_sigterm_and_gone_on_with(tmp_path):
    study = tmp_path / "digits.yaml"
    data = {"train": "digits", "fraction": 0.2, "batch_size": 32}
    arms = {"labels": {"method": "ce"}, "taught": {"method": "deit-hard"}}
    settings = {"stage1": 3, "stage2": 1, "data": data}
    study.write_text(yaml.safe_dump({"settings": settings, "seeds": [0], "arms": arms}))
    line = ["dearkd", "sweep", str(study), "--out", str(tmp_path / "runs"), "--jobs", "2"]
    line += ["--seed", "0"]
    begun = subprocess.Popen([sys.executable, "-m", *line], stdout=subprocess.PIPE, text=True)
    while not list((tmp_path / "runs").glob("*/metrics.jsonl")):
        assert begun.poll() is None
        time.sleep(0.1)
    begun.terminate()
    said, _ = begun.communicate()
    assert begun.returncode == 75
    assert not (tmp_path / "runs" / "labels-seed0" / "summary.json").exists()
    again = shlex.split(said.split("go on with: ")[1])
    assert again == line
    done = subprocess.run([sys.executable, "-m", *again], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [e["summary"]["epochs"] for e in read_record(tmp_path / "runs.json").of_study()] == [
        4,
        4,
    ]
