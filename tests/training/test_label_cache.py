"""``--cache-labels``: the same run with the teacher's answers read as with them computed."""

import hashlib
import io
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from commands import refused
from conftest import FAST, FAST_TEACHER, quiet_train
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from dearkd.config import load_config
from dearkd.data.augment import ArrayAugment
from dearkd.errors import UserError
from dearkd.models.teacher import Teacher
from dearkd.models.vit import DearKDVisionTransformer
from dearkd.run_folder.folder import RunFolder
from dearkd.training import train as launch
from dearkd.training.methods import METHODS
from dearkd.training.progress import RunProgress

SHORT = {"student": "toy_student", "stage1": 2, "stage2": 1, "data.fraction": 0.1}
MIXED = ["data.mixup=0.8", "data.cutmix=1.0", "data.repeats=3", "data.batch_size=36"]
MIXED += ["eval_every=9"]
VIEWS = 2 * 3 * 36  # in two epochs of three steps; 143 images
LOOK = {"input_size": (3, 16, 16), "crop_pct": 1.0, "interpolation": "bicubic"}
LOOK |= {"fixed_input_size": True, "classifier": ("head", "head_dist")}
PALE = {"mean": (0.4, 0.5, 0.6), "std": (0.3, 0.2, 0.25)}
default_cfgs = generate_default_cfgs({"pale_student": {**LOOK, **PALE}})


@register_model
def pale_student(pretrained=False, **kwargs):
    """The toy student, with a normalisation of its own."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 4}
    sizes["mhca_depth"] = 1
    return build_model_with_cfg(
        DearKDVisionTransformer, "pale_student", pretrained, **{**sizes, **kwargs}
    )


def run(out, teacher, cache=None, settings=(), said=None, **options):
    """Trains with the mixed views; returns the run's folder."""
    given = {**SHORT, "teacher.name": str(teacher), "out": str(out), **options}
    if cache is not None:
        given["cache_labels"] = str(cache)
    config = load_config(None, [*FAST, *FAST_TEACHER, *MIXED, *settings], given)
    launch.train(config, console=Console(file=said or io.StringIO(), width=500))
    return out


