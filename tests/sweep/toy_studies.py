"""Studies of toy students on the digits, and a record without runs."""

import torch
import yaml

from dearkd.models.cnn import SmallResNet
from dearkd.run_folder.files import save_model
from dearkd.run_folder.record import Record, Study

TOY = {
    "student": "toy_student",
    "precision": "fp32",
    "memory_format": "contiguous",
    "trackers": [],
    "stage1": 1,
    "stage2": 1,
    "data": {"train": "digits", "fraction": 0.18, "batch_size": 200},
    "optim": {"lr": 0.01},
}
ARMS = {"labels": {"method": "ce"}, "wide, labels": {"method": "ce", "student_args.mlp_ratio": 2.0}}


def written_study(folder, name="toys", **content):
    """The file of a study of toys."""
    file = folder / f"{name}.yaml"
    settings = TOY | content.pop("settings", {})
    study = {"settings": settings, "seeds": [0, 1], "arms": ARMS, **content}
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


def written_record(folder):
    """The record of a study of two arms and seeds, without its runs."""
    arms, seeds = ("labels", "taught"), (0, 1)
    record = Record(folder / "a.json", Study("a", arms, seeds, (None,), {"taught": ("labels",)}))
    record.entries = [entry(arm, s, 50.0 + 7 * s * len(arm)) for arm in arms for s in seeds]
    record.write()
    return record.path


def entry(arm, seed, top1):
    """A finished run, as far as tables look at it."""
    settings = {"epochs": 2, "steps": 7, "data.batch_size": 64, "precision": "fp32"}
    of_run = {"threads": 1, "device": "cpu", "commit": "abc"}
    return {
        **{"arm": arm, "fraction": None, "seed": seed, "hash": "0", "settings": settings},
        "summary": {"top1": top1, "train_images": 4500, "eval_images": 5000, **of_run},
        "machine": {"cpu": "A CPU", "cores": 2},
        "curve": {"epoch": [0], "stage": ["ce"], "images_per_second": [100.0]},
    }


STRANGERS = """
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from dearkd.models.cnn import SmallResNet
look = dict(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)
default_cfgs = generate_default_cfgs({"NAME": dict(look, classifier="fc")})
@register_model
def NAME(pretrained=False, **kwargs):
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    return build_model_with_cfg(SmallResNet, "NAME", pretrained, **{**sizes, **kwargs})
"""


def strangers_cnn(folder, name):
    """The run folder of a CNN of ten classes that a Python file of its own describes."""
    folder.mkdir()
    (folder / "own.py").write_text(STRANGERS.replace("NAME", name))
    (folder / "config.yaml").write_text(f"imports: [{folder / 'own.py'}]\n")
    torch.manual_seed(len(folder.name) + ord(folder.name[0]))
    network = SmallResNet(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), num_classes=10)
    about = {"arch": name, "num_classes": 10, "class_names": None, "img_size": 16}
    save_model(folder / "model.safetensors", network, about)
    return folder
