"""Files of strangers, changed at random: each is read, or refused in one line, and nothing else.

No traceback, no hang, and nothing written outside of the folder. A short form runs by default;
``FUZZ=5000 pytest tests/fuzz`` tries so many cases of each test.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from commands import invoke
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file

from dearkd.config import load_config
from dearkd.config_file import complete, user_tree
from dearkd.data.datasets import open_data
from dearkd.data.decode import BadImageError
from dearkd.data.synthetic_set import read_set
from dearkd.errors import UserError
from dearkd.labels.folder import read_manifest
from dearkd.measures.stored import is_result
from dearkd.report.collect import collect
from dearkd.report.report import html
from dearkd.rounds.folder import newest_unfinished_rounds
from dearkd.run_folder.files import load_checkpoint, load_weights, read_metadata
from dearkd.run_folder.folder import RunFolder
from dearkd.run_folder.record import is_record, read_record
from dearkd.sweep.study import read_study
from dearkd.synthesis.settings import SynthesizeConfig
from dearkd.trained.open import open_trained
from dearkd.trained.resolve import resolve
from dearkd.verify.verify import verify
from synth.refusal import SynthError
from synth.writer import Writer

RECORDS = Path(__file__).parents[2] / "scripts" / "results" / "studies"
DEEP = 20_000
"""Lists in lists: no parser reads so many."""
CASES = int(os.environ.get("FUZZ", "25"))
SECONDS = 20
"""That a case may take: a hang, for what takes milliseconds."""
often = settings(
    max_examples=CASES,
    deadline=1000 * SECONDS,
    suppress_health_check=list(HealthCheck),
    derandomize=CASES <= 100,
    print_blob=True,
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../../x", "/etc/passwd", "a/../b", "~", "digits", "x" * 300, "\0", "[", "{"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)

NAMED = st.characters(codec="utf-8", exclude_characters="/\0")
"""What a file's name may hold."""


def or_refused(call):
    """Whether the call was answered; what it may raise is what the command shows in one line."""
    try:
        call()
    except (UserError, SynthError):
        return False
    return True


def places(tree, path=()):
    """Every place in a tree of mappings and lists, the root left out."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@st.composite
def changes(draw, tree):
    """The tree with one to three of its values replaced, or taken out."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(tree))
        if not known:
            break
        *path, key = known[draw(st.integers(0, len(known) - 1))]
        owner = tree
        for step in path:
            owner = owner[step]
        if draw(st.booleans()):
            owner[key] = draw(VALUES)
        else:
            del owner[key]
    return tree


