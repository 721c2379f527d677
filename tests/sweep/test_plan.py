"""A study's runs are fair: they differ in what is compared, and are refused where in more."""

import dataclasses
import shutil
from functools import partial

import pytest
import timm
import torch
from commands import refused
from conftest import FAST_TEACHER
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from toy_studies import strangers_cnn, written_study

from dearkd.config import TrainConfig
from dearkd.data.datasets import open_data
from dearkd.errors import UserError
from dearkd.models.vit import DearKDVisionTransformer
from dearkd.run_folder.files import save_model
from dearkd.sweep.plan import LATER, difference, plan, settings_of
from dearkd.sweep.study import read_study

LABELS = {"method": "ce"}
LOOK = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
LOOK |= {"interpolation": "bicubic", "fixed_input_size": True}
LOOK |= {"classifier": ("head", "head_dist"), "crop_mode": "squash"}
default_cfgs = generate_default_cfgs({"squashing_student": LOOK})


@register_model
def squashing_student(pretrained=False, **kwargs):
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 4}
    given = {**sizes, "mhca_depth": 1, **kwargs}
    return build_model_with_cfg(DearKDVisionTransformer, "squashing_student", pretrained, **given)


@pytest.fixture
def write_study(tmp_path):
    return partial(written_study, tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"method": "ce"}, "arms 'a' and 'b' are the same; leave one out"),
        ({"method": "ce", "data.batch_size": 100}, "differ in data.batch_size (200 and 100)"),
        ({"method": "ce", "data.mixup": 0.5}, "differ in data.mixup (0.0 and 0.5)"),
        ({"method": "ce", "precision": "bf16"}, "differ in precision (fp32 and bf16)"),
        ({"method": "ce", "stage2": 3}, "differ in epochs (2 and 4)"),
        ({"method": "ce", "data.evaluation": "digits", "optim.lr": 0.1}, "differ in optim.lr"),
        ({"method": "ce", "data.validation": 100}, "differ in data.train ("),
        ({"method": "ce", "precision": "fastest"}, "arm 'b': precision=fastest may choose"),
        ({"method": "dearkd", "student": "toy_cnn"}, "arm 'b': method dearkd needs a vision"),
        (
            {"method": "ce", "student": "squashing_student"},
            "differ in crop_mode (center and squash)",
        ),
        ({"method": "cee"}, "arm 'b': unknown method 'cee'; did you mean 'ce'?"),
        ({"method": "ce", "teacher.name": "digits"}, "arm 'b': teacher.name=digits has no effect"),
    ],
)
def test_arms_that_a_comparison_can_not_have_are_refused(write_study, other, message):
    study = write_study(arms={"a": LABELS, "b": other})
    assert message in refused("sweep", study)
    assert not study.with_suffix(".json").exists()


def planned(file, **options):
    return plan(read_study(file, (), options))


def test_what_is_named_may_differ_and_must(write_study):
    other = LABELS | {"data.batch_size": 100}
    study = write_study(arms={"a": LABELS, "b": other}, differs=["data.batch_size", "steps"])
    assert [run.settings["steps"] for run in planned(study)] == [1, 2, 1, 2]
    study = write_study(arms={"a": LABELS, "b": other}, differs=["data", "steps", "epochs"])
    assert "differs names epochs, in which no arms differ" in refused("sweep", study)


def test_a_part_of_a_study_in_which_no_two_arms_meet_is_planned(write_study):
    other = LABELS | {"data.batch_size": 100}
    data = {"data": {"train": "digits", "batch_size": 200}}
    study = write_study(
        arms={"a": LABELS, "b": other},
        differs=["data.batch_size", "steps"],
        fractions=[0.2, 0.3],
        settings=data,
    )
    runs = plan(read_study(study), only={("a", 0.2, 0), ("b", 0.3, 0)})
    assert [run.key for run in runs] == [("a", 0.2, 0), ("b", 0.3, 0)]


def test_what_a_machine_chooses_may_be_named_where_it_chooses_alike(write_study):
    """A CNN and a transformer have one precision on a GPU, and two on a CPU."""
    other = LABELS | {"student_args.mlp_ratio": 2.0}
    study = write_study(arms={"a": LABELS, "b": other}, differs=["precision", "data.views"])
    assert len(planned(study)) == 4


