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
from rich.table import Table

from dearkd.data.datasets import ImageSource
from dearkd.data.feed import EVALUATION_BATCH
from dearkd.data.loaders import BadImages, OnBadImage
from dearkd.data.synthetic_set import MANIFEST_FILE
from dearkd.errors import UserError
from dearkd.measures.cells import distance_cells, nearness_cells, network_name
from dearkd.measures.image_set import ImageSet, choose_size, newest_set, open_set
from dearkd.measures.lpips_embedding import LpipsEmbedding, LpipsNet
from dearkd.measures.lpips_weights import load_lpips
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
from dearkd.said import counted
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import Resolved, refuse_idle_trust, resolve

__all__ = ["SetRequest", "evaluate_set"]

STORED = "diversity.json"
"""The file in a synthetic set's folder that holds the result; `dearkd report` shows it."""


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
    """Images of a class that are measured at most; None: all."""
    seed: int | None = None
    """Chooses the images where ``limit`` leaves some out; None: 0."""
    img_size: int | None = None
    """Pixels a side for LPIPS; other networks have a size of their own."""
    batch_size: int = EVALUATION_BATCH
    on_bad_image: str | None = None
    trust: bool = False
    """Whether to run the Python files that a network's run imports."""

    def __post_init__(self) -> None:
        """Refuses unknown values and options that would have no effect."""
        if not (self.lpips or self.features or self.verifier):
            raise UserError("nothing to measure; add --lpips, --features NET or --verifier NET")
        known = get_args(LpipsNet)
        if self.lpips_net is not None and self.lpips_net not in known:
            raise UserError(f"--lpips-net must be {', '.join(known)}, got {self.lpips_net!r}")
        for option, value, needed in (
            ("--lpips-net", self.lpips_net, {"--lpips": self.lpips}),
            ("--lpips-weights", self.lpips_weights, {"--lpips": self.lpips}),
            ("--img-size", self.img_size, {"--lpips": self.lpips}),
            ("--features-weights", self.features_weights, {"--features": self.features}),
            ("--verifier-weights", self.verifier_weights, {"--verifier": self.verifier}),
            ("--against", self.against, {"--lpips": self.lpips, "--features": self.features}),
            ("--seed", self.seed, {"--limit": self.limit}),
        ):
            if value is not None and not any(needed.values()):
                raise UserError(f"{option} {value} has no effect without {' or '.join(needed)}")
        if self.limit is not None and self.limit < 2:
            raise UserError(f"--limit must be at least 2 images a class, got {self.limit}")


def evaluate_set(
    request: SetRequest, *, console: Console, out: Path | None = None, as_json: bool = False
) -> dict[str, Any]:
    """Measures what the request asks for, prints it and returns it.

    The result is also written to ``out``, and into the folder of a synthetic set.

    Raises:
        UserError: If images or a network can't be opened, or there are too few images.
        FileNotFoundError: If a path does not exist.
        OSError: If the result cannot be written.
    """
    target = request.target or newest_set()
    stored = Path(target) / STORED if (Path(target) / MANIFEST_FILE).is_file() else None
    files = [file for file in (out, stored) if file is not None]
    for file in files:
        make_room(file)
    result = _Judge(request, target, console).result()
    if as_json:
        console.print_json(json.dumps(result))
    else:
        _print_result(result, console)
    for file in files:
        write_text(file, json.dumps(result, indent=2) + "\n")
    return result