def checksum(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def answers(folder):
    """(read, computed) of a run."""
    labels = json.loads((folder / "summary.json").read_text())["teacher_labels"]
    return labels["read"], labels["computed"]


@pytest.fixture
def whole_calls(monkeypatch):
    """How often the teacher's own network gave logits, that is, ran to its end."""
    calls = []
    real = Teacher._computed

    def counted(self, images, wanted, known):
        calls.append(known is None)
        return real(self, images, wanted, known)

    monkeypatch.setattr(Teacher, "_computed", counted)
    return calls


@pytest.fixture(scope="module")
def plain(tmp_path_factory, toy_teacher):
    """A run that keeps no labels."""
    return run(tmp_path_factory.mktemp("plain") / "run", toy_teacher)


@pytest.fixture(scope="module")
def labels(tmp_path_factory, toy_teacher, plain):
    """A folder of labels, written by a run that ends with the bits of the plain one."""
    place = tmp_path_factory.mktemp("labels")
    writer = run(place / "run", toy_teacher, place / "labels")
    assert checksum(writer) == checksum(plain)
    assert answers(writer) == (0, VIEWS)
    return place / "labels"


def test_a_run_that_reads_its_labels_ends_with_the_same_bits(
    tmp_path, toy_teacher, plain, labels, whole_calls
):
    before = {file: file.stat().st_mtime_ns for file in labels.iterdir()}
    said = io.StringIO()
    reader = run(tmp_path / "run", toy_teacher, labels, said=said)
    assert checksum(reader) == checksum(plain)
    assert answers(reader) == (VIEWS, 0)
    assert sum(whole_calls) == 1  # the sample
    assert before == {file: file.stat().st_mtime_ns for file in labels.iterdir()}
    assert f"teacher's labels: all of {VIEWS} views known in {labels}" in said.getvalue()
    assert f"teacher's labels: {VIEWS} read, 0 computed" in said.getvalue()
    assert RunFolder(reader).sessions()[0]["teacher_labels_known"] == VIEWS
    assert RunFolder(reader).read_config().cache_labels == str(labels)


@pytest.mark.parametrize("method", ["deit-hard", "dearkd"])
def test_other_methods_and_students_read_them_and_get_the_same_bits(
    method, tmp_path, toy_teacher, labels
):
    settings = ["student_args.mhca_depth=1"] if method == "dearkd" else []
    there = {"method": method, "stage1": 1, "stage2": 1}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    run(ours, toy_teacher, labels, settings, **there)
    run(theirs, toy_teacher, None, settings, **there)
    assert checksum(ours) == checksum(theirs)
    epochs = 1 if method == "dearkd" else 2  # deit-hard has a teacher to the end
    assert answers(ours) == (epochs * VIEWS // 2, 0)


@pytest.mark.parametrize(
    "settings",
    [["data.batch_size=54"], ["data.micro_batch=12"], ["data.workers=2"]],
    ids=["batch", "micro", "workers"],
)
def test_batches_and_workers_do_not_matter(settings, tmp_path, toy_teacher, labels):
    reader = run(tmp_path / "run", toy_teacher, labels, settings, stage1=1, stage2=0)
    read, computed = answers(reader)
    assert (read, computed) == (VIEWS // 2, 0)


def test_a_run_killed_in_the_middle_goes_on_from_its_own_labels(
    tmp_path, toy_teacher, plain, monkeypatch
):
    steps = 0

    class Killed(BaseException):
        pass

    def step(self, *_):
        nonlocal steps
        steps += 1
        if steps == 4:
            raise Killed

    monkeypatch.setattr(RunProgress, "step", step)
    folder, cache = tmp_path / "run", tmp_path / "labels"
    with pytest.raises(Killed):
        run(folder, toy_teacher, cache, ["checkpoint_minutes=1e-9"])
    monkeypatch.undo()
    going_on = RunFolder(folder)
    quiet = Console(file=io.StringIO())
    launch.train(going_on.read_config(), console=quiet, folder=going_on, resume=True)
    assert checksum(folder) == checksum(plain)
    assert answers(folder) == (0, 3 * 36)  # three of six steps were saved
    again = run(tmp_path / "again", toy_teacher, cache)
    assert answers(again) == (VIEWS, 0)
    assert checksum(again) == checksum(plain)


def test_two_runs_write_into_one_folder_at_a_time(tmp_path, toy_teacher, plain):
    cache = tmp_path / "labels"
    runs = [tmp_path / "first", tmp_path / "second"]
    first_steps = []
    real = RunProgress.step

    def step(self, *given):
        if not first_steps:  # the other begins and ends while the first is in its first epoch
            first_steps.append(True)
            run(runs[1], toy_teacher, cache)
        real(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunProgress, "step", step)
        run(runs[0], toy_teacher, cache)
    assert [checksum(folder) for folder in runs] == [checksum(plain)] * 2
    files = sorted(file.name.split("-")[1] for file in cache.glob("epoch-*"))
    assert files == ["00000", "00000", "00001"]  # the first found the second epoch done


SOFT = {"method": "deit-soft", "stage1": 1, "stage2": 0}


def test_soft_labels_are_read_by_every_method(tmp_path, toy_teacher, plain):
    cache = tmp_path / "labels"
    written = run(tmp_path / "written", toy_teacher, cache, **SOFT)
    read = run(tmp_path / "read", toy_teacher, cache, **SOFT)
    assert checksum(read) == checksum(written)
    assert answers(read) == (VIEWS // 2, 0)
    without = run(tmp_path / "without", toy_teacher, **SOFT)
    ours, theirs = (RunFolder(folder).read_metrics()[-1] for folder in (read, without))
    for name in ("loss", "class", "distillation"):
        assert ours[name] == pytest.approx(theirs[name], rel=2e-4), name
    hard = run(tmp_path / "hard", toy_teacher, cache)
    assert checksum(hard) == checksum(plain)
    assert answers(hard) == (VIEWS // 2, VIEWS // 2)  # its second epoch is new


def test_a_student_of_another_normalisation_shares_them(tmp_path, toy_teacher, labels):
    given = {"student": "pale_student", "stage1": 1, "stage2": 0}
    reader = run(tmp_path / "run", toy_teacher, labels, **given)
    assert answers(reader) == (VIEWS // 2, 0)
    assert checksum(reader) == checksum(run(tmp_path / "without", toy_teacher, **given))


def test_labels_alone_do_not_do_for_soft_distillation(tmp_path, toy_teacher, labels):
    with pytest.raises(UserError, match="labels alone, and deit-soft learns from its logits; choo"):
        run(tmp_path / "run", toy_teacher, labels, **SOFT)


@pytest.fixture(scope="module")
def other_teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "run"
    options = {"method": "ce", "student": "toy_cnn", "stage1": 1, "stage2": 0, "seed": 5}
    quiet_train({**options, "out": str(folder)})
    return folder


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("seed=1", "seed is 0 there and 1 here"),
        ("data.mixup=0.5", "data.mixup is 0.8 there and 0.5 here"),
        ("data.repeats=1", "data.repeats is 3 there and 1 here"),
        ("data.fraction=0.5", "number of images is 143 there and 719 here"),
        ("data.augment=none", "data.augment is digits there and none here"),
        ("teacher.precision=bf16", "teacher.precision is fp32 there and bf16 here"),
        ("teacher", "teacher's weights is "),
    ],
)
def test_labels_of_something_else_are_refused_before_anything_is_trained(
    setting, named, tmp_path, toy_teacher, other_teacher, labels, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = [f"{key}={value}" for key, value in SHORT.items()]
    changed = [] if setting == "teacher" else [setting]
    options = [*FAST, *FAST_TEACHER, *MIXED, *given, *changed]
    name = other_teacher if setting == "teacher" else toy_teacher
    sets = [part for option in options for part in ("--set", option)]
    line = refused("train", "--cache-labels", labels, "--teacher", name, *sets)
    assert f"the labels in {labels} are of another run: {named}" in line
    assert line.endswith("choose another folder for --cache-labels")
    assert not (tmp_path / "runs").exists()


def test_a_cache_without_effect_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "has no effect with ce, which has no teacher" in refused(
        "train", "--method", "ce", "--cache-labels", "labels"
    )
    assert "has no effect with stage1=0" in refused(
        "train", "--stage1", "0", "--cache-labels", "labels"
    )
    assert "must name a folder" in refused("train", "--set", "cache_labels=''")
    assert not (tmp_path / "labels").exists()


OWN = """
    from torch import nn
    from dearkd.training.methods import METHODS, Method

    class {name}(nn.Module):
        def __init__(self, student, teacher):
            super().__init__()
            self.student, self.teacher = student, teacher
            student.set_distilled_training(True)

        def forward(self, images, targets{views}):
            wanted = self.teacher(images{hand_on}).logits.softmax(-1)
            return {{"loss": nn.functional.cross_entropy(self.student(images)[0], wanted)}}

    METHODS["{name}"] = Method({name})
"""


def test_a_method_of_ones_own_hands_its_views_on(tmp_path, toy_teacher, monkeypatch):
    monkeypatch.setattr("dearkd.training.methods.METHODS", METHODS)
    with pytest.MonkeyPatch.context() as patch:
        for name, views, hand_on in (
            ("deaf", "", ""),
            ("hears", ", views=None", ", views=views"),
        ):
            patch.setitem(METHODS, name, METHODS["ce"])  # so that it is taken out at the end
            file = tmp_path / f"{name}.py"
            file.write_text(textwrap.dedent(OWN).format(name=name, views=views, hand_on=hand_on))
            given = {"method": name, "imports": [str(file)], "stage1": 1, "stage2": 0}
            if name == "deaf":
                with pytest.raises(UserError, match="no effect with deaf, whose forward takes no"):
                    run(tmp_path / name, toy_teacher, tmp_path / "labels", **given)
                continue
            run(tmp_path / name, toy_teacher, tmp_path / "labels", **given)
            assert answers(tmp_path / name) == (0, VIEWS // 2)
            manifest = json.loads((tmp_path / "labels" / "labels.json").read_text())
            assert manifest["answers"] == "logits"  # what it learns from is not known


def dry_run(cache, teacher, **options):
    said = io.StringIO()
    given = {**SHORT, "teacher.name": str(teacher), "cache_labels": str(cache), **options}
    config = load_config(None, [*FAST, *FAST_TEACHER, *MIXED], given)
    launch.train(config, console=Console(file=said, width=500), dry_run=True)
    return said.getvalue()


def test_a_dry_run_says_what_is_known_and_what_all_of_it_takes(tmp_path, toy_teacher, labels):
    cache = tmp_path / "labels"
    said = dry_run(cache, toy_teacher)
    assert f"none of {VIEWS} views known in {cache} (0.3 KiB for 2 epochs)" in said
    assert not cache.exists()
    before = {file: file.stat().st_mtime_ns for file in labels.iterdir()}
    assert f"all of {VIEWS} views known" in dry_run(labels, toy_teacher)
    assert f"{VIEWS} of 432 views known" in dry_run(labels, toy_teacher, stage1=4)
    assert before == {file: file.stat().st_mtime_ns for file in labels.iterdir()}


def test_a_dry_run_leaves_what_a_killed_run_left(tmp_path, toy_teacher, labels):
    cache = copied(labels, tmp_path)
    left = cache / ".epoch-00000-1.safetensors.tmp99"
    left.touch()
    os.utime(left, (0, 0))
    dry_run(cache, toy_teacher)
    assert left.exists()
    run(tmp_path / "run", toy_teacher, cache, stage1=1, stage2=0)
    assert not left.exists()


def test_labels_that_are_not_the_teachers_are_found_out(tmp_path, toy_teacher, labels):
    cache = copied(labels, tmp_path)
    for file in cache.glob("epoch-*"):
        content = load_file(file)
        content["answers"] = (content["answers"] + 1) % 10
        save_file(content, file, metadata={"dearkd": metadata_of(cache)})
    with pytest.raises(UserError, match="are not this teacher's: of a sample of 32 views 32 diff"):
        run(tmp_path / "run", toy_teacher, cache)


def test_views_that_are_drawn_otherwise_are_found_out(tmp_path, toy_teacher, labels, monkeypatch):
    """As by another version of a package."""
    real = ArrayAugment.__call__
    monkeypatch.setattr(
        ArrayAugment, "__call__", lambda self, prepared, seeds: real(self, prepared, seeds + 1)
    )
    with pytest.raises(UserError, match=r"are of other views: view \d+ of epoch 0 looks otherwise"):
        run(tmp_path / "run", toy_teacher, labels)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format": None}, "format is missing"),
        ({"of": None}, "of is missing"),
        ({"answers": "words"}, "answers is 'words'"),
        ({"pictures": [["a"]]}, "pictures[0][0] is 'a'"),
    ],
)
def test_a_spoiled_manifest_is_named(tmp_path, toy_teacher, labels, change, fault):
    cache = copied(labels, tmp_path)
    content = json.loads((cache / "labels.json").read_text()) | change
    kept = {name: value for name, value in content.items() if value is not None}
    (cache / "labels.json").write_text(json.dumps(kept))
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", toy_teacher, cache)
    assert f"{cache} has a damaged labels.json ({fault}); delete the folder" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_other_versions_that_draw_the_same_views_are_a_note(tmp_path, toy_teacher, labels):
    cache = copied(labels, tmp_path)
    manifest = json.loads((cache / "labels.json").read_text())
    manifest["versions"]["timm"] = "0.9.1"
    (cache / "labels.json").write_text(json.dumps(manifest))
    said = io.StringIO()
    reader = run(tmp_path / "run", toy_teacher, cache, said=said, stage1=1, stage2=0)
    assert f"note: the labels in {cache} were made with timm 0.9.1 (here" in said.getvalue()
    assert answers(reader) == (VIEWS // 2, 0)


def test_views_of_substitutes_are_asked_anew(tmp_path, toy_teacher):
    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = data / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    broken = data / "3" / "13.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:20] + bytes(len(whole) - 20))
    given = {"data.train": str(data), "data.fraction": 1.0, "stage1": 1, "stage2": 0}
    settings = ["data.batch_size=8", "data.repeats=1"]
    cache = tmp_path / "labels"
    first = run(tmp_path / "first", toy_teacher, cache, settings, **given)
    second = run(tmp_path / "second", toy_teacher, cache, settings, **given)
    assert answers(first) == (0, 40)
    assert answers(second) == (32, 8)  # one batch has the image
    assert checksum(first) == checksum(second)
    broken.write_bytes(whole)  # repaired: its view is unlike the substitute that was shown
    repaired = run(tmp_path / "repaired", toy_teacher, cache, settings, **given)
    without = run(tmp_path / "without", toy_teacher, None, settings, **given)
    assert answers(repaired) == (32, 8)
    assert checksum(repaired) == checksum(without)
    assert answers(run(tmp_path / "last", toy_teacher, cache, settings, **given)) == (40, 0)


def test_the_teacher_is_let_go_with_its_stage_though_it_has_a_memory(
    tmp_path, toy_teacher, labels, monkeypatch
):
    import weakref

    alive, teacher = [], []
    real = launch.build

    def building(config, **known):
        parts = real(config, **known)
        teacher.append(weakref.ref(parts.teacher))
        return parts

    def begin(self, position, total_epochs, steps):
        alive.append((position.stage, teacher[0]() is not None))

    monkeypatch.setattr(launch, "build", building)
    monkeypatch.setattr(RunProgress, "begin", begin)
    run(tmp_path / "run", toy_teacher, labels)
    assert alive == [("stage1", True), ("stage1", True), ("stage2", False)]


@pytest.mark.slow
def test_two_processes_and_one_read_each_others_labels(tmp_path):
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "labels"
    line = ["-m", "dearkd", "train", "--stage1", "1", "--stage2", "0", "--fraction", "0.1"]
    line += ["--cache-labels", str(cache), "--set", "trackers=[]", "--set", "data.batch_size=24"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
    for out, before in ((two, torchrun), (one, [])):
        command = [sys.executable, *before, *line, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    assert len(list(cache.glob("epoch-00000-*"))) == 2
    assert answers(two) == (0, 120)
    assert answers(one) == (120, 0)


def copied(labels, tmp_path):
    cache = tmp_path / "labels"
    cache.mkdir()
    for file in labels.iterdir():
        (cache / file.name).write_bytes(file.read_bytes())
    return cache


def metadata_of(cache):
    return json.dumps({"key": json.loads((cache / "labels.json").read_text())["key"]})