def test_a_seed_may_have_images_of_its_own(write_study, tmp_path):
    source = open_data("digits")[0]
    for seed, first in ((0, 0), (1, 40)):
        for index in range(first, first + 40):
            place = tmp_path / f"set-{seed}" / str(source.labels[index])
            place.mkdir(parents=True, exist_ok=True)
            source.image(index).save(place / f"{index}.png")
    data = {"train": str(tmp_path / "set-{seed}"), "evaluation": "digits", "img_size": 16}
    study = write_study(settings={"data": data | {"batch_size": 20}}, arms={"a": LABELS})
    first, second = planned(study)
    assert first.settings["data.train"] != second.settings["data.train"]
    for run in (first, second):
        assert run.resolved.data.train == run.config.data.train == f"{tmp_path}/set-{run.seed}"
        assert (run.resolved.seed, run.settings["train_images"]) == (run.seed, 40)
    shutil.rmtree(tmp_path / "set-0")
    entry = {"arm": "a", "fraction": None, "seed": 0, "settings": first.settings}
    alone = plan(read_study(study), only={("a", None, 1)}, recorded=[entry])
    assert [run.settings for run in alone] == [second.settings]
    entry["settings"] = first.settings | {"optim.lr": 0.5}
    with pytest.raises(UserError, match=r"the record has optim\.lr=0\.5 at seed 0"):
        plan(read_study(study), only={("a", None, 1)}, recorded=[entry])


def test_stages_and_student_are_what_is_compared(write_study):
    arms = {
        "labels": LABELS,
        "two stages": {},
        "one stage": {"stage1": 2, "stage2": 0},
        "a cnn": LABELS | {"student": "toy_cnn"},
    }
    settings = {"teacher": dict(pair.split(".")[1].split("=") for pair in FAST_TEACHER)}
    runs = planned(write_study(arms=arms, settings=settings))
    assert [run.name for run in runs] == [
        f"{arm}-seed{seed}"
        for seed in (0, 1)
        for arm in ("labels", "two-stages", "one-stage", "a-cnn")
    ]
    assert {run.settings["epochs"] for run in runs} == {2}
    assert [run.resolved.seed for run in runs] == [run.config.seed for run in runs]


def test_two_teachers_are_two_comparisons(write_study, toy_teacher):
    arms = {
        "labels": LABELS,
        "embedded": {"method": "deit-hard"},
        "toy": {"method": "deit-hard", "teacher.name": str(toy_teacher)},
    }
    line = refused("sweep", write_study(arms=arms))
    assert "arms 'embedded' and 'toy' differ in teacher.name" in line
    runs = planned(write_study(arms=arms, differs=["teacher"]))
    assert len({run.settings["teacher.name"] for run in runs}) == 3


def test_weights_to_start_from_and_imported_files_count_by_what_they_hold(write_study, tmp_path):
    places = [tmp_path / name / "start" for name in ("one", "copy", "other")]
    for place, seed in zip(places, (0, 0, 1), strict=True):
        torch.manual_seed(seed)
        about = {"arch": "toy_student", "num_classes": 10, "class_names": None, "img_size": 16}
        place.mkdir(parents=True)
        network = timm.create_model("toy_student", num_classes=10)
        save_model(place / "model.safetensors", network, about)
        (place / "own.py").write_text(f"SEED = {seed}\n")
    one, copy, other = ({**LABELS, "init": str(place)} for place in places)
    line = refused("sweep", write_study(arms={"a": one, "b": other}))
    assert "arms 'a' and 'b' differ in init.weights" in line
    assert "are the same" in refused("sweep", write_study(arms={"a": one, "b": copy}))
    runs = planned(write_study(arms={"a": one, "b": other, "c": LABELS}, differs=["init"]))
    weights = {run.arm: run.settings["init.weights"] for run in runs}
    assert len(set(weights.values())) == 3 and weights["c"] is None
    assert difference(runs[0].settings, runs[1].settings)[0] == "init.weights"
    older = {key: value for key, value in runs[0].settings.items() if key not in LATER}
    assert difference(older, runs[1].settings) is None
    one, copy, other = ({**LABELS, "imports": [str(place / "own.py")]} for place in places)
    line = refused("sweep", write_study(arms={"a": one, "b": other}))
    assert "arms 'a' and 'b' differ in imports.content" in line
    assert "are the same" in refused("sweep", write_study(arms={"a": one, "b": copy}))


