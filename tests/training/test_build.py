"""From a configuration to its parts: defaults that fit the data, and what is refused before."""

import json
import sys
import textwrap

import huggingface_hub
import pytest
import timm
import torch
from conftest import FAST, FAST_TEACHER, opened
from PIL import Image
from safetensors.torch import load_file
from timm.layers.drop import DropPath

from dearkd.config import load_config
from dearkd.data.settings import DataConfig
from dearkd.errors import UserError
from dearkd.models.create import create_model
from dearkd.models.teacher import Teacher
from dearkd.objectives import DearKD
from dearkd.run_folder.files import read_metadata, save_model
from dearkd.run_folder.processes import process_state
from dearkd.trained import open as pretrained
from dearkd.trained.imports import import_files
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import refuse_idle_trust, resolve
from dearkd.training import recipe
from dearkd.training.arithmetic import place_models, with_arithmetic
from dearkd.training.build import build
from dearkd.training.dry_run import describe, estimate
from dearkd.training.train import _takes_labels as takes_labels

CE = {"method": "ce", "student": "toy_student", "data__img_size": 16}
SIGNED = "pairs=[{block: 0, stage: 3, nonnegative: false}]"


def make_folder(root, classes=("cat", "dog"), count=8, size=16):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = Image.new("RGB", (size, size), (60 * number, 20 * index, 0))
            image.save(root / name / f"{index}.png")
    return str(root)


def parts(settings=(), **options):
    named = {key.replace("__", "."): value for key, value in options.items()}
    return build(load_config(None, list(settings), named))


def refusal(settings=(), **options):
    with pytest.raises((ValueError, OSError, ImportError)) as caught:
        parts(settings, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("size", "model"), [(40, "dearkd_resnet10_32"), (80, "resnet18"), (None, "dearkd_resnet10t_32")]
)
def test_the_small_cnn_fits_the_data(size, model, tmp_path):
    data = "digits" if size is None else make_folder(tmp_path, size=size, count=2)
    built = parts(method="ce", student="cnn", data__train=data)
    assert built.config.student == model
    assert any(model in note for note in built.choices)


@pytest.mark.parametrize("data", ["digits", "photos"])
def test_images_are_as_large_as_the_teachers_where_nothing_else_decides(data, tmp_path):
    """Bare photos of 80 px would be trained on at 224."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    known = {"arch": "dearkd_resnet10t_32", "num_classes": 10, "img_size": 24}
    known["class_names"] = list("0123456789")
    network = create_model("dearkd_resnet10t_32", "teacher", num_classes=10)
    save_model(folder / "model.safetensors", network, known)
    if data == "photos":
        data = make_folder(tmp_path / data, ("3", "7"), size=80)
    options = {"data__train": data, "teacher__name": str(folder)}
    built = parts(FAST_TEACHER, **options)
    assert built.config.data.img_size == 24
    assert built.config.student == "dearkd_mini_patch4_32"
    assert "image size 24, as the teacher" in built.choices
    assert parts(FAST_TEACHER, **options, data__img_size=32).config.data.img_size == 32


def test_that_there_is_nothing_to_evaluate_on_is_said_beforehand(tmp_path):
    folder = make_folder(tmp_path / "photos")
    assert any("--eval-data DIR" in note for note in parts(data__train=folder, **CE).choices)
    both = parts(data__train=folder, data__evaluation=folder, **CE)
    assert not any("evaluation" in note for note in both.choices)


def test_stochastic_depth_is_a_default_of_transformers_alone(tmp_path):
    data = make_folder(tmp_path)
    options = {"method": "ce", "data__train": data, "data__img_size": 96}
    assert parts(student="vgg11", **options).config.optim.drop_path == 0.0
    assert parts(student="vit_tiny_patch16_224", **options).config.optim.drop_path == 0.1
    assert "drop_path_rate" in refusal(["optim.drop_path=0.1"], student="vgg11", **options)


@pytest.mark.parametrize("rate", [0, 0.2])
def test_stochastic_depth_is_the_settings_where_a_model_has_its_own(rate, tmp_path):
    """timm's FasterNet-T2 drops up to 5 % of its paths unless it is told otherwise."""
    options = {"method": "ce", "data__train": make_folder(tmp_path), "data__img_size": 96}
    student = parts([f"optim.drop_path={rate}"], student="fasternet_t2", **options).student
    rates = [part.drop_prob for part in student.modules() if isinstance(part, DropPath)]
    assert max(rates, default=0) == pytest.approx(rate)


