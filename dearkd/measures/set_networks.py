"""The networks that ``dearkd eval`` measures a set with, opened before anything is measured.

A measure may take an hour, and what is wrong with the next one's network must be told before.
"""

from pathlib import Path

from dearkd.data.class_matching import match_classes
from dearkd.data.sources import ImageSource
from dearkd.data.synthetic_set import read_set
from dearkd.errors import UserError
from dearkd.measures.fidelity import NEAREST
from dearkd.measures.set_request import SetRequest
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved, refuse_idle_trust, resolve
from dearkd.trained.trained import Trained

__all__ = ["NETWORKS", "check_reference", "opened_network", "resolved_networks"]

NETWORKS = ("features", "verifier")
"""Roles of the networks that measure."""


def resolved_networks(request: SetRequest, target: str) -> dict[str, Resolved | None]:
    """The networks of a request by role, those of ``NETWORKS`` and the probe student's teacher.

    Raises:
        UserError: If one can't be found, or a trust in their files would have no effect.
        MissingFileError: If its weights do not exist.
    """
    found = {
        "features": _resolved("features", request.features, request.features_weights, request),
        "verifier": _resolved("verifier", request.verifier, request.verifier_weights, request),
        "teacher": _resolved("teacher", *_teacher(request, target), request),
    }
    refuse_idle_trust(request.trust, *found.values())
    return found


def check_reference(name: str, source: ImageSource) -> None:
    """Refuses fewer real images than nearness needs.

    Raises:
        UserError: If there are no more than a real image's ball reaches to.
    """
    if len(source) <= NEAREST:
        raise UserError(
            f"--against {name}: density and coverage need more than {NEAREST} real images, got "
            f"{len(source)}; name more of them, or leave --against out"
        )


def opened_network(found: Resolved, source: ImageSource) -> Trained:
    """A network on the CPU that can take its measure of a set.

    Raises:
        UserError: If it can't be opened, a verifier does not know the set's classes, or a network
            of features has none.
    """
    trained = open_trained(found)
    if found.role == "verifier":
        match_classes(source.classes, trained.class_names, trained.num_classes)
    elif not hasattr(trained.network, "forward_head"):
        raise UserError(f"--features {trained.name} has no forward_head(); choose a timm network")
    return trained


def _teacher(request: SetRequest, target: str) -> tuple[str | None, Path | None]:
    """Name and weights of the probe student's teacher; (None, None) where there is no probe.

    Raises:
        UserError: If none is named, and the set is none that dearkd made from a network, or that
            network's weights are gone.
    """
    if request.teacher is not None or not request.probe:
        return request.teacher, request.teacher_weights
    found = read_set(target)
    if found is None or found.teacher is None:
        raise UserError(
            f"--probe needs the network that teaches its student, and {target} does not say which "
            "it was made from; add --teacher NET"
        )
    name, weights = found.teacher
    if weights is not None and not weights.exists():
        raise UserError(
            f"{target} was made from {name}, whose weights {weights} are no longer there; add "
            f"--teacher {name} --teacher-weights FILE"
        )
    return name, weights


def _resolved(
    role: str, name: str | None, weights: Path | None, request: SetRequest
) -> Resolved | None:
    if name is None:
        return None
    return resolve(name, role, weights=weights, trust=request.trust)