def test_a_teacher_that_brings_code_is_trusted_in_its_arms_alone(write_study, tmp_path):
    """That its models are known in this process after the first of them changes nothing."""
    first, second = (strangers_cnn(tmp_path / name, "strangers_cnn") for name in ("one", "two"))
    arms = {
        "labels": LABELS,
        "embedded": {"method": "deit-hard"},
        "first": {"method": "deit-hard", "teacher.name": str(first)},
        "second": {"method": "dearkd", "teacher.name": str(second)},
    }
    study = read_study(write_study(arms=arms, seeds=[0], differs=["teacher"]))
    with pytest.raises(UserError, match=r"arm 'first': .*own\.py.*or --trust to run that file"):
        plan(study)
    for _ in range(2):
        assert [run.needs_trust for run in plan(study, trust=True)] == [False, False, True, True]
    plain = read_study(write_study(arms=dict(list(arms.items())[:2]), seeds=[0]))
    with pytest.raises(UserError, match="--trust has no effect: digits runs no code; leave it out"):
        plan(plain, trust=True)


def test_an_arm_has_the_same_images_at_every_fraction(write_study):
    study = write_study(
        arms={"a": LABELS, "b": LABELS | {"stage1": 2, "stage2": 0, "student_args.mlp_ratio": 2.0}},
        fractions=[0.3, 0.6],
        seeds=[4],
        settings={"data": {"train": "digits", "batch_size": 200}},
    )
    runs = planned(study)
    assert [run.name for run in runs] == [
        "a-0.3-seed4",
        "b-0.3-seed4",
        "a-0.6-seed4",
        "b-0.6-seed4",
    ]
    images = [(run.settings["data.train"], run.settings["train_images"]) for run in runs]
    assert images[0] == images[1] != images[2] == images[3]


def test_a_study_without_evaluation_images_compares_nothing(write_study, tmp_path):
    source = open_data("digits")[0]
    for index in range(40):
        place = tmp_path / "photos" / str(source.labels[index])
        place.mkdir(parents=True, exist_ok=True)
        source.image(index).save(place / f"{index}.png")
    study = write_study(
        settings={"data": {"train": "photos", "batch_size": 20, "img_size": 16}}, arms={"a": LABELS}
    )
    line = refused("sweep", study, "--data", tmp_path / "photos")
    assert "photos has no evaluation images; name some by --eval-data" in line


def test_settings_say_what_lies_there_and_not_where(write_study, toy_teacher):
    (run, *_) = planned(
        write_study(arms={"a": {"method": "deit-hard"}}), **{"teacher.name": str(toy_teacher)}
    )
    assert str(toy_teacher.parent) not in str(run.settings)
    assert run.settings["teacher.weights"] is None
    assert len(run.settings["teacher.name"]) == 16
    assert not {"seed", "out", "trackers", "data.workers"} & run.settings.keys()


def test_a_setting_that_a_record_does_not_know_had_its_default():
    wanted = settings_of(TrainConfig())
    older = {key: value for key, value in wanted.items() if key != "optim.clip_grad"}
    assert difference(older, wanted) is None
    changed = settings_of(
        dataclasses.replace(
            TrainConfig(), optim=dataclasses.replace(TrainConfig().optim, clip_grad=1.0)
        )
    )
    assert difference(older, changed) == ("optim.clip_grad", None, 1.0)
    assert difference({**wanted, "student_args.depth": 3}, wanted) == (
        "student_args.depth",
        3,
        None,
    )


def test_a_stage_that_a_rule_ends_is_compared_with_one_of_typed_length(write_study):
    arms = {
        "typed": {"stage1": 4, "stage2": 2},
        "auto": {"stage1": "auto", "switch.epochs": 6, "stage2": 2, "switch.fall": 0.1},
    }
    runs = planned(write_study(arms=arms, seeds=[0]))
    assert [(run.resolved.stage1, run.settings["epochs"]) for run in runs] == [(4, 6), ("auto", 6)]
