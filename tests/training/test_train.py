"""What is chosen for a run stays with it; a run is judged as it judged itself."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import opened, quiet_train
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from dearkd.cli.app import app
from dearkd.data.augment import eval_augment
from dearkd.data.datasets import open_data
from dearkd.judging import eval as judge
from dearkd.judging import evaluate as evaluating
from dearkd.judging.eval import evaluate_target
from dearkd.models import cost
from dearkd.models.precision import precision_context
from dearkd.run_folder.folder import RunFolder
from dearkd.training import train as launch

QUIET = Console(file=io.StringIO())
CHANNELS_LAST = torch.channels_last


def judged(target, **options):
    return evaluate_target(str(target), console=QUIET, **options)


def test_measured_arithmetic_is_stored_and_not_measured_again(tmp_path, monkeypatch):
    def channels_last_wins(call, device):
        times.append(None)
        return 1.0 if len(times) % 2 else 0.5

    times: list[None] = []
    monkeypatch.setattr(cost, "seconds_per_call", channels_last_wins)
    options = {"method": "deit-hard", "student": "toy_student", "stage1": 1, "stage2": 0}
    folder = RunFolder(tmp_path / "run")
    auto = ["teacher.memory_format=fastest", "teacher.precision=fp32", "memory_format=auto"]
    quiet_train({**options, "out": str(folder.path)}, auto)
    assert len(times) == 2
    stored = folder.read_config()
    assert stored.teacher.memory_format == "channels_last"
    assert stored.memory_format == "contiguous"  # a ViT's

    seen = []
    folder.summary_file.unlink()
    monkeypatch.setattr(launch, "_run", lambda parts, *rest: seen.append(parts.stages))
    launch.train(stored, console=QUIET, folder=folder, resume=True)
    assert len(times) == 2
    teacher = seen[0][0].objective.teacher
    assert teacher.pixels(torch.rand(2, 3, 16, 16)).is_contiguous(memory_format=CHANNELS_LAST)


def test_tensorboard_gets_every_epoch(tmp_path):
    options = {"method": "ce", "student": "toy_cnn", "stage1": 2, "stage2": 0}
    quiet_train({**options, "out": str(tmp_path / "run")}, ["trackers=[tensorboard]"])
    (events,) = (tmp_path / "run" / "logs" / "dearkd").glob("events.out.tfevents*")
    log = EventAccumulator(str(events.parent)).Reload()
    metrics = RunFolder(tmp_path / "run").read_metrics()
    for name in ("loss", "top1"):
        logged = [event.value for event in log.Scalars(name)]
        assert logged == pytest.approx([line[name] for line in metrics])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_judged_in_its_own_precision(toy_teacher, tmp_path, precision, monkeypatch):
    asked = []

    def spy(device, chosen):
        asked.append(chosen)
        return precision_context(device, chosen)

    run = RunFolder(tmp_path)
    run.model_file.write_bytes((toy_teacher / "model.safetensors").read_bytes())
    text = (toy_teacher / "config.yaml").read_text()
    run.config_file.write_text(text.replace("precision: fp32", f"precision: {precision}"))
    monkeypatch.setattr(evaluating, "precision_context", spy)
    judged(tmp_path)
    assert set(asked) == {precision}


def test_the_environment_chooses_no_precision_compiler_or_accumulation():
    code = """
import torch
from dearkd.run_folder.processes import process_accelerator
accelerator, layer = process_accelerator(), torch.nn.Linear(1, 1, bias=False)
prepared = accelerator.prepare(layer)
accelerator.backward(prepared(torch.ones(1, 1)).sum())
print(accelerator.mixed_precision, layer.weight.grad.item(), *prepared.state_dict())
"""
    given = {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "EAGER",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["no", "1.0", "weight"]


def test_eval_at_another_size_sees_images_of_that_size(toy_teacher):
    model = opened(str(toy_teacher)).network
    source = open_data("digits")[1]
    augment = eval_augment(
        24, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, interpolation="bicubic"
    )
    prepared = [augment.prepare(source.image(index)) for index in range(len(source))]
    images = augment(prepared, np.zeros(len(source), dtype=np.uint64))
    with torch.no_grad():
        right = model(images).argmax(1) == torch.from_numpy(source.labels)
    result = judged(toy_teacher, img_size=24)
    assert result["logits"]["top1"] == pytest.approx(100 * right.float().mean().item())
    assert result != judged(toy_teacher)


def test_a_transformer_takes_multiples_of_its_patch_alone(tmp_path):
    options = {"method": "ce", "student": "toy_student", "stage1": 1, "stage2": 0}
    quiet_train({**options, "out": str(tmp_path / "run")}, ["data.fraction=1"])
    own, larger = judged(tmp_path / "run"), judged(tmp_path / "run", img_size=24)
    assert larger["images"] == own["images"]
    assert larger["logits"] != own["logits"]
    with pytest.raises(ValueError, match="size 18: it must be a multiple of the 4-px"):
        judged(tmp_path / "run", img_size=18)


def make_images(root, *names, broken=False):
    for number, name in enumerate(names):
        root.joinpath(name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(root / name / "0.png")
    if broken:
        (root / names[0] / "1.png").write_bytes(b"no image")
    return root


def test_eval_never_judges_a_run_on_what_it_trained_on(tmp_path):
    images = make_images(tmp_path / "images", "cat", "dog")
    options = {"method": "ce", "student": "toy_cnn", "stage1": 1, "stage2": 0, "data.img_size": 16}
    run = tmp_path / "run"
    quiet_train(
        {**options, "data.train": str(images), "out": str(run)},
        ["data.batch_size=2"],
    )
    with pytest.raises(ValueError, match="without evaluation data, so --data must name"):
        judged(run)
    assert judged(run, data=str(images))["images"] == {"count": 2}


def test_eval_options_without_effect_are_refused(toy_teacher, tmp_path):
    weights = toy_teacher / "model.safetensors"
    with pytest.raises(ValueError, match="--which best is for a run folder"):
        judged("toy_cnn", weights=weights, which="best", data="digits")
    with pytest.raises(ValueError, match="'foo'"):
        judged(toy_teacher, which="foo")
    with pytest.raises(ValueError, match="--data must name"):
        judged("toy_cnn", weights=weights)


def test_eval_skips_a_bad_image_or_stops(toy_teacher, tmp_path):
    data = str(make_images(tmp_path / "data", "3", "7", broken=True))
    assert judged(toy_teacher, data=data)["images"] == {"count": 2}
    with pytest.raises(ValueError, match=r"1\.png"):
        judged(toy_teacher, data=data, on_bad_image="fail")


def test_a_full_device_is_one_line_with_the_remedy(toy_teacher, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB [GPU 0]")

    for module, name, verb, remedy in (
        (judge, "evaluate_target", ["eval", str(toy_teacher)], "--batch-size"),
        (launch, "train", ["train"], "data.micro_batch"),
        (launch, "train", ["teacher"], "data.micro_batch"),
    ):
        monkeypatch.setattr(module, name, full)
        result = CliRunner().invoke(app, verb)
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.strip().splitlines()
        assert remedy in line
        assert "2 GiB [GPU 0]" in line
