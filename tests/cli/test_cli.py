"""The command line: every verb runs, and every mistake gets one line and exit code 2."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import torch
from commands import invoke, refused
from conftest import FAST, FAST_TEACHER, opened, quiet_train
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo

import dearkd
from dearkd.cli.main import main
from dearkd.run_folder.folder import LOCK, RunFolder
from dearkd.trained.resolve import EMBEDDED_WEIGHTS

SET = [part for setting in FAST for part in ("--set", setting)]
TEACHER_SET = [part for setting in FAST_TEACHER for part in ("--set", setting)]
TOY = ["--student", "toy_student", "--stage1", "1", "--stage2", "1", *SET, *TEACHER_SET]
TOY += ["--fraction", "0.2"]  # one step an epoch
TOKEN = "distill.token=distillation"


def make_folder(root, classes, count=4, size=16):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (size, size), (60 * number, 20 * index, 0)).save(
                root / name / f"{index}.png"
            )
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_teacher):
    folder = tmp_path_factory.mktemp("cli") / "run"
    result = invoke("train", *TOY, "--teacher", toy_teacher, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


def test_version_and_help_teach():
    assert dearkd.__version__ in invoke("--version").output
    for verb in ("train", "teacher", "eval"):
        result = invoke(verb, "--help")
        assert result.exit_code == 0
        assert "Example" in result.output


def test_train_shows_progress_and_says_its_defaults(tmp_path):
    result = invoke("train", *TOY, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "the embedded digits CNN" in result.output
    assert "stage1 epoch 1/2" in result.output
    assert "stage2 epoch 2/2" in result.output
    assert "top-1" in result.output


def test_teacher_verb_makes_a_teacher(tmp_path):
    out = tmp_path / "t"
    line = ["teacher", "toy_cnn", "--data", "digits", "--fraction", "0.2", "--epochs", "1"]
    result = invoke(*line, "--out", out, *SET)
    assert result.exit_code == 0, result.output
    result = invoke("train", *TOY, "--teacher", out, "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output


def test_teacher_verb_takes_a_file_and_options_go_before_it(tmp_path):
    file = tmp_path / "teacher.yaml"
    sizes = "stage1: 2\nstage2: 1\ndata: {train: digits, fraction: 0.2}\n"
    file.write_text(f"method: ce\nstudent: toy_cnn\n{sizes}")
    for name, extra, epochs in (("file", (), [2, 1]), ("typed", ("--epochs", "1"), [1, 0])):
        out = tmp_path / name
        result = invoke("teacher", "--config", file, *extra, "--out", out, *SET)
        assert result.exit_code == 0, result.output
        config = RunFolder(out).read_config()
        assert [config.stage1, config.stage2] == epochs
        assert config.student == "toy_cnn"


def test_dry_run_trains_nothing(tmp_path):
    out = tmp_path / "run"
    result = invoke("train", "--dry-run", "--student", "toy_student", "--out", out)
    assert result.exit_code == 0, result.output
    for word in ("parameters", "GMACs", "steps", "GiB", "hidden_weight"):
        assert word in result.output
    assert "compiling" not in result.output
    ce = ["--method", "ce", "--set", "compile=true"]
    result = invoke("train", "--dry-run", "--student", "toy_student", "--out", out, *ce)
    assert "; compiling, as the run will, is not in it)" in " ".join(result.output.split())
    assert not out.exists()


def test_eval_reads_every_head_and_agrees_with_the_summary(run):
    result = invoke("eval", run, "--json")
    assert result.exit_code == 0, result.output
    heads = json.loads(result.output)
    summary = json.loads((run / "summary.json").read_text())
    assert heads.pop("images") == {"count": summary["eval_images"]}
    assert heads == summary["heads"]
    table = invoke("eval", run, "--data", "digits").output
    for name in ("class head", "mean of logits (the model's answer)", "sum of softmax"):
        assert name in table


def test_eval_of_raw_weights_differs_from_averaged_ones(tmp_path):
    out = tmp_path / "run"
    quiet_train(
        {"method": "ce", "student": "toy_student", "stage1": 2, "stage2": 0, "out": str(out)},
        ["optim.ema_decay=0.9", "optim.lr=3e-3"],
    )
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    saved = torch.load(RunFolder(out).last_file, weights_only=True)
    network = opened(out).network
    answers = {}
    for which, state in (("final", saved["ema"]), ("raw", student_of(saved["objective"]))):
        network.load_state_dict(state)
        with torch.no_grad():
            answers[which] = network(images)
            assert torch.equal(opened(out, which=which).network(images), answers[which])
    assert not torch.equal(answers["final"], answers["raw"])
    judged = {
        which: json.loads(invoke("eval", out, "--which", which, "--json").output)
        for which in ("final", "raw")
    }
    summary = json.loads((out / "summary.json").read_text())
    assert judged["final"]["logits"]["top1"] == summary["top1"]
    assert judged["raw"] != judged["final"]


def student_of(objective):
    return {k.removeprefix("student."): v for k, v in objective.items() if k.startswith("student.")}


def test_eval_of_a_timm_model_with_local_weights_matches_classes_by_name(tmp_path):
    """A network that always answers tench is right about that folder alone, wherever it sorts."""
    import timm

    data = make_folder(tmp_path / "val", ["n02102040", "n01440764"], size=64)
    model = timm.create_model("test_resnet", num_classes=1000)
    names = ImageNetInfo().label_names()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.zero_()
        model.fc.bias[names.index("n01440764")] = 9.0
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    result = invoke(
        "eval", "test_resnet", "--weights", tmp_path / "w.safetensors", "--data", data, "--json"
    )
    assert result.exit_code == 0, result.output
    judged = json.loads(result.output)
    assert judged["images"] == {"count": 8}
    assert judged["logits"]["top1"] == 50.0


def test_a_subset_of_the_teachers_classes_keeps_its_indices(tmp_path, toy_teacher):
    data = make_folder(tmp_path / "data", ["3", "7"], count=8)
    out = tmp_path / "run"
    result = invoke(
        *("train", "--student", "toy_student", "--teacher", toy_teacher, "--data", data),
        *("--stage1", "1", "--stage2", "0", "--out", out, *SET, *TEACHER_SET),
        *("--img-size", "16", "--set", "data.batch_size=8"),
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["top1"] is None
    assert "no evaluation data" in result.output
    judged = invoke("eval", out, "--data", data, "--json")
    assert json.loads(judged.output)["images"] == {"count": 16}
    metadata = dearkd.run_folder.files.read_metadata(out / "model.safetensors")
    assert metadata["num_classes"] == 10
    assert metadata["class_names"][7] == "7"


def test_an_imported_file_brings_its_own_models(tmp_path):
    file = tmp_path / "my_models.py"
    file.write_text(
        "from timm.models import generate_default_cfgs, register_model\n"
        "from conftest import toy_cnn\n"
        "default_cfgs = generate_default_cfgs({'my_cnn': dict(input_size=(3, 16, 16),"
        " mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, interpolation='bicubic')})\n"
        "@register_model\n"
        "def my_cnn(pretrained=False, **kwargs):\n"
        "    return toy_cnn(pretrained, **kwargs)\n"
    )
    out = tmp_path / "run"
    line = ["teacher", "my_cnn", "--import", file, "--fraction", "0.2", "--epochs", "1"]
    result = invoke(*line, "--out", out, *SET)
    assert result.exit_code == 0, result.output
    assert "does not exist" in refused("train", "--import", tmp_path / "none.py")
    file.write_text("1 / 0\n")
    assert "ZeroDivisionError" in refused("train", "--import", file)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--student", "dearkd_tiny_patch16_24"], ["unknown student", "dearkd_tiny_patch16_224"]),
        (["--student", "nosuch"], ["unknown student 'nosuch'", "dearkd_tiny_patch16_224"]),
        (["--student", "dearkd_tiny"], ["did you mean 'dearkd_tiny_"]),
        (["--teacher", "resnet_18"], ["unknown teacher", "resnet18"]),
        (["--method", "diet"], ["unknown method 'diet'", "did you mean 'deit'"]),
        (["--stage1", "0", "--stage2", "0"], ["stage1 and stage2 are both 0"]),
        (["--stage1", "-3"], ["stage1", "at least 0", "-3"]),
        (["--fraction", "0"], ["data.fraction", "above 0"]),
        (["--set", "optim.learning_rate=1"], ["unknown config key 'optim.learning_rate'"]),
        (["--set", "optim.lr=-1"], ["optim.lr", "above 0"]),
        (["--data", "nowhere/at/all"], ["nowhere/at/all", "does not exist"]),
        (["nothing.yaml"], ["nothing.yaml does not exist"]),
        (
            ["--method", "ce", "--teacher", "resnet18"],
            ["no effect with ce, which has no teacher", "resnet18"],
        ),
        (
            ["--student", "resnet18", "--method", "deit-soft", "--set", TOKEN],
            ["has no distillation token", "resnet18"],
        ),
        (["--student", "resnet18"], ["needs a vision transformer with blocks", "resnet18"]),
        (["--set", "distill.logits=loud"], ["distill.logits", "loud"]),
        (["--method", "deit-hard", "--set", "distill.logits=soft"], ["--method deit-soft"]),
        (["--set", "distill.temperature=2"], ["temperature=2.0", "no effect", "logits=hard"]),
        (["--teacher-weights", "w.pth"], ["w.pth", "--teacher"]),
        (["--set", "data.batch_size=5000"], ["5000", "1438"]),
        (["--set", "data.batch_size=33"], ["33", "multiple of 2"]),
        (["--set", "distill.pairs=[{block: 99, stage: 1}]"], ["block", "99", "0 to"]),
        (["--set", "distill.pairs=[{block: 1, stage: 9}]"], ["stage", "9", "0 to"]),
        (["--set", "data.keep_steps=true"], ["keep_steps", "no effect"]),
    ],
)
def test_a_mistake_gets_one_line(args, words, tmp_path):
    line = refused("train", *args, "--out", tmp_path / "run")
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()


def test_data_mistakes_get_one_line(tmp_path, toy_teacher):
    out = ("--out", tmp_path / "run", "--method", "ce")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("train", "--data", tmp_path / "empty", *out)
    root = tmp_path / "odd"
    make_folder(root / "train", ["cat", "dog"])
    make_folder(root / "val", ["cat", "owl"])
    assert "owl" in refused("train", "--data", root, *out)
    three = make_folder(tmp_path / "three", ["cat", "dog", "owl"])
    line = refused("train", "--data", three, "--teacher", toy_teacher, "--out", tmp_path / "run")
    assert "cat" in line
    assert "10 (0, 1, 2, 3, ...): cat, dog, owl; rename them" in line
    assert "teacher" in refused("train", "--data", three, "--out", tmp_path / "run")


def test_a_folder_of_images_where_something_else_is_wanted(tmp_path):
    photos, out = make_folder(tmp_path / "photos", ["cat", "dog"]), ("--out", tmp_path / "run")
    assert f"is a folder, not a YAML file; images: --data {photos}" in refused("train", photos)
    line = refused("train", "--data", photos, "--teacher", photos, *out)
    assert "it has images, which --data takes (a teacher is a run folder or a timm name)" in line
    assert f"unknown model '{photos}'; see timm.list_models()" in refused("teacher", photos)
    assert "unknown model 'resnte18'; did you mean 'resnet" in refused("teacher", "resnte18")


def test_teacher_weight_mistakes_get_one_line(tmp_path):
    out = ("--out", tmp_path / "run")
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, other)
    line = refused("train", "--teacher", "toy_cnn", "--teacher-weights", other, *out)
    assert "other.pth" in line

    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'boom')!r}, 'w')",))

    bomb = tmp_path / "bomb.pth"
    bomb.write_bytes(pickle.dumps(Bomb()))
    line = refused("train", "--teacher", "toy_cnn", "--teacher-weights", bomb, *out)
    assert "bomb.pth" in line
    assert not (tmp_path / "boom").exists()


def test_folder_mistakes_get_one_line(run, tmp_path):
    assert "already holds a run" in refused("train", *TOY, "--out", run)
    none = refused("train", "--resume", "--out", tmp_path / "none")
    assert f"nothing to resume in {tmp_path}/none: it does not exist" in none
    assert "it has no config.yaml" in refused("train", "--resume", "--out", tmp_path)
    assert "differ from" in refused("train", "--resume", "--out", run, "--stage1", "9")
    assert "differ from" in refused("train", "--resume", "--out", run, "--stage1", "-9")
    assert "does not exist" in refused("eval", "runs/nope", "--data", "digits")
    assert "hf-hub:me/model" in refused("eval", "hf-hub:me/model")
    assert "--data must name the images" in refused("eval", "hf-hub:me/model")
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in refused("train", *TOY, "--out", file)
    assert "not a directory" in refused("train", *TOY, "--out", file / "below").lower()
    assert "no model.safetensors" in refused("eval", tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --stage1 abc", ["--stage1", "dearkd train --help"]),
        ("trian", ["trian"]),
        ("eval", ["'target'", "dearkd eval --help"]),
    ],
)
def test_a_mistyped_command_gets_one_line(line, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dearkd", *line.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_no_verb_at_all_shows_the_help_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dearkd"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert "Usage: dearkd" in shown.out
    assert shown.err == ""


def test_a_folder_in_use_is_refused(run):
    """Two whole commands in one folder: `tests/faults/test_runs_side_by_side.py`."""
    code = (
        "from dearkd.run_folder.lock import held; from pathlib import Path\n"
        f"with held(Path({str(run)!r}), {LOCK!r}): pass"
    )
    words = [sys.executable, "-c", code]
    with RunFolder(run).locked(resume=True):
        other = subprocess.run(words, capture_output=True, text=True)
    assert "is in use by another running process" in other.stderr
    assert subprocess.run(words, check=False).returncode == 0  # it is let go


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_a_truncated_image_is_skipped_or_refused_by_name(policy, tmp_path, caplog):
    data = make_folder(tmp_path / "data", ["cat", "dog"], count=8)
    broken = data / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    args = ["train", "--method", "ce", "--student", "toy_student", "--data", data, *SET]
    args += ["--stage1", "1", "--stage2", "0", "--img-size", "16", "--out", tmp_path / "run"]
    args += ["--set", "data.batch_size=8", "--on-bad-image", policy]
    if policy == "fail":
        assert str(broken) in refused(*args)
        assert not (tmp_path / "run").exists()  # nothing was trained
        assert str(broken) in refused(*args)  # so the place is not taken
    else:
        result = invoke(*args)
        assert result.exit_code == 0, result.output
        assert str(broken) in caplog.text


@pytest.mark.parametrize("verb", ["train", "synthesize"])
def test_resume_with_a_folder_in_the_place_of_the_configuration_names_the_option(tmp_path, verb):
    line = refused(verb, tmp_path, "--resume")
    assert line.endswith(f"; the folder to resume is named by --out {tmp_path}")
    assert refused(verb, "x.yaml", "--resume").endswith("; leave x.yaml out")
    assert f"a run to resume: --resume --out {tmp_path}" in refused("distill", tmp_path, "--resume")


def test_resume_of_a_finished_run_says_so(run):
    result = invoke("train", "--resume", "--out", run)
    assert result.exit_code == 0, result.output
    assert f"{run} is finished; there is nothing left to do" in result.output


def test_kill_9_and_resume_through_the_installed_command(tmp_path):
    command = Path(sys.executable).parent / "dearkd"
    # A real student, small enough: the toy ones live in this test process.
    args = ["train", *SET, *TEACHER_SET, "--student", "dearkd_micro_patch4_32", "--img-size", "16"]
    args += ["--teacher", EMBEDDED_WEIGHTS, "--fraction", "0.1", "--stage1", "1", "--stage2", "1"]
    args += ["--set", "data.batch_size=16", "--set", "checkpoint_minutes=1e-9"]
    args += ["--set", "student_args.depth=2", "--set", "student_args.mhca_depth=1"]

    killed = forked.start([*args, "--out", tmp_path / "killed"], tmp_path / "log")
    checkpoint = tmp_path / "killed" / "checkpoint" / "last.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert forked.kill(killed)
    assert not (tmp_path / "killed" / "summary.json").exists()
    line = [command, "train", "--resume", "--out", tmp_path / "killed"]
    with (tmp_path / "log").open("w") as log:
        resumed = subprocess.Popen(line, stdout=log, stderr=log)
    whole = invoke(*args, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    assert resumed.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("killed", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