def test_the_cost_of_a_student_whose_last_map_is_one_cell_is_told():
    """In training its BatchNorm takes no single image."""
    built = parts([*FAST, "data.fraction=0.2"], method="ce", student="toy_cnn", data__img_size=8)
    state = process_state()
    built, _ = with_arithmetic(built, state.device)
    place_models(built, state.device)
    assert estimate(built, state).memory > 0


def test_the_default_batch_fits_a_small_set_and_the_users_own_is_kept(tmp_path):
    options = {**CE, "data__train": make_folder(tmp_path, classes=("a", "b", "c"), count=5)}
    built = parts(**options)
    assert built.config.data.batch_size == 14
    assert any("batch size 14" in note for note in built.choices)
    kept = parts(["data.keep_steps=true"], **options, data__fraction=0.4)
    assert (len(kept.train), kept.config.data.batch_size) == (6, 14)
    assert parts(["data.batch_size=400"], **options).config.data.batch_size == 400
    assert parts(["data.micro_batch=6"], **options).config.data.batch_size == 12
    assert parts(method="ce").config.data.batch_size == 32


@pytest.mark.parametrize(
    ("wanted", "images", "batch"),
    [
        (128, 45_000, 128),
        (128, 1300, 128),
        (128, 450, 44),
        (128, 60, 12),
        (1024, 450, 44),
        (32, 1438, 32),
        (32, 100, 14),
        (128, 30, 10),
        (128, 10, 10),
    ],
)
def test_few_images_are_cut_into_enough_steps_an_epoch(wanted, images, batch):
    chosen = recipe._batch_within(wanted, images, DataConfig())
    assert chosen == batch
    left_out = images - images // chosen * chosen
    assert chosen == wanted or left_out < images / 20


@pytest.mark.parametrize(("batch", "lr"), [(1024, 1e-3), (512, 5e-4), (128, 2.5e-4), (32, 1.25e-4)])
def test_small_batches_of_large_images_take_larger_steps_than_in_proportion(batch, lr, tmp_path):
    options = {**CE, "data__train": make_folder(tmp_path), "data__img_size": 96}
    assert parts([f"data.batch_size={batch}"], **options).config.optim.lr == pytest.approx(lr)
    assert parts([f"data.batch_size={batch}"], method="ce").config.optim.lr == 1e-3


def test_a_fraction_is_the_same_images_for_every_seed():
    rows = [
        parts(method="ce", seed=seed, data__fraction=0.1).train.rows.tolist() for seed in (0, 1)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("ce", "distill.hidden_weight=2"),
        ("deit-hard", "distill.hidden_weight=2"),
        ("ce", "distill.logits=soft"),
        ("deit-hard", "distill.target_scale=stage"),
        ("deit-soft", "distill.pairs=[{block: 1, stage: 1}]"),
        ("ce", "teacher.precision=fp32"),
        ("ce", "teacher.memory_format=contiguous"),
    ],
)
def test_a_setting_without_effect_is_refused(method, setting):
    line = refusal([setting], method=method)
    assert setting.partition("=")[0] in line
    assert f"no effect with {method}" in line


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (
            "dearkd",
            ["temperature=2"],
            "distill.temperature=2.0 has no effect with distill.log",
        ),
        ("deit-soft", ["token=class"], "would leave the distillation head of dearkd_mini"),
        (
            "deit-hard",
            ["logits=soft"],
            "not what method deit-hard stands for (hard); leave it out",
        ),
        ("deit-hard", ["logits=soft"], "or choose --method deit-soft"),
        ("deit-soft", ["logits=standardized"], "or choose --method deit"),
        (
            "deit",
            ["class_weight=0", "alpha=0.5"],
            "distill.alpha=0.5 has no effect with distill.",
        ),
        ("deit-soft", ["alpha=0"], "distill.logits=soft has no effect with distill.alpha=0"),
        ("deit-hard", ["alpha=0"], "leaves nothing to learn from the teacher"),
        (
            "dearkd",
            ["hidden_weight=0", "target_scale=stage"],
            "target_scale has no effect with",
        ),
        (
            "dearkd",
            ["pairs=[{block: 1, stage: 1}]", "pair_preset=last"],
            "distill.pair_preset=last has no effect beside distill.pairs",
        ),
        ("dearkd", ["aligner_relu=true", SIGNED], "aligner_relu=true can't reach the negative"),
        ("dearkd", ["alpha=1.5"], "distill.alpha must be at least 0 and at most 1, got 1.5"),
        ("dearkd", ["class_weight=-1"], "distill.class_weight must be at least 0"),
    ],
)
def test_settings_of_the_teacher_that_do_not_fit_are_refused(method, settings, words):
    assert words in refusal([f"distill.{setting}" for setting in settings], method=method)


