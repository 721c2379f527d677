"""The published studies of CIFAR-10 are planned as they are, on data of their sizes."""

import importlib.util
import io
import random
from itertools import product

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_results import ROOT

from dearkd.sweep.plan import plan
from dearkd.sweep.study import read_study

SCRIPT = importlib.util.spec_from_file_location("sets", ROOT / "scripts" / "cifar10_sets.py")
cifar10_sets = importlib.util.module_from_spec(SCRIPT)
SCRIPT.loader.exec_module(cifar10_sets)
WHOLE, VALIDATION = 50_000, 5_000
REFERENCES = {
    "real-all": WHOLE - VALIDATION,
    "validation": VALIDATION,
    "real": cifar10_sets.IMAGES,
    "noise": cifar10_sets.IMAGES,
    "pictures": cifar10_sets.IMAGES,
}
OF_SETS = sorted((ROOT / "configs" / "studies").glob("cifar10_*.yaml"))
OF_CIFAR10 = [
    *sorted((ROOT / "configs" / "studies").glob("few_images*.yaml")),
    *(ROOT / "configs" / "studies" / f"{name}.yaml" for name in ("data_efficiency", "own_teacher")),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what the studies name: one image each, as often as the real one has images."""
    root = tmp_path_factory.mktemp("world")
    (root / "scripts").symlink_to(ROOT / "scripts")
    sets = root / "runs" / "cifar10-sets"
    for number, (name, count) in enumerate(REFERENCES.items()):
        write(sets / f"{name}.parquet", count, number, labelled=name not in ("noise", "pictures"))
    for number, (name, (_, count, _, _)) in enumerate(cifar10_sets.SETS.items()):
        write(sets / name / "images.parquet", count, 10 + number)
    write(root / "cifar10" / "train.parquet", WHOLE, 50)
    return root


def write(file, count, number, labelled=True):
    noise = random.Random(number).randbytes(50 * number)  # sets are told apart by their size
    buffer = io.BytesIO()
    Image.frombytes("RGB", (32, 32), noise.ljust(3 * 32**2, b"\0")).save(buffer, "png")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array([{"bytes": buffer.getvalue(), "path": None}] * count, kind)}
    if labelled:
        columns["label"] = pa.array([row % 10 for row in range(count)], pa.int64())
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


@pytest.mark.parametrize("file", [*OF_SETS, *OF_CIFAR10], ids=lambda file: file.stem)
def test_every_run_of_it_is_planned(file, world, monkeypatch):
    monkeypatch.chdir(world)
    options = {} if file in OF_SETS else {"data.train": "cifar10"}
    study = read_study(file, (), options)
    runs = plan(study)  # refuses arms that are the same, or differ in what should be equal
    fractions = study.described().fractions
    assert {run.key for run in runs} == set(
        product(study.config.arms, fractions, study.config.seeds)
    )


def test_there_are_such_studies():
    assert len(OF_SETS) >= 4
    assert len(OF_CIFAR10) >= 8
