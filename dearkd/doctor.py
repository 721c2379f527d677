"""What `dearkd doctor` does: checks what a run depends on and names a remedy for each fault."""

import getpass
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import huggingface_hub
import timm
import torch
import torchvision
from packaging.requirements import Requirement
from rich.console import Console

from dearkd.errors import one_line
from dearkd.measures.lpips_embedding import LpipsNet
from dearkd.measures.lpips_weights import OFFLINE, backbone_file
from dearkd.models.cost import LAYOUTS, seconds_per_call
from dearkd.models.precision import precision_context
from dearkd.run_folder.provenance import commit, versions
from dearkd.run_folder.threads import waiting
from dearkd.said import counted
from dearkd.trained.hub import is_reachable
from dearkd.trained.onnx_packages import ONNX_PACKAGES
from dearkd.trained.resolve import EMBEDDED_WEIGHTS
from dearkd.training.arithmetic import layout_rule, precision_rule, student_step
from synth.cores import usable_cores
from synth.facts import BF16_UNITS, bf16_units, cpp_compiler, has_compiler

__all__ = ["EMBEDDED_SHA256", "Finding", "examine", "findings"]

EMBEDDED_SHA256 = "d6206b602647146971ccdba0eb9c32895b7eb5580a2c75ad439ee350f3356a55"
ROOM = 5e9  # bytes that a run with its checkpoints may take
IMAGES, GPU_IMAGES = 16, 2048
State = Literal["ok", "warning", "broken"]
_COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: State
    found: str
    remedy: str | None = None
    """What to type or to change; None if nothing is wrong."""


def examine(*, console: Console, quick: bool = False, as_json: bool = False) -> bool:
    """Prints every finding and returns whether nothing is broken."""
    listed = []
    for finding in findings(quick):
        listed.append(finding)
        if not as_json:
            _print(console, finding)
    if as_json:
        console.print_json(json.dumps([asdict(finding) for finding in listed]))
    return all(finding.state != "broken" for finding in listed)


def findings(quick: bool = False) -> Iterator[Finding]:
    """The result of every check in turn; ``quick`` leaves out timing and compiling."""
    for name, check in _CHECKS.items():
        if quick and check in _SLOW:
            continue
        try:
            found = check()
        except Exception as error:  # a check that fails has found a fault
            reason = one_line(error)
            remedy = "reinstall with pip install -c constraints.txt -e ."
            yield Finding(name, "broken", f"{type(error).__name__}: {reason}", remedy)
            continue
        yield Finding(name, *found) if isinstance(found, tuple) else Finding(name, "ok", found)


_Found = str | tuple[State, str, str]
"""What was found, or (state, what was found, remedy)."""


def _versions() -> _Found:
    numbers = {"Python": platform.python_version(), **versions(), "commit": commit() or "unknown"}
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def _requirements() -> _Found:
    """Whether every package that dearkd needs is there, in a version that it works with."""
    wrong = []
    for text in importlib.metadata.requires("dearkd") or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            have = "nothing"
        if have == "nothing" or not need.specifier.contains(have, prereleases=True):
            wrong.append((f"{need.name}{need.specifier}", have))
    if not wrong:
        return "every package is of a version that dearkd works with"
    install = " ".join(f"'{need}'" for need, _ in wrong)
    return (
        "broken",
        "; ".join(f"dearkd needs {need}, and {have} is installed" for need, have in wrong),
        f"pip install {install}",
    )


def _together() -> _Found:
    """Whether the compiled packages fit each other, by calling them together."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
    student = timm.create_model("dearkd_mini_patch4_32").eval()
    with torch.inference_mode():
        finite = bool(student(torch.zeros(1, 3, 32, 32)).isfinite().all())
    if kept.tolist() != [0] or not finite:
        found = "torch, torchvision or timm computes wrong numbers"
        return "broken", found, "reinstall torch, torchvision and timm"
    return "torch, torchvision and timm work together"


def _devices() -> _Found:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return f"no GPU, a CPU ({_processor()}); a run of ImageNet's size needs a GPU"
    count = torch.accelerator.device_count()
    names = accelerator.type
    if accelerator.type == "cuda":
        cards = [torch.cuda.get_device_properties(index) for index in range(count)]
        names = ", ".join(f"{card.name} ({card.total_memory / 1e9:.0f} GB)" for card in cards)
    return f"{count} x {names}; {_processor()}"


def _threads() -> _Found:
    cores, threads = usable_cores(), torch.get_num_threads()
    found = f"{counted(threads, 'thread')} on {counted(cores, 'core')}"
    if threads > cores:
        return (
            "warning",
            f"{found}: they slow each other down",
            f"export OMP_NUM_THREADS={cores}",
        )
    return f"{found} (OMP_NUM_THREADS sets it); waiting threads: {waiting() or 'as OpenMP likes'}"


def _bf16() -> _Found:
    """Which of this machine's units compute in bfloat16, which decides the default precision."""
    units = bf16_units(_device())
    none = f"none (of a CPU {' or '.join(BF16_UNITS.values())} are used)"
    return f"{units or none}; precision=auto goes by them, precision=fastest measures"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _speed() -> _Found:
    """A training step of a small CNN and of a small transformer, by the rule and in float32."""
    device = _device()
    if bf16_units(device) is None:
        return "not measured: without units for it bf16 is several times slower than fp32"
    gains = []
    for kind, name in (("CNN", "dearkd_resnet10t_32"), ("transformer", "dearkd_mini_patch4_32")):
        model = timm.create_model(name).to(device)
        precision = precision_rule(model, device)[0]
        layout = LAYOUTS[layout_rule(model, device, precision)[0]]
        count = GPU_IMAGES if device.type == "cuda" else IMAGES
        images = torch.rand(count, 3, 32, 32, device=device)
        seconds = []
        for taken, form in (("fp32", torch.contiguous_format), (precision, layout)):
            laid_out = images.contiguous(memory_format=form)
            model.to(memory_format=form)
            with precision_context(device, taken):
                step = partial(student_step, model, laid_out)
                seconds.append(seconds_per_call(step, device))
        gains.append(f"a small {kind} is {seconds[0] / seconds[1]:.1f}x as fast in {precision}")
    return f"{', '.join(gains)} as in fp32, measured just now"


