"""``dearkd eval`` on a set of images: how diverse, how near to real ones, what it teaches."""

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from dearkd.data.loaders import BadImages, OnBadImage
from dearkd.data.synthetic_set import MANIFEST_FILE
from dearkd.errors import UserError, WriteError
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
from dearkd.measures.set_networks import (
    NETWORKS,
    check_reference,
    opened_network,
    resolved_networks,
)
from dearkd.measures.set_request import SetRequest
from dearkd.measures.stored import STORED, is_result, taken_with, with_stored
from dearkd.owner import check_replaceable
from dearkd.run_folder.output import make_room, write_text
from dearkd.run_folder.processes import process_accelerator
from dearkd.run_folder.provenance import commit, versions
from dearkd.run_folder.stop import Interrupted

__all__ = ["evaluate_set"]


def evaluate_set(
    request: SetRequest,
    *,
    console: Console,
    errors: Console,
    out: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Measures what the request asks for, prints it and returns it.

    The result is also written to ``out``, and into the folder of a synthetic set, where each
    measure stays until it is taken anew. ``errors`` tells the time that a probe takes, and that a
    set can't be written to.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM while a probe student learns; nothing is written.
        UserError: If images or a network can't be opened, or there are too few images.
        FileNotFoundError: If a path does not exist.
        OSError: If the result cannot be written.
    """
    target = request.target or newest_set()
    stored = Path(target) / STORED if (Path(target) / MANIFEST_FILE).is_file() else None
    files = _files(out, stored, errors)
    result = _Judge(request, target, console, errors).result()
    if as_json:
        console.print_json(json.dumps(result))
    else:
        print_result(result, console)
    for file in files:
        content = with_stored(result, file) if file is stored else result
        write_text(file, json.dumps(content, indent=2) + "\n")
    return result


def _files(out: Path | None, stored: Path | None, errors: Console) -> list[Path]:
    """Where the result goes; a set that can't be written to does without, if ``out`` is given.

    Raises:
        UserError: If ``out`` is another verb's file.
        WriteError: If a file can't be written.
    """
    if out is not None:
        check_replaceable(out, is_result)
        make_room(out)
        if stored is not None and out.resolve() == stored.resolve():
            return [stored]
    try:
        if stored is not None:
            make_room(stored, remedy="add --out FILE")
    except WriteError:
        if out is None:
            raise
        errors.print(f"{stored} cannot be written; the result goes to {out} alone")
        stored = None
    return [file for file in (out, stored) if file is not None]


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
        self.found = resolved_networks(request, target)
        self.names = [target] if request.against is None else [target, request.against]
        self.sources = [open_set(name, request.limit, request.seed or 0) for name in self.names]
        self.parts: list[dict[str, Any]] = [
            {"data": name, "images": len(source), "classes": len(set(source.labels.tolist()))}
            for name, source in zip(self.names, self.sources, strict=True)
        ]
        if request.against is not None and (request.lpips or request.features):
            check_reference(request.against, self.sources[1])
        opened = [found for role in NETWORKS if (found := self.found[role]) is not None]
        self.networks = {found.role: opened_network(found, self.sources[0]) for found in opened}
        self.embedding = self._opened_lpips()
        self.probe = self._opened_probe(target)

    def result(self) -> dict[str, Any]:
        """All measures by name; those of the reference are under ``reference``."""
        request, common = self.request, dict[str, Any]()
        if self.embedding is not None:
            common |= self._lpips(self.embedding)
        if "features" in self.networks:
            common |= self._features()
        if "verifier" in self.networks:
            network = self._network("verifier")
            with self._progress("verifier", len(self.sources[0])) as advance:
                judged = verdict(self.sources[0], network, advance)
            common["verifier"] = {"network": request.verifier, **judged}
        if self.probe is not None:
            common |= self._probed(self.probe)
        how = {"limit": request.limit, "seed": request.seed or 0, "commit": commit()}
        result = taken_with(self.parts[0] | common, how)
        if request.against is not None:
            result["reference"] = taken_with(self.parts[1], how)
        packages = {name: importlib.metadata.version(name) for name in ("lpips", "torchmetrics")}
        further = {"unreadable": self.bad_images.found, "versions": versions() | packages}
        return result | how | further

    def _lpips(self, embedding: LpipsEmbedding) -> dict[str, Any]:
        request, net = self.request, embedding.net
        with self._progress("sizes", len(self.sources[0])) as advance:
            size, words = choose_size(self.sources[0], request.img_size, advance)
        sets = [ImageSet(source, size, self.bad_images) for source in self.sources]
        how = {"net": net, "img_size": size, "images_are": words}
        for part, images in zip(self.parts, sets, strict=True):
            with self._progress(f"LPIPS of {part['data']}", len(images.source)) as advance:
                found = lpips_diversity(images, embedding, request.images_a_pass, advance)
            part["lpips"] = how | found.as_dict()
        if request.against is None or request.features is not None:
            return {}
        return {"nearness": {"network": f"LPIPS {net}"} | self._near_in_lpips(sets, embedding)}

    def _near_in_lpips(self, sets: list[ImageSet], embedding: LpipsEmbedding) -> dict[str, Any]:
        found = []
        for images in sets:
            with self._progress("features", len(images.source)) as advance:
                found.append(lpips_features(images, embedding, self.request.images_a_pass, advance))
        return nearness(*found)

    def _features(self) -> dict[str, Any]:
        network = self._network("features")
        embeddings = []
        for part, source in zip(self.parts, self.sources, strict=True):
            with self._progress(f"features of {part['data']}", len(source)) as advance:
                features = network_features(source, network, advance)
            spread = feature_diversity(features, source.classes.names)
            part["features"] = {"network": network.trained.name} | spread.as_dict()
            embeddings.append(features.embedding)
        if self.request.against is None:
            return {}
        return {"nearness": {"network": network.trained.name} | nearness(*embeddings)}

    def _network(self, role: str) -> Network:
        """An opened network on the device, which is the caller's from then on."""
        trained = self.networks.pop(role)
        trained.network.to(self.accelerator.device)
        return Network(
            trained,
            self.accelerator,
            self.request.images_a_pass,
            self.bad_images,
        )

    def _opened_lpips(self) -> LpipsEmbedding | None:
        request = self.request
        if not request.lpips:
            return None
        net = cast(LpipsNet, request.lpips_net or "alex")
        return load_lpips(net, request.lpips_weights).to(self.accelerator.device)

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
        self.errors.print(probe.forecast)
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
            task = progress.add_task(escape(what), total=images)

            def advance(count: int) -> None:
                progress.advance(task, count)
                state = progress.tasks[0]
                if state.total is not None and state.completed > state.total:
                    progress.update(task, total=state.total + images)

            yield advance
