"""Configuration: what is unknown, of the wrong type or out of range is refused by name."""

from pathlib import Path

import pytest

from dearkd.config import TrainConfig, load_config
from dearkd.config_file import to_yaml, user_tree
from dearkd.errors import UserError
from dearkd.synthesis.settings import SynthesizeConfig

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/train/*.yaml"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lrr=3", "unknown config key 'optim.lrr'; did you mean 'optim.lr'"),
        ("lr=3", "did you mean 'optim.lr'"),
        ("zzz=1", "known: recipe, method, method_args, student"),
        ("data.lr=3", "did you mean 'optim.lr'"),
        ("data.batch_sz=3", "unknown config key 'data.batch_sz'; did you mean 'data.batch_size'"),
        ("optm.warmup_epoch=3", "'optm.warmup_epoch'; did you mean 'optim.warmup_epochs'"),
        ("optim.foo=1", "unknown config key 'optim.foo'; known in optim: name, lr"),
        ("optim.lr=abc", "optim.lr must be a number, got 'abc'"),
        ("compile=maybe", "compile must be true or false, got 'maybe'"),
        ("stage1=abc", "stage1 must be a whole number or auto, got 'abc'"),
        ("stage1=1.5", "stage1 must be a whole number or auto, got '1.5'"),
        ("stage1=null", "stage1 must be a whole number or auto, got 'None'"),
        ("stage1=auto", "stage1=auto needs the length of the whole run; give it by --epochs N"),
        (
            "switch.epochs=9",
            "--epochs 9 has no effect.*as --stage1 9 --stage2 0, or choose --stage1 auto",
        ),
        ("switch.fall=0.1", r"switch\.fall=0\.1 has no effect with stage1=40"),
        ("switch.least=2", "switch.least must be at least 0 and at most 1"),
        ("precision=half", r"precision: Invalid value 'half', expected one of \['auto', 'fp32'"),
        ("data.fraction=0", "data.fraction must be above 0 and at most 1, got 0"),
        ("data.fraction=1.5", "data.fraction must be above 0 and at most 1, got 1.5"),
        ("stage1=-1", "stage1 must be at least 0"),
        ("optim.lr=-1", "optim.lr must be above 0"),
        ("optim.weight_decay=-0.1", "optim.weight_decay must be at least 0"),
        ("optim.ema_decay=1", "optim.ema_decay must be above 0"),
        ("data.smoothing=1", "data.smoothing must be"),
        ("data.validation=0", "data.validation must be above 0"),
        ("data.validation=2.5", "data.validation must be a share below 1 or a whole number"),
        ("optim.momentum=0.9", r"optim\.momentum=0\.9 has no effect with optim\.name=adamw"),
        ("optim.name=sgd", r"optim\.name=sgd has no default learning rate; set optim\.lr"),
        ("distill.temperature=0", "distill.temperature must be above 0"),
        ("distill.hidden_weight=-1", "distill.hidden_weight must be"),
        ("distill.pairs=[{block: 1", r"--set distill\.pairs=.* is not YAML \(line 2, column \d+: "),
        ("data.img_size=8193", "data.img_size must be at least 1 and at most 8192, got 8193"),
        ("optim.warmup_epochs=50", "optim.warmup_epochs must be below the run's epochs, 50"),
        ("distill.pairs=[{blok: 7, stage: 2}]", "unknown config key"),
        (
            "distill.pairs={block: 1}",
            r"distill\.pairs must be a list, got \{'block': 1\}",
        ),
        ("imports=own.py", r"imports must be a list, got own\.py; write it as \[\.\.\.\]"),
        ("imports={a: 1}", "imports must be a list, got"),
        ("data.workers={a: 1}", r"data\.workers has no fields, got \{'a': 1\}; write a value"),
        ("student_args=[1]", r"student_args must have fields, got \[1\]; write it as \{KEY: VALUE"),
        ("data=3", "data must have fields, got 3"),
        ("trackers=[board]", r"trackers: Invalid value '\['board'\]', expected one of"),
        ("seed=???", r"seed is \?\?\?, which is no value; give it one, or leave it out"),
        ("method_args.a=???", r"method_args\.a is \?\?\?"),
        ("data.train=x${y}", r"data\.train: Interpolation key 'y' not found"),
        ("zzz=${y}", r"unknown config key 'zzz'; known: recipe"),
        ("seed", "--set wants key=value, as in --set seed=1, got 'seed'"),
    ],
)
def test_a_bad_setting_is_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(None, [setting])
    assert "\n" not in str(caught.value)


def test_the_end_of_the_cosine_is_not_above_its_peak():
    with pytest.raises(ValueError, match=r"optim\.min_lr must be at most optim\.lr \(0\.001\)"):
        load_config(None, ["optim.lr=1e-3", "optim.min_lr=1e-2"])
    # The default is no mistake of the user's; the schedule never ends above its peak.
    assert load_config(None, ["optim.lr=1e-6"]).optim.min_lr == 1e-5


def test_both_stages_empty_is_refused():
    with pytest.raises(ValueError, match="stage1 and stage2 are both 0"):
        load_config(None, [], {"stage1": 0, "stage2": 0})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml does not exist"):
        load_config(tmp_path / "nothing.yaml")


def test_a_study_is_no_configuration_of_a_run():
    study = next(CONFIGS[0].parents[1].glob("studies/*.yaml"))
    with pytest.raises(UserError, match=r"is a study of several runs; type dearkd sweep .*yaml"):
        load_config(study)


def test_paths_that_are_to_be_pasted_are_quoted(tmp_path):
    (tmp_path / "my photos").mkdir()
    told = r"images: --data '.*/my photos'; a run to resume: --resume --out '.*/my photos'$"
    with pytest.raises(UserError, match=told):
        load_config(tmp_path / "my photos")
    study = tmp_path / "my study.yaml"
    study.write_text("arms: {}")
    with pytest.raises(UserError, match=r"; type dearkd sweep '.*/my study\.yaml'$"):
        load_config(study)


