"""A study's file: what it may say, and what is refused by name before anything is opened."""

import re

import pytest
from commands import refused
from omegaconf import OmegaConf

from dearkd.config import load_config
from dearkd.errors import UserError
from dearkd.sweep.study import folder_name, read_study

TEXT = """
settings: {{data.train: digits, data: {{batch_size: 64}}}}
seeds: [0, 1]
arms:
  labels: {{method: ce}}
  taught: {{method: deit-hard}}
{more}
"""


def written(tmp_path, more="", text=TEXT):
    file = tmp_path / "study.yaml"
    file.write_text(text.format(more=more))
    return file


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("sedes: [1]", "unknown config key 'sedes'; did you mean 'seeds'?"),
        ("  labels: {}", "the key 'labels' twice"),
        ("  LABELS: {}", "arms 'labels' and 'LABELS' would have one folder, labels; rename"),
        ("  '+': {}", "arm '+' has no letter of a-z and no digit, of which its folder's name"),
        ("  Пример: {}", "arm 'Пример' has no letter of a-z"),
        ("  third: {}\nbase: base.yaml", "--import 3 does not exist; check the path"),
        ("  third: {optim.lrr: 1}", "arm 'third': unknown config key 'optim.lrr'; did you mean"),
        ("  third: {optim.lr: abc}", "arm 'third': optim.lr must be a number, got 'abc'"),
        ("  third: {optim.lr: -1}", "arm 'third': optim.lr must be above 0"),
        ("  third: {seed: 3}", "arm 'third' sets seed: seeds has the study's; leave it out"),
        ("  third: {data.fraction: 0.1}", "arm 'third' sets data.fraction: fractions has"),
        ("  third: {data.flip: true, data: {flip: false}}", "arm 'third' has data.flip twice"),
        ("compare: {tauhgt: [labels]}", "compare names 'tauhgt'; did you mean 'taught'?"),
        ("compare: {taught: [taught]}", "compare holds 'taught' against itself"),
        (
            "compare: {taught: [labels, labels]}",
            "one or more arms, each once, got [",
        ),
        ("compare: {taught: []}", "compare must hold 'taught' against one or more arms"),
        ("fractions: [0.5, 1.5]", "fractions must be above 0 and at most 1, got 1.5"),
        ("fractions: [0.5, 0.5]", "fractions has one twice"),
        ("  3: {}", "arms.3 must be a name, in quotes, got 3"),
        ("fractions: 0.1", "fractions must be a list, got 0.1; write it as [...]"),
        ("compare: {taught: labels}", "compare.taught must be a list, got 'labels'"),
        ("  third: ce", "arms.third must be {KEY: VALUE}, got 'ce'"),
        ("  third: {data: {1: 2}}", "arm 'third': unknown config key 'data.1'; known in data"),
        ("  third: {student_args: [1]}", "arm 'third': student_args must have fields, got [1]"),
        ("base: nowhere.yaml", "nowhere.yaml does not exist"),
        ("differs: [optim.lr]", "differs names optim.lr, in which no arms differ"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_in_one_line(tmp_path, more, message):
    (tmp_path / "base.yaml").write_text("imports: [3]\n")
    assert message in refused("sweep", written(tmp_path, more))
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: {stage1: 1}", "a study needs arms"),
        ("arms: {a: {optim.lrr: 1}}", "arm 'a': unknown config key 'optim.lrr'"),
        ("arms: {a: {}}\nseeds: []", "seeds must be different whole numbers"),
        ("arms: {a: {}}\nseeds: [1, 1]", "seeds must be different whole numbers"),
        ("arms: {a: {}}\nsettings: {out: runs/x}", "the study sets out: each run has a folder"),
        (
            "arms: {a: {}}\nfractions: [0.1]\nsettings: {data.fraction: 0.5}",
            "the study sets data.fraction: fractions has the study's",
        ),
    ],
)
def test_a_study_that_can_not_be_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_study(written(tmp_path, text=text.replace("{", "{{").replace("}", "}}")))


def test_settings_go_over_the_base_and_what_is_typed_over_both(tmp_path):
    (tmp_path / "base.yaml").write_text("stage1: 5\nstage2: 4\ndata: {fraction: 0.5, flip: true}\n")
    study = read_study(
        written(tmp_path, "base: base.yaml\nfractions: [0.1, 1]"),
        ["stage2=7"],
        {"data.train": "elsewhere", "data.evaluation": None},
    )
    config = study.of_arm("taught", 0.1, 3)
    assert (config.stage1, config.stage2, config.seed, config.method) == (5, 7, 3, "deit-hard")
    assert (config.data.train, config.data.flip, config.data.fraction) == ("elsewhere", True, 0.1)
    assert config.data.batch_size == 64
    assert study.of_arm("labels", 1.0, 0).data.fraction == 1