@pytest.mark.parametrize(
    ("method", "student", "words"),
    [
        ("deit-hard", "deit_mini_distilled_patch4_32", "=0.5 would drop the distillation token of"),
        ("ce", "deit_tiny_distilled_patch16_224", "token of deit_tiny_distilled_patch16_224 like"),
        ("dearkd", "vit_tiny_patch16_224", "needs the whole grid of patches, of which student_arg"),
        ("deit-hard", "vit_tiny_patch16_224", None),
    ],
)
def test_patches_are_dropped_where_nothing_else_is_lost(method, student, words):
    options = {"method": method, "student": student, "data__img_size": 32}
    settings = ["student_args.patch_drop_rate=0.5"]
    if words is None:
        assert parts(settings, **options).student.patch_drop.prob == 0.5
    else:
        assert words in refusal(settings, **options)


SECOND = {"stage1": 0, "stage2": 2}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["distill.hidden_weight=3"], "distill.hidden_weight=3.0 has no effect with stage1=0"),
        (["distill.logits=hard"], "where the labels alone are learned; leave it out, or give"),
        (["teacher.precision=fp32"], "teacher.precision=fp32 has no effect with stage1=0, where"),
        (["teacher.name=nowhere"], "teacher.name=nowhere has no effect with stage1=0"),
        (
            ["data.labels=none", "distill.logits=soft"],
            "distill.logits=soft has no effect with stage1=0, where the teacher's hard labels",
        ),
        (["data.labels=none", "distill.hidden_weight=3"], "distill.hidden_weight=3.0 has no"),
    ],
)
def test_settings_of_a_stage_1_that_is_left_out_are_refused(settings, words):
    assert words in refusal(settings, **SECOND)


def test_a_stage_1_that_is_left_out_needs_no_teacher(tmp_path):
    built = parts(data__train=make_folder(tmp_path), **SECOND)
    assert [stage.name for stage in built.stages] == ["stage2"]
    assert built.teacher is None
    assert built.config.teacher.name is None
    bare = ["data.labels=none", "distill.logits=hard", "teacher.precision=fp32"]
    for settings in (bare, ["data.labels=none"]):
        built = parts(settings, **SECOND)
        assert [stage.teacher for stage in built.stages] == [built.teacher] != [None]
        assert (built.config.distill.logits, built.config.distill.pair_preset) == ("hard", None)
    filled = [
        f"distill.{key}={value}" for key, value in vars(built.config.distill).items() if value
    ]
    assert parts([*filled, "data.labels=none"], **SECOND).config == built.config


def test_labels_that_nobody_learns_are_not_smoothed():
    wanted = ["data.smoothing=0.2", "distill.class_weight=0"]
    line = "data.smoothing=0.2 has no effect where no labels are learned"
    assert line in refusal(wanted, method="deit-hard")
    assert line in refusal(wanted, method="dearkd", stage2=0)
    assert parts(wanted, method="dearkd").config.data.smoothing == 0.2  # stage 2 learns them
    left_over = {"stage1": "auto", "switch__epochs": 10, "stage2": 0}
    assert parts(wanted, **left_over).config.data.smoothing == 0.2


