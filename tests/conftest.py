"""Shape checks on every annotated module, and threads that don't fight over two cores."""

import gc
import io
import json
import os
from pathlib import Path

from jaxtyping import install_import_hook

# beartype draws from Python's generator, which augmentations draw from as well.
UNCHECKED = {"dearkd.data.augment"}


def _annotated_modules():
    """Every module with shapes in its signatures, so that what is annotated is checked."""
    root = Path(__file__).parents[1]
    files = [file for package in ("dearkd", "synth") for file in (root / package).rglob("*.py")]
    annotated = [file for file in files if "from jaxtyping import" in file.read_text()]
    names = {".".join(file.relative_to(root).with_suffix("").parts) for file in annotated}
    return sorted(names - UNCHECKED)


if os.environ.get("DEARKD_NO_SHAPE_CHECKS") != "1":  # tests that compile or export switch it off
    install_import_hook([*_annotated_modules(), "dearkd.models"], "beartype.beartype")

os.environ["OMP_NUM_THREADS"] = "1"  # of every process that a test starts, too

import torch  # noqa: E402

torch.set_num_threads(1)

import pytest  # noqa: E402
from rich.console import Console  # noqa: E402
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model  # noqa: E402

import dearkd  # noqa: E402, F401 - registers the real students too
from dearkd.analysis.predictions import answers_of  # noqa: E402
from dearkd.config import load_config  # noqa: E402
from dearkd.data.datasets import open_data, renumbered  # noqa: E402
from dearkd.judging.candidate import candidate_of  # noqa: E402
from dearkd.models.cnn import SmallResNet  # noqa: E402
from dearkd.models.vit import DearKDVisionTransformer  # noqa: E402
from dearkd.run_folder.folder import RunFolder  # noqa: E402
from dearkd.trained.open import open_trained  # noqa: E402
from dearkd.trained.resolve import resolve  # noqa: E402
from dearkd.training import train as launch  # noqa: E402
from dearkd.training.loop import Trainer  # noqa: E402
from dearkd.training.methods import METHODS  # noqa: E402

FAST = [
    "precision=fp32",
    "memory_format=contiguous",
    "trackers=[]",
    "data.batch_size=240",
]
FEW_DIGITS = ["data.fraction=0.35", "data.batch_size=100"]
"""A third of the 1,438 digits; five steps an epoch, as all of them have in batches of 240."""
FAST_TEACHER = ["teacher.precision=fp32", "teacher.memory_format=contiguous"]
_LOOK = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
default_cfgs = generate_default_cfgs(
    {
        "toy_student": {
            **_LOOK,
            "interpolation": "bicubic",
            "fixed_input_size": True,
            "classifier": ("head", "head_dist"),
        },
        "toy_cnn": {**_LOOK, "interpolation": "bicubic", "classifier": "fc"},
    }
)


def numbered(train, evaluation=None):
    """Training and evaluation images, these with the labels that a run without a teacher gives."""
    source, other = open_data(str(train), None if evaluation is None else str(evaluation))
    return source, renumbered(other, source.classes)


@register_model
def toy_student(pretrained=False, **kwargs):
    """Three blocks, two of them MHCA, on 4 x 4 patches."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 4}
    sizes["mhca_depth"] = 2
    return build_model_with_cfg(
        DearKDVisionTransformer, "toy_student", pretrained, **{**sizes, **kwargs}
    )


@register_model
def toy_cnn(pretrained=False, **kwargs):
    """A ResNet of 8 channels: oneDNN 3.12 corrupts memory at fewer (1x1, stride 2, on AVX2)."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    return build_model_with_cfg(SmallResNet, "toy_cnn", pretrained, **{**sizes, **kwargs})


def opened(text, role="model", **options):
    """A trained network as the verbs open it."""
    return open_trained(resolve(str(text), role, **options))


def predictions_of(found, data=None, **options):
    """What ``answers_of`` says of a run for its evaluation images, or those of ``data``."""
    return answers_of(found, candidate_of(found, data), **options)