def test_a_value_may_be_left_open_in_a_file_or_refer_to_another(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: ???\nstage1: 3\nstage2: ${stage1}\n")
    config = load_config(file, ["seed=2"])
    assert (config.seed, config.stage2) == (2, 3)
    with pytest.raises(UserError, match=r"seed is \?\?\?"):
        load_config(file)
    with pytest.raises(UserError, match=r"stage1 is \?\?\?"):
        load_config(file, ["seed=2", "stage1=???"])
    config = load_config(file, ["seed=2", "stage2=${seed}", "data.train=${method}"])
    assert (config.stage2, config.data.train) == (2, "dearkd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [dearkd\n", r"broken\.yaml is not YAML"),
        ("[method]", r"broken\.yaml holds a list; write KEY: VALUE lines"),
        ("3", r"broken\.yaml holds a single value; write KEY: VALUE lines"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(file)


def test_arguments_may_have_numbers_for_keys():
    assert load_config(None, ["method_args.weights={1: 0.5}"]).method_args == {"weights": {1: 0.5}}


def test_settings_win_over_options_and_options_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("stage1: 1\nstage2: 2\nseed: 3\n")
    config = load_config(file, ["seed=30"], {"stage2": 20, "seed": 4, "out": None})
    assert (config.stage1, config.stage2, config.seed) == (1, 20, 30)


def test_yaml_round_trip(tmp_path):
    settings = ["distill.pairs=[{block: 7, stage: 2}, {block: 3, stage: 1}]", "optim.lr=3e-4"]
    config = load_config(None, settings, {"data.fraction": 0.1})
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    assert config.distill.pairs[1].block == 3


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_recipe_loads_and_tells_its_story(file):
    assert isinstance(load_config(file), TrainConfig)
    text = file.read_text()
    assert len(text.splitlines()) <= 40
    for word in ("# Command", "# Hardware", "# Time", "# Expected"):
        assert word in text


def test_there_are_recipes():
    assert {"dearkd_ti", "dearkd_s", "dearkd_b", "deit_ti_hard", "cifar10_cpu", "digits"} <= {
        file.stem for file in CONFIGS
    }


def test_an_empty_mapping_is_no_list():
    with pytest.raises(
        UserError, match=r"classes has no fields, got \{\}; write a value or a list"
    ):
        user_tree(SynthesizeConfig, None, ["classes={}"], None)