@st.composite
def damage(draw, content):
    """The bytes cut, or with some of them changed or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "cut", "put"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[place:]
            case "put":
                content[place:place] = draw(st.binary(min_size=1, max_size=9))
    return bytes(content)


def surroundings(folder):
    """All that lies beside the folder and above."""
    return sorted(entry.name for entry in folder.parent.iterdir())


@pytest.fixture(scope="module")
def world(toy_teacher, tmp_path_factory):
    """A finished run and a finished set, and an empty page to work on."""
    root = tmp_path_factory.mktemp("strangers")
    line = ["--res", 16, "--iters", 1, "--per-class", 2, "--set", "compile=never"]
    result = invoke("synthesize", "--teacher", toy_teacher, *line, "--out", root / "set")
    assert result.exit_code == 0, result.output
    shutil.copytree(toy_teacher, root / "run")
    (root / "work").mkdir()
    return root


@often
@given(data=st.data())
def test_configurations(world, data):
    file = world / "work" / "config.yaml"
    tree = data.draw(changes(yaml.safe_load((world / "run" / "config.yaml").read_text())))
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    or_refused(lambda: load_config(file))


@often
@given(data=st.data())
def test_configurations_of_any_bytes(world, data):
    file = world / "work" / "bytes.yaml"
    file.write_bytes(data.draw(damage((world / "run" / "config.yaml").read_bytes())))
    or_refused(lambda: load_config(file))
    or_refused(lambda: read_study(file))


@often
@given(data=st.data())
def test_configurations_of_synthesis_and_studies(world, data):
    file = world / "work" / "synth.yaml"
    tree = yaml.safe_load((world / "set" / "synthesize.yaml").read_text())
    file.write_text(yaml.safe_dump(data.draw(changes(tree))), encoding="utf-8")
    or_refused(lambda: complete(SynthesizeConfig, user_tree(SynthesizeConfig, file, (), None)))
    study = {"seeds": [0, 1], "arms": {"a": {"method": "ce"}, "b": {"stage1": 3}}}
    study |= {
        "settings": {"data": {"train": "digits"}},
        "compare": {"b": ["a"]},
        "fractions": [0.5],
    }
    file.write_text(yaml.safe_dump(data.draw(changes(study))), encoding="utf-8")
    or_refused(lambda: read_study(file))


@often
@given(data=st.data())
def test_manifests(world, data):
    folder = world / "set"
    whole = (folder / "manifest.json").read_text()
    before = surroundings(folder)
    try:
        (folder / "manifest.json").write_text(json.dumps(data.draw(changes(json.loads(whole)))))
        found = read_set(folder)
        assert found is not None
        assert all(image.file.resolve().is_relative_to(folder.resolve()) for image in found.images)
        or_refused(found.classes)
        or_refused(lambda: open_data(str(folder)))
        html(collect([folder]), None)
        or_refused(lambda: verify(folder, console=Console(quiet=True), evaluates=False))
    finally:
        (folder / "manifest.json").write_text(whole)
    assert surroundings(folder) == before


@often
@given(data=st.data())
def test_run_folders(world, data):
    folder = world / "run"
    name = data.draw(st.sampled_from(["summary.json", "config.yaml", "metrics.jsonl"]))
    whole = (folder / name).read_text()
    before = surroundings(folder)
    try:
        if name == "metrics.jsonl":
            lines = [json.loads(line) for line in whole.splitlines()]
            text = "\n".join(map(json.dumps, data.draw(changes(lines))))
        elif name == "summary.json":
            text = json.dumps(data.draw(changes(json.loads(whole))))
        else:
            text = yaml.safe_dump(data.draw(changes(yaml.safe_load(whole))))
        (folder / name).write_text(text)
        html(collect([folder]), None)
        or_refused(lambda: resolve(str(folder), "run"))
        or_refused(lambda: verify(folder, console=Console(quiet=True), evaluates=False))
    finally:
        (folder / name).write_text(whole)
    assert surroundings(folder) == before


@often
@given(data=st.data())
def test_checkpoints(world, data):
    file = world / "work" / "last.pt"
    file.write_bytes(data.draw(damage((world / "run" / "checkpoint" / "last.pt").read_bytes())))
    or_refused(lambda: load_checkpoint(file))


@often
@given(data=st.data())
def test_models(world, data):
    file, folder = world / "work" / "model.safetensors", world / "run"
    whole = (folder / "model.safetensors").read_bytes()
    file.write_bytes(data.draw(damage(whole)))
    or_refused(lambda: load_weights(file))
    or_refused(lambda: read_metadata(file))
    try:
        shutil.copy(file, folder / "model.safetensors")
        or_refused(lambda: open_trained(resolve(str(folder), "run")))
    finally:
        (folder / "model.safetensors").write_bytes(whole)


@often
@given(data=st.data())
def test_images(world, data):
    folder = world / "work" / "images"
    shutil.rmtree(folder, ignore_errors=True)
    picture = next((world / "set").glob("*/*.png")).read_bytes()
    for number in range(data.draw(st.integers(0, 3))):
        name = data.draw(
            st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=9)
        )
        if name in (".", ".."):
            continue
        ending = data.draw(st.sampled_from([".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ""]))
        (folder / f"c{name}").mkdir(parents=True, exist_ok=True)
        (folder / f"c{name}" / f"{number}{name}{ending}").write_bytes(data.draw(damage(picture)))
    folder.mkdir(parents=True, exist_ok=True)

    def read():
        source = open_data(str(folder))[0]
        for index in range(len(source)):
            try:
                source.image(index)
            except BadImageError as error:
                assert "\n" not in str(error)

    or_refused(read)


@often
@given(data=st.data())
def test_records(world, data):
    file = world / "work" / "record.json"
    whole = json.loads((RECORDS / "precision.json").read_text())
    whole["runs"] = whole["runs"][:2]
    file.write_text(json.dumps(data.draw(changes(whole))))
    or_refused(lambda: read_record(file))
    or_refused(lambda: html(collect([file]), None))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_nested_deeper_than_it_can_be_read(tmp_path, opening):
    for name in ("manifest.json", "summary.json", "metrics.jsonl", "manifest", "record.json"):
        (tmp_path / name).write_text(opening * DEEP, encoding="utf-8")
    assert "too deeply" in read_set(tmp_path).damage
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + 5000 * "1")  # more digits than Python reads
    assert RunFolder(tmp_path).read_metrics() == []
    assert not is_record(tmp_path / "record.json")
    assert not is_result(tmp_path / "record.json")
    for call in (RunFolder(tmp_path).sound_summary, lambda: read_record(tmp_path / "record.json")):
        with pytest.raises(UserError, match="too deeply"):
            call()


def test_metadata_of_labels_and_weights_nested_too_deeply(tmp_path):
    (tmp_path / "labels.json").write_text("[" * DEEP, encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(tmp_path)
    save_file({}, tmp_path / "model.safetensors", metadata={"dearkd": "[" * DEEP})
    with pytest.raises(UserError, match="too deeply"):
        read_metadata(tmp_path / "model.safetensors")


def test_settings_of_a_set_nested_too_deeply(tmp_path):
    (tmp_path / "settings.json").write_text("[" * DEEP, encoding="utf-8")
    with pytest.raises(SynthError, match="too deeply"):
        Writer(tmp_path, [], "png").settings()


@pytest.mark.parametrize("given", ["file", "typed"])
def test_configurations_nested_too_deeply(tmp_path, given):
    deep, file = "[" * DEEP + "]" * DEEP, tmp_path / "deep.yaml"
    file.write_text(f"student: {deep}", encoding="utf-8")
    with pytest.raises(UserError, match="nested too deeply"):
        load_config(*((file,) if given == "file" else (None, [f"student={deep}"])))


def test_configurations_of_sets_and_rounds_nested_too_deeply(tmp_path):
    """They are passed over where a reader only looks for something in them."""
    (tmp_path / "a").mkdir()
    for name in ("a/synthesize.yaml", "a/distill.yaml"):
        (tmp_path / name).write_text("teacher: " + "[" * DEEP, encoding="utf-8")
    assert read_set(tmp_path / "a").teacher is None
    assert newest_unfinished_rounds(tmp_path) == tmp_path / "a"
