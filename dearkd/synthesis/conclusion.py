"""What is said of a finished set: where it lies, what is recognised in it, what comes next."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dearkd.data.sizes import default_size, patch_size
from dearkd.data.synthetic_set import SURE, read_set
from dearkd.said import command, counted
from dearkd.synthesis.live import clock
from dearkd.synthesis.settings import SynthesizeConfig
from dearkd.synthesis.setup import Setup
from dearkd.trained.resolve import EMBEDDED

__all__ = ["conclude", "say_next"]

ABOVE_CHANCE = 2.0  # as often as by chance at least: images that show something
UNRECOGNISED = 0.5  # a set is of little use if the teacher recognises less than this share


def conclude(folder: Path, setup: Setup, seconds: float, say: Callable[..., None]) -> None:
    """Prints where the images are and what the networks recognise."""
    found = read_set(folder)
    assert found is not None
    content = found.manifest
    images = counted(len(content["images"]), "image")
    classes = counted(len(content["classes"]["indices"]), "class", "classes")
    say(f"done in {clock(seconds)}: {images} of {classes}: {folder}")
    for line in _verdicts(content, setup):
        say(line)
    say(f"look at {folder / 'contact_sheet.png'}")


def say_next(folder: Path, setup: Setup, say: Callable[..., None]) -> None:
    """Prints how a second opinion is had, and how to train on the images."""
    if setup.verifier is None:
        say("that is the teacher's own verdict; --verifier NAME asks a second network")
    say(f"next: {_train_command(folder, setup.config)}")


def _verdicts(content: dict[str, Any], setup: Setup) -> Iterator[str]:
    """Lines on what each network recognises, and on what may help where it is little."""
    judges, names = {"teacher": setup.teacher.name}, setup.teacher.class_names
    if setup.verifier is not None:
        judges["verifier"] = setup.verifier.name
    for role, verdict in content["quality"].items():
        share = verdict["recognition"]
        worst = min(share["per_class"], key=lambda index: share["per_class"][index])
        yield (
            f"recognised by the {role} {judges[role]}: {100 * share['overall']:.1f} % "
            f"(least: class {names[int(worst)] if names else worst}, "
            f"{100 * share['per_class'][worst]:.0f} %)"
        )
        if (spread := verdict["diversity"]["overall"]) is not None:
            yield f"  mean distance within a class in its embedding (0-2): {spread:.3f}"
    recognised = content["quality"]["teacher"]["recognition"]["overall"]
    yield from _advice(recognised, 1 / setup.teacher.num_classes, setup.config)
    if setup.verifier is not None:
        judge, *teachers = (content[role]["weights_sha256"] for role in ("verifier", "teacher"))
        teachers += [other["weights_sha256"] for other in content.get("other_teachers", [])]
        if judge in teachers:
            which = "the teacher itself" if judge == teachers[0] else "one of the teachers"
            yield f"the verifier is {which}: no second opinion"


def _advice(recognised: float, chance: float, config: SynthesizeConfig) -> Iterator[str]:
    """What a small share of recognised images means, or what may raise it."""
    weight = config.objective.ce_weight
    if weight < 1 and chance * ABOVE_CHANCE < recognised < SURE:
        yield (
            f"  their class was asked for with a weight of {weight:g}, so not all show it: train "
            "on soft labels, which say what each shows (as dearkd train does by itself)"
        )
    elif recognised < UNRECOGNISED:
        drawn = config.engine == "generator"  # which neither recipe nor pilot runs are for
        others = ["" if drawn or config.recipe == "balanced" else "--recipe balanced, "]
        others += ["more --iters", "" if drawn or config.allow_no_bn else ", --auto-weights"]
        yield (
            f"most images are not what they were to become: try {''.join(others)} "
            "or a size the teacher was trained at"
        )


def _train_command(folder: Path, config: SynthesizeConfig) -> str:
    """The command that trains on the set under the same teacher, at the set's own size."""
    assert config.teacher.name is not None
    words = ["dearkd", "train", "--data", str(folder), "--teacher", config.teacher.name]
    if config.teacher.weights is not None:
        words += ["--teacher-weights", config.teacher.weights]
    size = config.resolutions[-1]
    if size % patch_size(size) == 0 and size != default_size(size):
        words += ["--img-size", str(size)]
    for file in config.imports:
        words += ["--import", file]
    if config.teacher.name == EMBEDDED and config.classes is None and config.select == "all":
        words += ["--eval-data", EMBEDDED]  # the real ones, to see how good the images are
    return command(*words)