def test_a_stage_2_of_no_typed_epoch_is_there_where_a_rule_may_leave_it_some():
    built = parts(recipe="best", stage1="auto", switch__epochs=10, stage2=0)
    assert [(stage.name, stage.epochs) for stage in built.stages] == [("stage1", 10), ("stage2", 0)]
    assert any("features of three layers, two stages, mixed views" in n for n in built.choices)
    assert takes_labels(built)
    built = parts(recipe="best")
    assert [(stage.name, stage.epochs) for stage in built.stages] == [("stage1", 100)]
    assert any("features of three layers, one stage, mixed views" in n for n in built.choices)
    assert not takes_labels(built)
    assert not takes_labels(parts(["distill.class_weight=0"], method="deit-soft", stage2=1))


def test_what_the_method_left_open_is_written_down():
    def filled(method, *settings):
        given = [f"distill.{setting}" for setting in settings]
        return parts(given, method=method).config.distill

    hard, soft = filled("deit-hard"), filled("deit-soft")
    assert (hard.logits, hard.class_weight, hard.alpha) == ("hard", 0.5, 0.5)
    assert (soft.logits, soft.class_weight, soft.alpha) == ("soft", 0.9, 0.1)
    assert (hard.temperature, soft.temperature) == (None, 3.0)
    standard = filled("deit", "logits=standardized")
    assert (standard.class_weight, standard.alpha, standard.temperature) == (0.1, 0.9, 2.0)
    alone = filled("deit-soft", "class_weight=0")
    assert (alone.alpha, alone.temperature, alone.token) == (1.0, 4.0, "distillation")
    paper = filled("dearkd")
    assert (paper.pair_preset, paper.hidden_weight, paper.target_scale) == ("last", 1.0, "position")
    spread = filled("dearkd", "pair_preset=early-middle-late")
    assert (spread.hidden_weight, spread.aligner, spread.target_scale) == (2.5, "pointwise", "none")
    again = filled("dearkd", *(f"{k}={v}" for k, v in vars(spread).items() if v not in (None, [])))
    assert again == spread


def test_the_class_head_of_a_student_without_a_token_learns_and_it_is_said():
    built = parts(method="deit-soft", student="dearkd_resnet10t_32")
    assert built.config.distill.token == "class"
    assert any("the class head learns from the teacher" in note for note in built.choices)


def test_a_folder_of_an_older_version_means_what_it_did():
    old = (
        "distill={hidden_weight: 1.0, pairs: [], temperature: 3.0, alpha: 0.1, token: distillation}"
    )
    for method in ("dearkd", "deit-hard", "deit-soft"):
        assert parts([old], method=method).config.distill == parts(method=method).config.distill
    assert parts([old], method="ce").config.distill.alpha is None
    changed = parts([old.replace("3.0", "2.0")], method="deit-soft").config.distill
    assert (changed.temperature, changed.alpha) == (2.0, 0.1)


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("dearkd.training.checks.importlib.util.find_spec", lambda name: None)
    assert "wandb, which is not installed" in refusal(["trackers=[wandb]"], **CE)
    monkeypatch.setattr("dearkd.training.checks.torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in refusal(["compile=true", "trackers=[]"], **CE)


@pytest.mark.parametrize(("size", "near"), [(1, "4 or 8"), (3, "4 or 8"), (18, "16 or 20")])
def test_an_image_is_whole_patches(size, near):
    line = refusal(**{**CE, "data__img_size": size})
    assert f"image size {size} is not a multiple of the 4-px patch" in line
    assert near in line


def test_the_first_image_may_be_bad(tmp_path):
    data = make_folder(tmp_path)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    assert parts(method="ce", data__train=data).config.data.img_size == 32
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"no image")
    assert "none of the first 8 images can be read" in refusal(method="ce", data__train=data)


MODELS = """
    import torch
    from timm.models import generate_default_cfgs, register_model
    default_cfgs = generate_default_cfgs({
        name: dict(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
        for name in ("plain_net", "uncounted_net")
    })
    class Net(torch.nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.layer = torch.nn.Linear(3, num_classes)
        def forward(self, x):
            return self.layer(x.mean((2, 3)))
    @register_model
    def plain_net(pretrained=False, num_classes=10, **kwargs):
        net = Net(num_classes)
        net.num_classes = num_classes
        return net
    @register_model
    def uncounted_net(pretrained=False, num_classes=10, **kwargs):
        return Net(num_classes)
"""