def quiet_train(options, settings=(), resume=False, folder=None, config=None):
    """Trains a configuration as the command does, on one thread, without a terminal.

    On few digits, where nothing is said of the data and their number.
    """
    if config is None:
        method = METHODS.get(options.get("method", "dearkd"))
        teacher = FAST_TEACHER if method is None or method.has_teacher else []
        given = {*options, *(setting.partition("=")[0] for setting in settings)}
        sizes = {"data", "data.train", "data.fraction", "data.batch_size", "data.validation"}
        few = [] if given & sizes else FEW_DIGITS
        config = load_config(None, [*FAST, *few, *teacher, *settings], options)
    console = Console(file=io.StringIO())
    launch.train(config, console=console, resume=resume, folder=folder)


def photo_classes(folder, count=40):
    """So many of the test digits as PNG files, a folder a class."""
    source = open_data("digits")[1]
    for index in range(count):
        place = folder / str(source.labels[index])
        place.mkdir(parents=True, exist_ok=True)
        source.image(index).save(place / f"{index}.png")


class KilledError(Exception):
    """In place of kill -9."""


def stopped_after_one_epoch(options, monkeypatch):
    """Trains until the first epoch is saved, and no further."""
    finish = Trainer._save

    def save(self, *rest):
        finish(self, *rest)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", save)
        with pytest.raises(KilledError):
            quiet_train(options, ["data.fraction=0.3"])


def go_on(folder, settings=()):
    """Goes on with a run to its end; returns its summary."""
    run = RunFolder(Path(folder))
    quiet_train({}, settings, resume=True, folder=run, config=run.read_config())
    return json.loads(run.summary_file.read_text())


@pytest.fixture(scope="session")
def device():
    """The device of `make gpu`; without CUDA that tier fails, it does not pass by doing nothing.

    ``DEARKD_GPU_TIER=cpu`` tries its tests themselves on a machine without one.
    """
    name = os.environ.get("DEARKD_GPU_TIER", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.fail("make gpu needs a CUDA device, and torch sees none", pytrace=False)
    return torch.device(name)


@pytest.fixture
def cuda(device):
    """CUDA itself, for what nothing else has."""
    if device.type != "cuda":
        pytest.skip("about CUDA alone")
    torch.cuda.reset_peak_memory_stats()
    return device


def pytest_addoption(parser):
    parser.addoption("--moments", type=int, default=1, help="tests/faults: times of each fault")
    parser.addoption("--record", type=Path, help="JSON file for tables of slow tests")


@pytest.fixture
def moments(request):
    """How many times a fault is caused."""
    return request.config.getoption("--moments")


@pytest.fixture(scope="session")
def _recorded(request):
    rows = {}
    yield rows
    if (file := request.config.getoption("--record")) is not None:
        file.write_text(json.dumps(rows, indent=1) + "\n")


@pytest.fixture
def record_curves(_recorded):
    """Notes the losses, epoch by epoch, of one process and of two."""

    def record(name, one, two):
        _recorded[name] = {"one_process": one, "two_processes": two}

    return record


@pytest.fixture
def record_fault(_recorded):
    """Notes a fault: times caused, survived, finished work lost, seconds to go on (median, max)."""

    def record(fault, *, times, survived, lost=0, seconds_to_go_on=None):
        _recorded[fault] = {
            "times": times,
            "survived": survived,
            "finished_work_lost": lost,
            "seconds_to_go_on": seconds_to_go_on,
        }

    return record


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """Every stage of a run collects garbage twice: what was imported before is none."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def quiet_console():
    """A console that nobody reads."""
    return Console(file=io.StringIO())


@pytest.fixture(scope="session")
def toy_teacher(tmp_path_factory):
    """The folder of a finished two-epoch `dearkd teacher` run on the digits."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    options = {"method": "ce", "student": "toy_cnn", "stage1": 2, "stage2": 0}
    quiet_train({**options, "out": str(folder)}, ["data.fraction=1"])
    return folder
