"""``dearkd eval --lpips``: how diverse a set of images is, and how near it is to real ones."""

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from rich.console import Console
from rich.progress import Progress

from dearkd.data.feed import EVALUATION_BATCH
from dearkd.data.loaders import BadImages, OnBadImage
from dearkd.data.synthetic_set import MANIFEST_FILE, read_set
from dearkd.errors import UserError
from dearkd.measures.image_set import ImageSet, choose_size, newest_set, open_set
from dearkd.measures.lpips_embedding import LpipsEmbedding, LpipsNet
from dearkd.measures.lpips_weights import load_lpips
from dearkd.measures.probe_student import ProbeRequest, ProbeStudent, open_probe
from dearkd.measures.result_table import print_result
from dearkd.measures.set_measures import (
    Advance,
    Network,
    feature_diversity,
    lpips_diversity,
    lpips_features,
    nearness,
    network_features,
    verdict,
)
from dearkd.run_folder.output import make_room, write_text
from dearkd.run_folder.processes import process_accelerator
from dearkd.run_folder.provenance import commit, versions
from dearkd.run_folder.stop import Interrupted
from dearkd.said import seconds_text
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved, refuse_idle_trust, resolve

__all__ = ["SetRequest", "evaluate_set"]

STORED = "diversity.json"
"""The file in a synthetic set's folder that holds the result; `dearkd report` shows it."""
PROBE_KEYS = ("probe_top1", "probe")
"""What a result has of a probe student."""


@dataclass(frozen=True, kw_only=True)
class SetRequest:
    """What to measure of a set of images, with which networks, on which images."""

    target: str | None = None
    """Any data that `dearkd.data.datasets` opens; None: the newest synthetic set under runs/."""
    lpips: bool | None = None
    lpips_net: str | None = None
    lpips_weights: Path | None = None
    against: str | None = None
    """Real images, which are measured too and compared with."""
    features: str | None = None
    """A network whose pooled features are compared."""
    features_weights: Path | None = None
    verifier: str | None = None
    verifier_weights: Path | None = None
    limit: int | None = None
    """Images of a class that are measured at most; None: all. A probe student learns from all."""
    probe: bool | None = None
    """Whether to train a small student on the set and read it on ``against``."""
    teacher: str | None = None
    """The probe student's teacher; None: the network that a synthetic set was made from."""
    teacher_weights: Path | None = None
    seed: int | None = None
    """Chooses the images where ``limit`` leaves some out, and is the probe's seed; None: 0."""
    img_size: int | None = None
    """Pixels a side for LPIPS; other networks have a size of their own."""
    batch_size: int = EVALUATION_BATCH
    on_bad_image: str | None = None
    trust: bool = False
    """Whether to run the Python files that a network's run imports."""

    def __post_init__(self) -> None:
        """Refuses unknown values and options that would have no effect."""
        if not (self.lpips or self.features or self.verifier or self.probe):
            raise UserError(
                "nothing to measure; add --lpips, --features NET, --verifier NET or --probe"
            )
        embedding = {"--lpips": self.lpips, "--features": self.features}
        known = get_args(LpipsNet)
        if self.lpips_net is not None and self.lpips_net not in known:
            raise UserError(f"--lpips-net must be {', '.join(known)}, got {self.lpips_net!r}")
        for option, value, needed in (
            ("--lpips-net", self.lpips_net, {"--lpips": self.lpips}),
            ("--lpips-weights", self.lpips_weights, {"--lpips": self.lpips}),
            ("--img-size", self.img_size, {"--lpips": self.lpips}),
            ("--features-weights", self.features_weights, {"--features": self.features}),
            ("--verifier-weights", self.verifier_weights, {"--verifier": self.verifier}),
            ("--against", self.against, {**embedding, "--probe": self.probe}),
            ("--limit", self.limit, {**embedding, "--verifier": self.verifier}),
            ("--teacher", self.teacher, {"--probe": self.probe}),
            ("--teacher-weights", self.teacher_weights, {"--teacher": self.teacher}),
            ("--seed", self.seed, {"--limit": self.limit, "--probe": self.probe}),
        ):
            if value is not None and not any(needed.values()):
                raise UserError(f"{option} {value} has no effect without {' or '.join(needed)}")
        if self.limit is not None and self.limit < 2:
            raise UserError(f"--limit must be at least 2 images a class, got {self.limit}")
        if self.probe and self.against is None:
            raise UserError(
                "--probe reads its student on real labelled images; name them by --against"
            )