def test_imported_files_replace_no_module_and_plain_modules_train(tmp_path):
    file = tmp_path / "torch.py"
    file.write_text(textwrap.dedent(MODELS))
    import_files([str(file)])
    assert sys.modules["torch"] is torch
    model = create_model("plain_net", "student", num_classes=4)
    assert model.pretrained_cfg["input_size"] == (3, 16, 16)
    with pytest.raises(ValueError, match=r"'uncounted_net' must .*num_classes.*got None"):
        create_model("uncounted_net", "student", num_classes=4)
    other = tmp_path / "notes.txt"
    other.write_text("x = 1")
    with pytest.raises(ValueError, match=r"notes\.txt is no Python file"):
        import_files([str(other)])


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "is_cached", lambda repo: False)


@pytest.mark.usefixtures("offline")
def test_init_by_name_is_refused_at_once_offline(monkeypatch):
    create = timm.create_model

    def without_hub(*names, pretrained=False, **kwargs):
        assert not pretrained, "the hub was asked"
        return create(*names, **kwargs)

    monkeypatch.setattr("dearkd.trained.open.timm.create_model", without_hub)
    line = refusal(method="ce", init="resnet18.a1_in1k", data__img_size=32)
    assert line.startswith("no weights for --init 'resnet18.a1_in1k' within reach")
    assert "pass the folder of a finished run" in line
    assert "unknown --init 'resnt18'; did you mean" in refusal(method="ce", init="resnt18")
    assert "--init runs/none does not exist" in refusal(method="ce", init="runs/none")


def test_a_run_folders_own_imports_are_run_with_trust_alone(tmp_path):
    file = tmp_path / "mine.py"
    own = MODELS.replace("plain_net", "folder_net").replace("uncounted_net", "other_net")
    file.write_text(textwrap.dedent(own))
    cfg = {"arch": "folder_net", "num_classes": 4, "class_names": None, "img_size": 16}
    weights = {"layer.weight": torch.ones(4, 3), "layer.bias": torch.zeros(4)}
    holder = torch.nn.Module()
    holder.layer = torch.nn.Linear(3, 4)
    holder.load_state_dict(weights)
    save_model(tmp_path / "model.safetensors", holder, cfg)
    (tmp_path / "config.yaml").write_text(f"imports: [{file}]\n")
    with pytest.raises(UserError, match=r"mine\.py.*pass --import FILE, or --trust"):
        opened(tmp_path)
    assert "folder_net" not in timm.list_models()
    found = resolve(str(tmp_path), "model", trust=True)
    assert found.used_trust
    trained = open_trained(found)
    assert trained.class_names is None
    assert torch.equal(trained.network(torch.ones(1, 3, 2, 2)), torch.full((1, 4), 3.0))
    with pytest.raises(UserError, match="--trust has no effect"):
        refuse_idle_trust(True, resolve("digits"))


@pytest.mark.parametrize("names", [("cat", "dog"), ("dog", "owl")])
def test_heads_are_new_where_the_class_names_differ(names, tmp_path):
    torch.manual_seed(7)
    source = timm.create_model("toy_student", num_classes=2)
    cfg = {"arch": "toy_student", "num_classes": 2, "class_names": list(names), "img_size": 16}
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "model.safetensors"
    save_model(file, source, cfg)
    data = make_folder(tmp_path / "data")
    student = parts(method="ce", init=str(file.parent), data__train=data).student.state_dict()
    same = names == ("cat", "dog")
    for key, value in load_file(file).items():
        assert torch.equal(student[key], value) == (same or not key.startswith("head")), key


def test_a_student_goes_on_at_the_size_that_it_was_trained_at(tmp_path):
    source = timm.create_model("toy_student", num_classes=2, img_size=24)
    cfg = {"arch": "toy_student", "num_classes": 2, "img_size": 24}
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "model.safetensors", source, cfg)
    given = {"method": "ce", "init": str(tmp_path / "run"), "data__img_size": None}
    given["data__train"] = make_folder(tmp_path / "data")
    built = parts([], **given)
    assert built.config.data.img_size == 24
    assert torch.equal(built.student.pos_embed, source.pos_embed)
    assert parts([], **given, student="toy_student").config.data.img_size == 16


