"""The student with its first weights, from the seed or another model, and a run's trained one."""

from typing import Any

import torch
from torch import nn

from dearkd.config import TrainConfig
from dearkd.models.create import check_name, create_model, size_argument
from dearkd.models.vit import initialise_from
from dearkd.run_folder.files import read_metadata
from dearkd.run_folder.folder import RunFolder
from dearkd.trained.open import load_classifier, load_run, run_file

__all__ = ["init_arch", "initial_student", "load_run_model"]


def initial_student(
    config: TrainConfig, num_classes: int, class_names: tuple[str, ...] | None
) -> nn.Module:
    """The student with its initial weights: from the seed, or from ``init``.

    Raises:
        ValueError: If the student can't be built, or the weights of ``init`` do not fit it.
    """
    assert config.student is not None
    torch.manual_seed(config.seed)
    size = size_argument(config.student, config.data.img_size, "student")
    student = create_model(
        config.student,
        "student",
        num_classes=num_classes,
        drop_path_rate=config.optim.drop_path or None,
        **size,
    )
    if config.init is not None:
        _fill(student, config, size, class_names)
    return student


def init_arch(init: str) -> str:
    """The architecture that ``--init`` names.

    Raises:
        ValueError: If it is neither a finished run nor a timm name.
        FileNotFoundError: If it is a path that does not exist.
    """
    file = run_file(init, "--init")
    if file is None:
        check_name(init, "--init")
        return init
    metadata = read_metadata(file)
    if "arch" not in metadata:
        raise ValueError(f"--init {init} was not written by dearkd; pass a run folder or timm name")
    return metadata["arch"]


def load_run_model(folder: RunFolder, which: str = "final") -> tuple[Any, dict[str, Any]]:
    """The trained model of a run folder and its metadata (architecture, classes, sizes).

    ``which``: ``final``, ``best``, or ``raw`` (the last weights without averaging).

    Raises:
        ValueError: If the folder has no such weights.
    """
    if which not in ("final", "best", "raw"):
        raise ValueError(f"weights must be final, best or raw, got {which!r}")
    file = folder.best_file if which == "best" else folder.model_file
    if not file.is_file():
        so_far = which == "final" and folder.best_file.is_file()
        remedy = "; its best weights so far: --which best" if so_far else ""
        raise ValueError(
            f"{folder.path} has no {file.relative_to(folder.path)}: the run is not finished{remedy}"
        )
    return load_run(file, folder.raw_student() if which == "raw" else None)


def _fill(
    student: Any, config: TrainConfig, size: dict[str, int], class_names: tuple[str, ...] | None
) -> None:
    """Gives the student another model's weights; its heads stay new where the classes differ."""
    assert config.init is not None
    source: Any
    source, source_names = load_classifier(config.init, role="--init")
    same = source.num_classes == student.num_classes and (
        source_names is None or class_names is None or source_names == class_names
    )
    if not same:
        source.reset_classifier(student.num_classes)
    if hasattr(student, "dist_token") and hasattr(source, "dist_token"):
        initialise_from(student, source)
        return
    if size and hasattr(source, "set_input_size"):
        source.set_input_size(**size)
    try:
        student.load_state_dict(source.state_dict())
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(
            f"--init {config.init} does not fit student {config.student} ({first[:200]}); "
            "leave --student out to keep the same architecture"
        ) from error