def evaluate_set(
    request: SetRequest,
    *,
    console: Console,
    errors: Console,
    out: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Measures what the request asks for, prints it and returns it.

    The result is also written to ``out``, and into the folder of a synthetic set, where a probe's
    number and the other measures stay until they are taken anew. ``errors`` tells the time that a
    probe takes.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM while a probe student learns; nothing is written.
        UserError: If images or a network can't be opened, or there are too few images.
        FileNotFoundError: If a path does not exist.
        OSError: If the result cannot be written.
    """
    target = request.target or newest_set()
    stored = Path(target) / STORED if (Path(target) / MANIFEST_FILE).is_file() else None
    files = [file for file in (out, stored) if file is not None]
    for file in files:
        make_room(file)
    result = _Judge(request, target, console, errors).result()
    if as_json:
        console.print_json(json.dumps(result))
    else:
        print_result(result, console)
    for file in files:
        content = _with_stored(result, request, file) if file is stored else result
        write_text(file, json.dumps(content, indent=2) + "\n")
    return result


def _with_stored(result: dict[str, Any], request: SetRequest, file: Path) -> dict[str, Any]:
    """The result with what the set's file has of the other kind: of a probe, or of other measures.

    A probe takes minutes and says itself what it is of, so that it need not be taken again with
    every other measure.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return result
    if not isinstance(found, dict):
        return result
    probed = {key: value for key, value in found.items() if key in PROBE_KEYS}
    if not request.probe:
        return result | probed
    if request.lpips or request.features or request.verifier:
        return result
    return (result if found.keys() == probed.keys() else found) | {
        key: result[key] for key in PROBE_KEYS
    }


class _Judge:
    """Takes the measures of one request, of the set and of the reference."""

    def __init__(self, request: SetRequest, target: str, console: Console, errors: Console) -> None:
        self.request = request
        self.console = console
        self.errors = errors
        self.accelerator = process_accelerator()
        if self.accelerator.num_processes > 1:
            raise UserError("sets of images are measured by one process; start dearkd directly")
        self.bad_images = BadImages(cast(OnBadImage, request.on_bad_image or "skip"))
        self.found = {
            "features": _resolved("features", request.features, request.features_weights, request),
            "verifier": _resolved("verifier", request.verifier, request.verifier_weights, request),
            "teacher": _resolved("teacher", *_teacher(request, target), request),
        }
        refuse_idle_trust(request.trust, *self.found.values())
        self.names = [target] if request.against is None else [target, request.against]
        self.sources = [open_set(name, request.limit, request.seed or 0) for name in self.names]
        self.parts: list[dict[str, Any]] = [
            {"data": name, "images": len(source), "classes": len(set(source.labels.tolist()))}
            for name, source in zip(self.names, self.sources, strict=True)
        ]
        self.probe = self._opened_probe(target)

    def result(self) -> dict[str, Any]:
        """All measures by name; those of the reference are under ``reference``."""
        request, common = self.request, dict[str, Any]()
        if request.lpips:
            common |= self._lpips()
        if self.found["features"] is not None:
            common |= self._features()
        if (found := self.found["verifier"]) is not None:
            network = self._network(found)
            with self._progress("verifier", len(self.sources[0])) as advance:
                judged = verdict(self.sources[0], network, advance)
            common["verifier"] = {"network": request.verifier, **judged}
        if self.probe is not None:
            common |= self._probed(self.probe)
        result = self.parts[0] | common
        if request.against is not None:
            result["reference"] = self.parts[1]
        packages = {name: importlib.metadata.version(name) for name in ("lpips", "torchmetrics")}
        return result | {
            "limit": request.limit,
            "seed": request.seed or 0,
            "unreadable": self.bad_images.found,
            "versions": versions() | packages,
            "commit": commit(),
        }

    def _lpips(self) -> dict[str, Any]:
        request = self.request
        net = cast(LpipsNet, request.lpips_net or "alex")
        embedding = load_lpips(net, request.lpips_weights).to(self.accelerator.device)
        with self._progress("sizes", len(self.sources[0])) as advance:
            size, words = choose_size(self.sources[0], request.img_size, advance)
        sets = [ImageSet(source, size, self.bad_images) for source in self.sources]
        how = {"net": net, "img_size": size, "images_are": words}
        for part, images in zip(self.parts, sets, strict=True):
            with self._progress(f"LPIPS of {part['data']}", len(images.source)) as advance:
                found = lpips_diversity(images, embedding, request.batch_size, advance)
            part["lpips"] = how | found.as_dict()
        if request.against is None or request.features is not None:
            return {}
        return {"nearness": {"network": f"LPIPS {net}"} | self._near_in_lpips(sets, embedding)}

    def _near_in_lpips(self, sets: list[ImageSet], embedding: LpipsEmbedding) -> dict[str, Any]:
        found = []
        for images in sets:
            with self._progress("features", len(images.source)) as advance:
                found.append(lpips_features(images, embedding, self.request.batch_size, advance))
        return nearness(*found)

    def _features(self) -> dict[str, Any]:
        request, found = self.request, self.found["features"]
        assert found is not None
        network = self._network(found)
        embeddings = []
        for part, source in zip(self.parts, self.sources, strict=True):
            with self._progress(f"features of {part['data']}", len(source)) as advance:
                features = network_features(source, network, advance)
            spread = feature_diversity(features, source.classes.names)
            part["features"] = {"network": network.trained.name} | spread.as_dict()
            embeddings.append(features.embedding)
        if request.against is None:
            return {}
        return {"nearness": {"network": network.trained.name} | nearness(*embeddings)}

    def _network(self, found: Resolved) -> Network:
        trained = open_trained(found)
        trained.network.to(self.accelerator.device)
        return Network(
            trained,
            self.accelerator,
            self.request.batch_size,
            self.bad_images,
        )

    def _opened_probe(self, target: str) -> ProbeStudent | None:
        """The probe student, if one is asked for; says how long it will take."""
        request, teacher = self.request, self.found["teacher"]
        if not request.probe:
            return None
        assert teacher is not None
        assert request.against is not None
        asked = ProbeRequest(
            target, request.against, teacher, request.seed or 0, self.bad_images.policy
        )
        probe = open_probe(asked, self.accelerator)
        self.errors.print(f"{probe.forecast}, about {seconds_text(probe.seconds)}")
        return probe

    def _probed(self, probe: ProbeStudent) -> dict[str, Any]:
        try:
            with self._progress("probe student", probe.views) as advance:
                return probe.result(advance)
        except Interrupted:
            self.errors.print("stopped in the probe; nothing was written")
            raise

    @contextmanager
    def _progress(self, what: str, images: int) -> Iterator[Advance]:
        """A progress bar on a terminal; it grows where images are read more than once."""
        hidden = not self.console.is_terminal
        with Progress(console=self.console, transient=True, disable=hidden) as progress:
            task = progress.add_task(what, total=images)

            def advance(count: int) -> None:
                progress.advance(task, count)
                state = progress.tasks[0]
                if state.total is not None and state.completed > state.total:
                    progress.update(task, total=state.total + images)

            yield advance


def _teacher(request: SetRequest, target: str) -> tuple[str | None, Path | None]:
    """Name and weights of the probe student's teacher; (None, None) where there is no probe.

    Raises:
        UserError: If none is named, and the set is none that dearkd made from a network.
    """
    if request.teacher is not None or not request.probe:
        return request.teacher, request.teacher_weights
    found = read_set(target)
    if found is None or found.teacher is None:
        raise UserError(
            f"--probe needs the network that teaches its student, and {target} does not say which "
            "it was made from; add --teacher NET"
        )
    return found.teacher


def _resolved(
    role: str, name: str | None, weights: Path | None, request: SetRequest
) -> Resolved | None:
    if name is None:
        return None
    return resolve(name, role, weights=weights, trust=request.trust)