def _compile() -> _Found:
    """Whether torch.compile works, which needs a C++ compiler on a CPU."""
    leave = "keep compile=false, which is the default"
    device = _device()
    if not has_compiler(device):
        found = f"compile=true does not work: {cpp_compiler()} is not on PATH"
        return "warning", found, f"apt-get install g++, or {leave}"
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # CUDA's absence
    x = torch.linspace(0, 1, 64)
    try:
        same = torch.allclose(torch.compile(_tiny)(x), _tiny(x))
    except Exception as error:  # inductor's errors share no class
        reason = one_line(error)
        default = f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}"
        cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", default)
        remedy = f"delete torch's cache of compiled code ({cache}) and try again, or {leave}"
        return "warning", f"torch.compile fails ({reason})", remedy
    if not same:
        return "warning", "torch.compile computes wrong numbers", leave
    return f"torch.compile works ({cpp_compiler() if device.type == 'cpu' else 'on the GPU'})"


def _hub() -> _Found:
    place = huggingface_hub.constants.ENDPOINT
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        found = "HF_HUB_OFFLINE is set, so weights are not downloaded"
        return "warning", found, "unset it to load weights by timm name"
    if is_reachable(place):
        return f"{place} answers"
    return (
        "warning",
        f"{place} does not answer, so timm's weights cannot be downloaded",
        "pass local weights: --teacher-weights FILE (eval and predict: --weights FILE)",
    )


def _lpips() -> _Found:
    files = {net: backbone_file(net) for net in get_args(LpipsNet)}
    have = [net for net, file in files.items() if file.is_file()]
    folder = files["alex"].parent
    if "alex" in have:
        return f"the networks of LPIPS are in {folder}: {', '.join(have)}"
    return (
        "warning",
        f"AlexNet, the default network of `dearkd eval --lpips`, is not in {folder}",
        f"it is downloaded on first use; offline {OFFLINE}, for --lpips-weights FILE",
    )


def _onnx() -> _Found:
    missing = [name for name in ONNX_PACKAGES if not importlib.util.find_spec(name)]
    if missing:
        found = f"`dearkd export --to onnx` needs {', '.join(missing)}, not installed"
        return "warning", found, "pip install 'dearkd[onnx]'"
    return f"{', '.join(ONNX_PACKAGES)} are installed"


def _disk() -> _Found:
    rooms = {}
    for place in (Path.cwd, Path.home):
        with suppress(OSError, RuntimeError):  # it is not there, or the user has no home
            rooms[str(place())] = shutil.disk_usage(place()).free
    found = [f"{free / 1e9:.0f} GB free in {place}" for place, free in rooms.items()]
    text = ", ".join(found) or "no folder to write to"
    if min(rooms.values(), default=0) < ROOM:
        return "warning", text, "free some disk space, or write to another disk with --out"
    return text


def _embedded() -> _Found:
    remedy = "reinstall dearkd"
    if not EMBEDDED_WEIGHTS.is_file():
        return "broken", f"{EMBEDDED_WEIGHTS} is missing", remedy
    if hashlib.sha256(EMBEDDED_WEIGHTS.read_bytes()).hexdigest() != EMBEDDED_SHA256:
        return "broken", f"{EMBEDDED_WEIGHTS} is not the file that was published", remedy
    return f"{EMBEDDED_WEIGHTS.name} is intact"


_CHECKS: dict[str, Callable[[], _Found]] = {
    "versions": _versions,
    "requirements": _requirements,
    "libraries": _together,
    "devices": _devices,
    "threads": _threads,
    "bf16": _bf16,
    "bf16 speed": _speed,
    "compile": _compile,
    "hub": _hub,
    "lpips": _lpips,
    "onnx": _onnx,
    "disk": _disk,
    "embedded teacher": _embedded,
}
_SLOW = (_speed, _compile)


def _print(console: Console, finding: Finding) -> None:
    console.print(f"{finding.state:8} ", style=_COLOURS[finding.state], end="")
    console.print(f"{finding.name:17}{finding.found}", markup=False)
    if finding.remedy is not None:
        console.print(f"{'':26}-> {finding.remedy}", markup=False)


def _tiny(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def _processor() -> str:
    return f"{torch.backends.cpu.get_cpu_capability()}, {platform.machine()}"