def python_teacher(num_classes=10, **options):
    """A teacher without class names, as a caller from Python may have it."""
    network = create_model("toy_cnn", "teacher", num_classes=num_classes)
    half = (0.5, 0.5, 0.5)
    return Teacher(network, student_mean=half, student_std=half, img_size=16, **options)


def test_a_teacher_from_python_for_images_of_another_normalisation_is_refused():
    network = create_model("toy_cnn", "teacher", num_classes=10)
    teacher = Teacher(network, student_mean=(0.4,) * 3, student_std=(0.5,) * 3, img_size=16)
    config = load_config(None, FAST_TEACHER, {"student": "toy_student"})
    told = (
        r"the given teacher was made for images of mean \(0\.4, .* and student toy_student gets "
        r"them of mean \(0\.5, 0\.5, 0\.5\) .*; make it with student_mean=\(0\.5, "
    )
    with pytest.raises(UserError, match=told):
        build(config, teacher=teacher)


def test_names_of_a_synthetic_set_stand_at_the_classes_of_its_teacher(tmp_path):
    """Its folders are in natural order, the teacher's classes are not."""
    data = make_folder(tmp_path / "set", classes=("cat", "dog"))
    table = {"names": ["dog", "cat"], "indices": [0, 1], "total": 2}
    manifest = {"classes": table, "class_names": ["dog", "cat"], "images": []}
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
    options = load_config(None, FAST_TEACHER, {"data.train": data, "student": "toy_student"})
    built = build(options, teacher=python_teacher(2))
    assert built.class_map == (1, 0)
    assert built.class_names == ("dog", "cat")


def test_a_dry_run_counts_a_teacher_at_the_size_that_it_sees():
    network = create_model("toy_student", "teacher", num_classes=10)
    half = (0.5, 0.5, 0.5)
    teacher = Teacher(network, student_mean=half, student_std=half, img_size=24)
    settings = [*FAST, *FAST_TEACHER, "data.img_size=24", "data.fraction=0.2"]
    options = {"method": "deit-hard", "student": "toy_cnn"}
    built = build(load_config(None, settings, options), teacher=teacher)
    state, said = process_state(), []
    built, reasons = with_arithmetic(built, state.device)
    place_models(built, state.device)
    describe(built, reasons, state, lambda text, **_: said.append(text))
    assert teacher.resize == 16
    assert any("images/s in deit-hard" in str(line) for line in said)


@pytest.mark.parametrize("given", [{"method": "ce"}, {"stage1": 0}])
def test_a_teacher_from_python_that_takes_no_part_is_refused(given):
    config = load_config(None, [], {"student": "toy_student", **given})
    with pytest.raises(UserError, match="teacher has no effect with"):
        build(config, teacher=python_teacher())


def test_the_precision_of_a_teacher_from_python_is_kept(monkeypatch):
    monkeypatch.setattr("dearkd.training.arithmetic.precision_rule", lambda *_: ("bf16", "a rule"))
    for own, kept in (("fp32", "fp32"), ("auto", "bf16")):
        built = build(
            load_config(None, ["memory_format=contiguous"], {"student": "toy_student"}),
            teacher=python_teacher(precision=own),
        )
        built, _ = with_arithmetic(built, torch.device("cpu"))
        assert built.config.teacher.precision == kept


def test_fine_tuning_keeps_the_teacher_on(toy_teacher, tmp_path):
    data = make_folder(tmp_path / "data", classes=("3", "7"))
    source = timm.create_model("toy_student", num_classes=10)
    names = read_metadata(toy_teacher / "model.safetensors")["class_names"]
    cfg = {"arch": "toy_student", "num_classes": 10, "class_names": names, "img_size": 16}
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "model.safetensors", source, cfg)
    built = parts(
        [*FAST, *FAST_TEACHER],
        init=str(tmp_path / "run"),
        teacher__name=str(toy_teacher),
        data__train=data,
    )
    assert built.class_map == (3, 7)
    assert torch.equal(built.student.head.weight, source.head.weight)
    objective = built.stages[0].objective
    assert isinstance(objective, DearKD)
    terms = objective(torch.randn(2, 3, 16, 16), torch.tensor([3, 7]))
    terms["loss"].backward()
    assert objective.teacher is built.teacher
    assert built.student.head.weight.grad.abs().sum() > 0