class _Judge:
    """Takes the measures of one request, of the set and of the reference."""

    def __init__(self, request: SetRequest, target: str, console: Console) -> None:
        self.request = request
        self.console = console
        self.accelerator = process_accelerator()
        if self.accelerator.num_processes > 1:
            raise UserError("sets of images are measured by one process; start dearkd directly")
        self.bad_images = BadImages(cast(OnBadImage, request.on_bad_image or "skip"))
        self.found = {
            "features": _resolved("features", request.features, request.features_weights, request),
            "verifier": _resolved("verifier", request.verifier, request.verifier_weights, request),
        }
        refuse_idle_trust(request.trust, *self.found.values())
        self.names = [target] if request.against is None else [target, request.against]
        self.sources = [open_set(name, request.limit, request.seed or 0) for name in self.names]
        self.parts: list[dict[str, Any]] = [
            {"data": name, "images": len(source), "classes": len(set(source.labels.tolist()))}
            for name, source in zip(self.names, self.sources, strict=True)
        ]

    def result(self) -> dict[str, Any]:
        """All measures by name; those of the reference are under ``reference``."""
        request, common = self.request, dict[str, Any]()
        if request.lpips:
            common |= self._lpips()
        if self.found["features"] is not None:
            common |= self._features()
        if (found := self.found["verifier"]) is not None:
            network = self._network(found)
            with self._progress("verifier", self.sources[0]) as advance:
                judged = verdict(self.sources[0], network, advance)
            common["verifier"] = {"network": request.verifier, **judged}
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
        with self._progress("sizes", self.sources[0]) as advance:
            size, words = choose_size(self.sources[0], request.img_size, advance)
        sets = [ImageSet(source, size, self.bad_images) for source in self.sources]
        how = {"net": net, "img_size": size, "images_are": words}
        for part, images in zip(self.parts, sets, strict=True):
            with self._progress(f"LPIPS of {part['data']}", images.source) as advance:
                found = lpips_diversity(images, embedding, request.batch_size, advance)
            part["lpips"] = how | found.as_dict()
        if request.against is None or request.features is not None:
            return {}
        return {"nearness": {"network": f"LPIPS {net}"} | self._near_in_lpips(sets, embedding)}

    def _near_in_lpips(self, sets: list[ImageSet], embedding: LpipsEmbedding) -> dict[str, Any]:
        found = []
        for images in sets:
            with self._progress("features", images.source) as advance:
                found.append(lpips_features(images, embedding, self.request.batch_size, advance))
        return nearness(*found)

    def _features(self) -> dict[str, Any]:
        request, found = self.request, self.found["features"]
        assert found is not None
        network = self._network(found)
        embeddings = []
        for part, source in zip(self.parts, self.sources, strict=True):
            with self._progress(f"features of {part['data']}", source) as advance:
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

    @contextmanager
    def _progress(self, what: str, source: ImageSource) -> Iterator[Advance]:
        """A progress bar on a terminal; it grows where images are read more than once."""
        hidden = not self.console.is_terminal
        with Progress(console=self.console, transient=True, disable=hidden) as progress:
            task = progress.add_task(what, total=len(source))

            def advance(count: int) -> None:
                progress.advance(task, count)
                state = progress.tasks[0]
                if state.total is not None and state.completed > state.total:
                    progress.update(task, total=state.total + len(source))

            yield advance


def _resolved(
    role: str, name: str | None, weights: Path | None, request: SetRequest
) -> Resolved | None:
    if name is None:
        return None
    return resolve(name, role, weights=weights, trust=request.trust)


def _print_result(result: dict[str, Any], console: Console) -> None:
    columns = [result, *([result["reference"]] if "reference" in result else [])]
    headings = ["set", "reference"][: len(columns)]
    table = Table("", *headings, title=f"{result['data']}: {counted(result['images'], 'image')}")
    distances = [distance_cells(column) for column in columns]
    for name in distances[0]:
        table.add_row(name, *[cells[name] for cells in distances])
    for name, cell in nearness_cells(result).items():
        table.add_row(name, cell)
    if "verifier" in result:
        name = network_name(result["verifier"])
        table.add_row(f"recognised by {name}", f"{result['verifier']['top1']:.2f} %")
    console.print(table)
    for note in _notes(result):
        console.print(note)


def _notes(result: dict[str, Any]) -> list[str]:
    """Sentences on how the numbers were computed and what they leave out."""
    notes = []
    if "lpips" in result or "features" in result:
        notes.append("+/-: one standard error, jackknife over images")
    if "lpips" in result:
        notes.append(result["lpips"]["images_are"])
    if count := len(result["unreadable"]):
        verb = "is" if count == 1 else "are"
        notes.append(f"{counted(count, 'unreadable image')} {verb} left out")
    for part in (result, result.get("reference", {})):
        measured = part.get("lpips") or part.get("features")
        if measured and measured["classes_of_two_or_more"] < part["classes"]:
            single = part["classes"] - measured["classes_of_two_or_more"]
            notes.append(
                f"{part['data']}: {single} of {part['classes']} classes have one image and are "
                "left out within classes"
            )
    near = result.get("nearness")
    if near and min(result["images"], result["reference"]["images"]) <= near["dim"]:
        notes.append(
            f"fewer images than the {near['dim']} dimensions: the Frechet distance is biased "
            "upwards; compare it between sets of one size alone"
        )
    return notes