def test_a_set_of_each_seed_is_trained_on_as_it_is_where_it_is_named(tmp_path):
    """A synthetic set has a recipe of its own, which goes by what lies there."""
    made = tmp_path / "set-1"
    made.mkdir()
    (made / "manifest.json").write_text('{"images": []}')
    text = "settings: {{data.train: 'FOLDER/set-{{seed}}'}}\narms: {{a: {{optim.name: muon}}}}"
    study = read_study(written(tmp_path, text=text.replace("FOLDER", str(tmp_path))))
    config = study.of_arm("a", None, 1)
    assert config.data.train == str(made)
    assert config == load_config(None, ["optim.name=muon", "seed=1"], {"data.train": str(made)})


def test_a_teacher_for_all_goes_to_the_arms_that_have_one(tmp_path):
    study = read_study(written(tmp_path), [], {"teacher.name": "cnn", "cache_labels": "kept"})
    taught, alone = study.of_arm("taught", None, 0), study.of_arm("labels", None, 0)
    assert (taught.teacher.name, taught.cache_labels) == ("cnn", "kept")
    assert (alone.teacher.name, alone.cache_labels) == (None, None)
    assert OmegaConf.select(study.shared, "teacher.name") == "cnn"  # nothing was taken from it


def test_what_is_for_taught_arms_is_refused_where_there_are_none(tmp_path):
    file = written(tmp_path, text=TEXT.replace("deit-hard", "ce, optim.lr: 1"))
    for option, key in (("--teacher", "teacher"), ("--cache-labels", "cache_labels")):
        line = refused("sweep", file, option, "kept")
        assert f"the study sets {key}, which has no effect: no arm has a teacher" in line
    file = written(tmp_path, text="arms: {{labels: {{method: ce, student: toy_student}}}}")
    line = refused("sweep", file, "--trust", "--dry-run")
    assert "--trust has no effect: no arm opens a network" in line


def test_fractions_that_would_share_a_folder_are_refused(tmp_path):
    file = written(tmp_path, "fractions: [0.1, 0.1234561, 0.1234562]")
    line = refused("sweep", file, "--dry-run")
    assert "fractions 0.1234561 and 0.1234562 would have one folder, 0.123456; round one" in line


def test_all_images_keep_their_steps_by_themselves(tmp_path):
    study = read_study(written(tmp_path, "fractions: [0.1, 1]"), ["data.keep_steps=true"])
    assert study.of_arm("labels", 0.1, 0).data.keep_steps
    assert not study.of_arm("labels", 1.0, 0).data.keep_steps


def test_by_default_every_arm_is_held_against_the_first(tmp_path):
    described = read_study(written(tmp_path, "  third: {}")).described()
    assert described.compare == {"taught": ("labels",), "third": ("labels",)}
    assert (described.name, described.fractions) == ("study", (None,))


def test_folder_names_are_plain():
    assert folder_name("DearKD, 12 + 3 epochs") == "dearkd-12-3-epochs"
    assert folder_name("alpha 0.1 (MHCA)") == "alpha-0.1-mhca"


def test_only_names_arms(tmp_path):
    line = refused("sweep", written(tmp_path), "--only", "tauht")
    assert "--only 'tauht' is no arm" in line
    assert "did you mean 'taught'?" in line
    assert "there are 'labels', 'taught'" in refused("sweep", written(tmp_path), "--only", "zzz")


def test_seeds_and_fractions_are_the_studys(tmp_path):
    line = refused("sweep", written(tmp_path), "--seed", 7)
    assert "--seed 7 is no seed of" in line
    assert "name one of them, or add it to its seeds" in line
    line = refused("sweep", written(tmp_path), "--fraction", 0.1)
    assert "which has none; leave --fraction out, or add it to its fractions" in line


def test_the_published_studies_load_and_say_what_they_are():
    from test_results import ROOT

    files = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        lines = file.read_text().splitlines()
        assert len(lines) <= 40, file
        for word in ("Command   dearkd sweep", "Hardware", "Time", "Expected"):
            assert any(line.startswith(f"# {word}") for line in lines), (file, word)
        assert f"configs/studies/{file.name}" in lines[1]
        study = read_study(file)
        fraction = study.described().fractions[0]  # the optimizer is that of the others, too
        arms = [study.of_arm(arm, fraction, 0) for arm in study.config.arms]
        # A comparison wants it equal, and a recipe may bring one along.
        may_differ = {"optim", "optim.name"} & set(study.config.differs)
        assert may_differ or len({arm.optim.name for arm in arms}) == 1


def test_a_base_may_lie_below_the_home(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text("stage1: 7\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "studies").mkdir()
    assert read_study(written(tmp_path / "studies", "base: ~/base.yaml")).shared.stage1 == 7


def test_a_file_that_is_no_record_is_not_to_be_removed(tmp_path):
    """It may be the study itself, or anything else that was named by mistake."""
    line = refused("sweep", written(tmp_path), "--record", tmp_path / "study.yaml")
    assert "is no JSON" in line
    assert line.endswith("restore it, or name another file by --record")


def test_a_folder_is_no_study(tmp_path):
    """Nor are its images, which a sweep does not take."""
    assert refused("sweep", tmp_path).endswith("is a folder, not a YAML file; name one")
