import copy
import functools
import hashlib
import itertools
import json
import shutil

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from toy_nets import ToyNet, classifier, random_net, trained_net

from dearkd.data.class_matching import match_classes
from dearkd.data.datasets import open_data
from synth.generator_settings import GeneratorConfig
from synth.groups import Group, plan_groups
from synth.image_files import pixel_hash, read_image
from synth.kernels import LONG_RUN, choose_kernels
from synth.manifest import group_part
from synth.natural import LOOK
from synth.objective import Objective
from synth.objective_settings import ObjectiveConfig
from synth.quality import mean_pairwise_distance
from synth.refusal import SynthError
from synth.settings import SynthesisConfig
from synth.synthesis import Finished, GroupDone, Prepared, Progress, synthesize

WEIGHTS = ObjectiveConfig(ep_weight=1.0, bn_weight=0.1)
SKETCH = GeneratorConfig(latent_dim=8, width=4, warmup_batches=1)


def config(**kwargs):
    settings = {
        "resolutions": (8, 16),
        "iterations": (3, 4),
        "per_class": 6,
        "images_per_class": 2,
        "classes_per_group": 4,
        "objective": WEIGHTS,
        "precision": "fp32",
        "layout": "contiguous",
        "log_interval": 2,
    }
    return SynthesisConfig(**(settings | kwargs))


def hashes(out):
    """Bytes of every image, by name."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("*/*.png"))
    }


@pytest.fixture(scope="module")
def teacher():
    return classifier(random_net(), "teacher", class_names=("cat", "dog", "eel", "fox"))


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """An uninterrupted run of one process: three groups of eight images."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, list(
        synthesize(config(), teacher, out, verifier=classifier(random_net(5), "second"))
    )


def test_images_of_a_trained_network_become_their_targets(tmp_path):
    teacher = classifier(trained_net(0), "trained")
    verifier = classifier(trained_net(1), "verifier")
    settings = config(per_class=4, resolutions=(16,), iterations=(80,), images_per_class=4)
    list(synthesize(settings, teacher, tmp_path / "run", verifier=verifier))
    quality = json.loads((tmp_path / "run/manifest.json").read_text())["quality"]
    assert quality["teacher"]["recognition"]["overall"] == 1.0
    assert quality["verifier"]["recognition"]["overall"] >= 0.75  # 0.25 is chance


def test_events_tell_what_happens(whole):
    out, events = whole
    prepared, *middle, finished = events
    assert isinstance(prepared, Prepared)
    assert (prepared.images, prepared.images_here, prepared.iterations_here) == (24, 24, 21)
    assert prepared.bn_weight == 0.1
    progress = [event.iterations_done for event in middle if isinstance(event, Progress)]
    assert progress == [2, 3, 5, 7, 9, 10, 12, 14, 16, 17, 19, 21]
    assert [event.group for event in middle if isinstance(event, GroupDone)] == [0, 1, 2]
    assert finished == Finished(manifest=out / "manifest.json")


def test_of_the_steps_of_a_batch_no_images_are_kept(teacher, tmp_path, monkeypatch):
    sizes = []

    def recorded(*args):
        sizes.extend(step.images.untyped_storage().nbytes() for step in args[3])
        return group_part(*args)

    monkeypatch.setattr("synth.synthesis.group_part", recorded)
    list(synthesize(config(per_class=2), teacher, tmp_path / "run"))
    assert len(sizes) == 4 and not any(sizes)


def test_the_manifest_says_what_is_on_disk(whole, teacher):
    out, _ = whole
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["teacher"]["weights_sha256"] == teacher.weights_hash()
    names = ["cat", "dog", "eel", "fox"]
    assert manifest["classes"] == {"names": names, "indices": [0, 1, 2, 3], "total": 4}
    assert manifest["kernels"]["threads"] == torch.get_num_threads()
    assert {record["file"] for record in manifest["images"]} == set(hashes(out))
    for record in manifest["images"]:
        pixels = read_image(out / record["file"])
        probabilities, _ = teacher.judge(pixels[None])
        target = record["target"]
        assert record["file"].split("/")[0] == teacher.class_names[target]
        assert record["sha256"] == pixel_hash(pixels)
        assert record["teacher"]["confidence"] == pytest.approx(
            probabilities[0, target].item(), rel=1e-4
        )
        assert record["verifier"]["prediction"] in range(4)
        assert set(record["terms"]) == {"cross_entropy", "total_variation", "l2"}
    for role in ("teacher", "verifier"):
        diversity = manifest["quality"][role]["diversity"]
        assert set(diversity["per_class"]) == {"0", "1", "2", "3"}
        assert 0 < diversity["overall"] < 2
    cats = torch.stack([read_image(path) for path in sorted(out.glob("cat/*.png"))])
    expected = mean_pairwise_distance(teacher.judge(cats)[1])
    per_class = manifest["quality"]["teacher"]["diversity"]["per_class"]
    assert per_class["0"] == pytest.approx(expected, rel=1e-4)
    assert [group["group"] for group in manifest["groups"]] == [0, 1, 2]
    names = {"easy_positive", "triplet", "bn_statistics", "objective"}
    assert names < set(manifest["groups"][0]["terms"])
    curves = json.loads((out / "loss_curves.json").read_text())["groups"]
    assert [entry["iteration"] for entry in curves["2"]] == [2, 3, 2, 4]
    for name in ("contact_sheet.png", "preview.png"):
        with Image.open(out / name) as picture:
            picture.verify()
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_run_goes_on_with_the_first_unfinished_group(whole, teacher, tmp_path, after):
    out, _ = whole
    target = tmp_path / "run"
    verifier = classifier(random_net(5), "second")
    run = synthesize(config(), teacher, target, verifier=verifier)
    for event in run:
        if isinstance(event, GroupDone) and event.group == after - 1:
            break
    run.close()
    before = {path: path.stat().st_mtime_ns for path in target.glob("*/*.png")}
    # as a kill in the middle of the next group's files would leave it
    half = target / f"cat/{after:06d}_000.png"
    half.with_name(f".{half.name}.x1.tmp").write_bytes(b"half")
    written = target / f"cat/{after:06d}_001.png"
    written.write_bytes((out / f"cat/{after:06d}_001.png").read_bytes())
    events = list(synthesize(config(), teacher, target, verifier=verifier, resume=True))
    assert events[0].images_here == 8 * (3 - after)
    assert hashes(target) == hashes(out)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert not list(target.rglob("*.tmp"))
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (out, target)]
    for manifest in manifests:
        for group in manifest["groups"]:
            del group["seconds"]
    assert manifests[0] == manifests[1]


def test_two_processes_make_the_images_of_one(whole, teacher, tmp_path):
    out, _ = whole
    target = tmp_path / "run"
    ends = []
    for rank in range(2):
        *_, end = synthesize(config(), teacher, target, rank=rank, world=2)
        ends.append(end.manifest)
    assert ends == [None, target / "manifest.json"]
    assert hashes(target) == hashes(out)


def test_a_resumed_finished_run_does_nothing(whole, teacher):
    out, _ = whole
    before = hashes(out)
    verifier = classifier(random_net(5), "second")
    events = list(synthesize(config(), teacher, out, verifier=verifier, resume=True))
    assert [type(event) for event in events] == [Prepared, Finished]
    assert events[0].iterations_here == 0 and hashes(out) == before


def test_a_run_from_before_a_setting_goes_on_with_that_settings_default(whole, teacher, tmp_path):
    out = tmp_path / "old"
    shutil.copytree(whole[0], out)
    settings = json.loads((out / "settings.json").read_text())
    del settings["config"]["smallest_crop"], settings["config"]["objective"]["bn_relative"]
    (out / "settings.json").write_text(json.dumps(settings))
    verifier = classifier(random_net(5), "second")
    list(synthesize(config(), teacher, out, verifier=verifier, resume=True))
    with pytest.raises(ValueError, match=r"was made with config.smallest_crop=1.0, got 0.5"):
        list(synthesize(config(smallest_crop=0.5), teacher, out, verifier=verifier, resume=True))


def test_a_set_that_was_judged_by_a_verifier_does_not_go_on_without_it(whole, teacher, tmp_path):
    out = tmp_path / "judged"
    shutil.copytree(whole[0], out)
    with pytest.raises(SynthError, match=r"was made with verifier=second, got None; resume with"):
        list(synthesize(config(), teacher, out, resume=True))
    other = classifier(random_net(6), "second")
    with pytest.raises(SynthError, match=r"was made with verifier.weights_sha256="):
        list(synthesize(config(), teacher, out, verifier=other, resume=True))


def test_a_set_whose_images_began_to_look_otherwise_does_not_go_on(teacher, tmp_path):
    settings = config(basis="spectrum")
    list(synthesize(settings, teacher, tmp_path / "set"))
    file = tmp_path / "set/settings.json"
    content = json.loads(file.read_text())
    assert content.pop("look") == LOOK
    file.write_text(json.dumps(content))
    told = rf"was made with look=None, got {LOOK}; .* begin otherwise since; name another folder"
    with pytest.raises(ValueError, match=told):
        list(synthesize(settings, teacher, tmp_path / "set", resume=True))


@pytest.mark.parametrize("basis", ["pixels", "spectrum"])
def test_batches_of_groups_resume_without_rewriting(teacher, tmp_path, basis):
    settings = config(groups_per_batch=2, basis=basis)
    for name in ("whole", "killed"):
        run = synthesize(settings, teacher, tmp_path / name)
        for event in run:
            if name == "killed" and isinstance(event, GroupDone):
                break
        run.close()
    first = tmp_path / "killed/cat/000000_000.png"
    stamp = first.stat().st_mtime_ns
    list(synthesize(settings, teacher, tmp_path / "killed", resume=True))
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    assert first.stat().st_mtime_ns == stamp


def test_networks_threads_and_random_state_are_left_as_they_are(teacher, tmp_path):
    network = teacher.network
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    list(synthesize(config(per_class=2), teacher, tmp_path / "run"))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_threads_of_a_run_are_kept_on_resume(teacher, tmp_path):
    out, settings = tmp_path / "run", config(per_class=4)
    run = synthesize(settings, teacher, out)
    for event in run:
        if isinstance(event, GroupDone):
            break
    run.close()
    standing = json.loads((out / "settings.json").read_text())
    standing["kernels"]["threads"] = 2
    (out / "settings.json").write_text(json.dumps(standing))
    run = synthesize(settings, teacher, out, resume=True)
    threads = torch.get_num_threads()
    assert next(run).kernels.threads == 2 and torch.get_num_threads() == 2
    run.close()
    assert torch.get_num_threads() == threads


def test_auto_weights_are_stored(teacher, tmp_path):
    weights = ObjectiveConfig(bn_weight=1e-4, ep_weight=1.0, auto_weights=True, auto_iterations=3)
    settings = config(objective=weights, per_class=2)
    prepared, *_ = synthesize(settings, teacher, tmp_path / "run")
    stored = json.loads((tmp_path / "run/manifest.json").read_text())
    assert stored["bn_weight"] == prepared.bn_weight > 1e-3
    assert stored["config"]["objective"]["bn_weight"] == 1e-4


def stopwatch_prefers(monkeypatch, precision, channels_last=False):
    """What the stopwatch shows, as a busy or an idle machine would have it."""

    def seconds(objective, batch, images):
        seen = "bf16" if objective.dtype == torch.bfloat16 else "fp32"
        layout = objective.memory_format == torch.channels_last
        return 1.0 if (seen, layout) == (precision, channels_last) else 2.0

    monkeypatch.setattr("synth.kernels._seconds", seconds)


BATCH = (Group(id=0, targets=(0, 0, 1, 1)),)


def test_two_fresh_runs_are_equal_whatever_a_stopwatch_says(teacher, tmp_path, monkeypatch):
    settings = config(per_class=2, precision="auto", layout="auto")
    for name, precision in (("idle", "fp32"), ("busy", "bf16")):
        stopwatch_prefers(monkeypatch, precision)
        list(synthesize(settings, teacher, tmp_path / name))
    assert hashes(tmp_path / "idle") == hashes(tmp_path / "busy")
    kernels = [
        json.loads((tmp_path / name / "settings.json").read_text())["kernels"]
        for name in ("idle", "busy")
    ]
    assert kernels[0] == kernels[1] and "channels_last: no grouped" in kernels[0]["reason"]


def test_what_is_set_is_taken(teacher):
    settings = config(precision="bf16", layout="channels_last", compile="never")
    fixed = choose_kernels(settings, teacher, (BATCH,), torch.device("cpu"))
    assert (fixed.precision, fixed.channels_last, fixed.compile) == ("bf16", True, False)
    assert fixed.reason == "" and fixed.threads == torch.get_num_threads()


def test_a_run_from_before_reasons_were_stored_goes_on(whole, teacher, tmp_path):
    out = tmp_path / "old"
    shutil.copytree(whole[0], out)
    settings = json.loads((out / "settings.json").read_text())
    del settings["kernels"]["reason"]
    (out / "settings.json").write_text(json.dumps(settings))
    next(out.glob("*/000001_*.png")).unlink()
    verifier = classifier(random_net(5), "second")
    prepared, *_ = synthesize(config(), teacher, out, verifier=verifier, resume=True)
    assert prepared.kernels.reason == "" and hashes(out) == hashes(whole[0])


@pytest.mark.parametrize("fastest", list(itertools.product(("fp32", "bf16"), (True, False))))
def test_the_fastest_kernels_are_taken_where_asked_for(teacher, monkeypatch, fastest):
    stopwatch_prefers(monkeypatch, *fastest)
    settings = config(precision="fastest", layout="fastest")
    chosen = choose_kernels(settings, teacher, (BATCH,), torch.device("cpu"))
    assert (chosen.precision, chosen.channels_last) == fastest
    assert "precision and layout: the fastest here" in chosen.reason


def test_the_stopwatch_compiles_a_long_run_where_that_is_faster(teacher, monkeypatch):
    settings = config(precision="fastest", compile="fastest")

    def chosen(compiled, batches):
        def seconds(objective, batch, images):
            return compiled if objective._graph != objective._terms else 2.0

        monkeypatch.setattr("synth.kernels._seconds", seconds)
        return choose_kernels(settings, teacher, (BATCH,) * batches, torch.device("cpu"))

    long = int(LONG_RUN)
    assert chosen(1.0, long).compile and not chosen(1.0, 1).compile
    assert not chosen(3.0, long).compile


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at the canvas's views
def test_batches_of_many_sizes_are_compiled(teacher, tmp_path, monkeypatch):
    eager = functools.partial(torch.compile, backend="eager")  # the graphs, without their minutes
    monkeypatch.setattr(torch, "compile", eager)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks make no graph
    settings = {"per_class": 7, "images_per_class": 3, "classes_per_group": 3}
    sizes = {len(group.targets) for group in plan_groups(config(**settings), 4)}
    assert 2 * len(sizes) > 2  # stages times sizes: more graphs than torch allows by itself
    with torch._dynamo.config.patch(recompile_limit=2):
        for name in ("always", "never"):
            list(synthesize(config(**settings, compile=name), teacher, tmp_path / name))
    ours, plain = (
        json.loads((tmp_path / name / "manifest.json").read_text())["groups"]
        for name in ("always", "never")
    )
    for left, right in zip(ours, plain, strict=True):
        assert left["terms"] == pytest.approx(right["terms"], rel=1e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at the canvas's views
def test_the_step_is_compiled_once_a_resolution(teacher, tmp_path, monkeypatch):
    eager = functools.partial(torch.compile, backend="eager")  # the graphs, without their minutes
    monkeypatch.setattr(torch, "compile", eager)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks make no graph
    counters = torch._dynamo.utils.counters
    counters.clear()
    weights = ObjectiveConfig(ep_weight=1.0, bn_weight=0.1, ep_warmup_iterations=2)
    settings = config(iterations=(6, 7), compile="always", smallest_crop=0.5, objective=weights)
    assert len(plan_groups(settings, 4)) == 3
    list(synthesize(settings, teacher, tmp_path / "run"))
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"] and not counters["recompile_limit"]


@pytest.mark.parametrize(
    ("device", "settings", "replays"),
    [
        ("cuda", {"compile": "always"}, True),
        ("cuda", {"compile": "always", "cuda_graphs": False}, False),
        ("cuda", {"compile": "never"}, False),
        ("cpu", {"compile": "always"}, False),
    ],
)
def test_compiled_steps_are_replayed_where_there_is_cuda(teacher, device, settings, replays):
    chosen = choose_kernels(config(**settings), teacher, (BATCH,), torch.device(device))
    assert chosen.cuda_graphs is replays


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:.*torch.jit.* is deprecated")
def test_replayed_steps_make_the_images_of_launched_ones(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for name, graphs in (("replayed", True), ("launched", False)):
        settings = config(compile="always", cuda_graphs=graphs, iterations=(12, 12))
        list(synthesize(settings, teacher, tmp_path / name, device="cuda"))
    ours, plain = (
        json.loads((tmp_path / name / "manifest.json").read_text())["groups"]
        for name in ("replayed", "launched")
    )
    for left, right in zip(ours, plain, strict=True):
        assert left["terms"] == pytest.approx(right["terms"], rel=1e-3)


def test_a_competing_student_takes_part(teacher, tmp_path):
    student = classifier(random_net(9), "student")
    for name, weight in (("with", 0.2), ("without", 0.0)):
        settings = config(
            objective=ObjectiveConfig(ep_weight=1.0, compete_weight=weight), per_class=2
        )
        rival = student if weight else None
        list(synthesize(settings, teacher, tmp_path / name, student=rival))
    manifest = json.loads((tmp_path / "with/manifest.json").read_text())
    assert manifest["student"]["name"] == "student"
    assert hashes(tmp_path / "with").keys() == hashes(tmp_path / "without").keys()
    assert hashes(tmp_path / "with") != hashes(tmp_path / "without")
    # R_c is 1 - JS, and two different networks are not wholly of one mind.
    assert 0 < manifest["groups"][0]["terms"]["competition"] < 1 - 1e-4


@pytest.mark.parametrize("engine", ["inversion", "generator"])
def test_further_teachers_take_part_and_are_in_the_manifest(teacher, tmp_path, engine):
    second = classifier(random_net(9), "second", mean=(0.5,) * 3, std=(0.5,) * 3, img_size=32)
    part = SKETCH if engine == "generator" else GeneratorConfig()
    settings = config(
        engine=engine, generator=part, resolutions=(16,), iterations=(3,), per_class=4
    )
    for name, others in (("with", (second,)), ("without", ())):
        list(synthesize(settings, teacher, tmp_path / name, others=others))
    manifest = json.loads((tmp_path / "with/manifest.json").read_text())
    assert manifest["teacher"]["name"] == "teacher"
    (other,) = manifest["other_teachers"]
    assert (other["name"], other["weights_sha256"]) == ("second", second.weights_hash())
    assert hashes(tmp_path / "with").keys() == hashes(tmp_path / "without").keys()
    assert hashes(tmp_path / "with") != hashes(tmp_path / "without")
    with pytest.raises(ValueError, match="was made with other_teachers="):
        list(synthesize(settings, teacher, tmp_path / "with", resume=True))


def test_a_killed_chain_of_two_teachers_goes_on(teacher, tmp_path):
    others = (classifier(random_net(9), "second"),)
    settings = config(engine="generator", generator=SKETCH, resolutions=(16,), iterations=(3,))
    for name in ("whole", "killed"):
        run = synthesize(settings, teacher, tmp_path / name, others=others)
        for event in run:
            if name == "killed" and isinstance(event, GroupDone) and event.group == 1:
                break
        run.close()
    list(synthesize(settings, teacher, tmp_path / "killed", others=others, resume=True))
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_what_was_damaged_is_named(whole, teacher, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    part, image = out / ".parts/group_000001.json", next(out.glob("*/000001_*.png"))
    second = classifier(random_net(5), "second")

    def resumed():
        list(synthesize(config(), teacher, out, verifier=second, resume=True))

    for file in (part, image):
        before = file.read_bytes()
        file.write_bytes(before[: len(before) // 2])
        with pytest.raises(ValueError, match=f"{file} is damaged .* delete it and resume"):
            resumed()
        file.unlink()
        resumed()
    assert hashes(out) == hashes(whole[0])


@pytest.mark.parametrize("image_format", ["png", "parquet"])
def test_all_that_was_damaged_is_named_at_once(teacher, tmp_path, image_format):
    run, out = config(image_format=image_format), tmp_path / "run"
    list(synthesize(run, teacher, out))
    before = json.loads((out / "manifest.json").read_text())["images"]
    kind = "data/*.parquet" if image_format == "parquet" else "*/*_000.png"
    broken = [*sorted(out.glob(kind))[:2], out / ".parts/group_000001.json"]
    for file in broken:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"3 files are damaged .* made again") as caught:
        list(synthesize(run, teacher, out, resume=True))
    for file in broken:
        assert str(file) in str(caught.value)
        file.unlink()
    list(synthesize(run, teacher, out, resume=True))
    assert json.loads((out / "manifest.json").read_text())["images"] == before


@pytest.mark.parametrize(("mode", "side"), [("RGB", 20), ("L", 16), ("P", 16)])
def test_an_image_of_another_shape_is_damaged(whole, teacher, tmp_path, mode, side):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    changed = sorted(out.glob("*/000000_000.png"))[0]  # the first of its group
    Image.new(mode, (side, side)).save(changed)
    second = classifier(random_net(5), "second")
    with pytest.raises(ValueError, match=rf"{changed} is damaged \(it has shape .*, not 3 x 16 x"):
        list(synthesize(config(), teacher, out, verifier=second, resume=True))
    changed.unlink()
    list(synthesize(config(), teacher, out, verifier=second, resume=True))
    assert hashes(out) == hashes(whole[0])


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"images": 3}'])
def test_a_part_that_says_something_else_is_damaged(whole, teacher, tmp_path, content):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    part = out / ".parts/group_000001.json"
    part.write_text(content)
    second = classifier(random_net(5), "second")
    with pytest.raises(ValueError, match=f"{part} is damaged .* delete it and resume"):
        list(synthesize(config(), teacher, out, verifier=second, resume=True))


@pytest.mark.parametrize(
    "changed",
    [
        [],
        3,
        {},
        {"kernels": {}},
        {"kernels": {"threads": 0}},
        {"kernels": {"threads": "one"}},
        {"kernels": {"precision": "fp8"}},
        {"kernels": {"planets": 8}},
        {"bn_weight": None},
    ],
    ids=str,
)
def test_settings_that_say_something_else_are_damaged(whole, teacher, tmp_path, changed):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    file = out / "settings.json"
    content = json.loads(file.read_text())
    if isinstance(changed, dict) and changed:
        kernels = changed.get("kernels")
        changed = content | changed | ({"kernels": content["kernels"] | kernels} if kernels else {})
    file.write_text(json.dumps(changed))
    second = classifier(random_net(5), "second")
    with pytest.raises(ValueError, match=f"{file} is damaged .*; restore it, or name another fol"):
        list(synthesize(config(), teacher, out, verifier=second, resume=True))


def test_an_end_that_is_no_number_is_an_error(teacher, tmp_path, monkeypatch):
    call = Objective.__call__

    def broken(self, images, targets, **kwargs):
        terms = call(self, images, targets, **kwargs)
        bad = {"objective": terms["objective"] * float("nan")}
        return terms if kwargs else terms | bad  # only the last one comes without a factor

    monkeypatch.setattr(Objective, "__call__", broken)
    with pytest.raises(FloatingPointError, match=r"objective is .* at the end; lower lr"):
        list(synthesize(config(per_class=2), teacher, tmp_path / "run"))
    assert not list(tmp_path.glob("run/*/*.png"))


def test_a_run_that_cannot_start(whole, teacher, tmp_path):
    def first(settings, out, network=teacher, **kwargs):
        next(iter(synthesize(settings, network, out, **kwargs)))

    out, _ = whole
    with pytest.raises(ValueError, match="already holds a run; resume it"):
        first(config(), out)
    with pytest.raises(ValueError, match=r"was made with config.seed=0, got 1; resume with"):
        first(config(seed=1), out, resume=True)
    with pytest.raises(ValueError, match=r"was made with teacher.weights_sha256="):
        first(config(), out, classifier(random_net(1), "teacher"), resume=True)
    with pytest.raises(ValueError, match=r"holds files but no settings.json"):
        (tmp_path / "file.txt").write_text("mine")
        first(config(), tmp_path)
    with pytest.raises(ValueError, match="rank must be in 0-1, got 2"):
        first(config(), tmp_path / "new", rank=2, world=2)
    with pytest.raises(ValueError, match="class 4 is not one of the teacher's 4 classes"):
        first(config(classes=(0, 4)), tmp_path / "new")
    with pytest.raises(ValueError, match="no BatchNorm2d"):
        network = ToyNet(norm=lambda c: torch.nn.GroupNorm(1, c))
        first(config(), tmp_path / "new", classifier(network))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("channels", "image_format", "words"),
    [
        (2, "png", "toy takes images of 2 channels; image files have 1 .grey. or 3"),
        (4, "parquet", "toy takes images of 4 channels"),
        (1, "webp", "image_format=webp has no grey images, which toy takes; use png or parquet"),
    ],
)
def test_images_that_no_file_can_hold_are_refused(tmp_path, channels, image_format, words):
    network = random_net()
    network.conv1 = torch.nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False)
    odd = classifier(network, mean=(0.5,) * channels, std=(0.5,) * channels)
    with pytest.raises(SynthError, match=words):
        list(synthesize(config(image_format=image_format), odd, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_without_batch_norm_the_priors_alone(tmp_path):
    network = ToyNet(norm=lambda c: torch.nn.GroupNorm(1, c))
    settings = config(per_class=2, allow_no_bn=True)
    *_, end = synthesize(settings, classifier(network), tmp_path / "run")
    terms = json.loads(end.manifest.read_text())["groups"][0]["terms"]
    assert "bn_statistics" not in terms and "cross_entropy" in terms


def test_an_idle_allowance_is_refused_but_what_was_begun_with_it_goes_on(teacher, tmp_path):
    idle = config(per_class=2, allow_no_bn=True)
    with pytest.raises(ValueError, match="allow_no_bn has no effect: teacher has BatchNorm2d"):
        list(synthesize(idle, teacher, tmp_path / "run"))
    list(synthesize(config(per_class=2), teacher, tmp_path / "run"))
    settings = tmp_path / "run/settings.json"
    content = json.loads(settings.read_text())
    content["config"]["allow_no_bn"] = True  # as before it was refused
    settings.write_text(json.dumps(content))
    *_, end = synthesize(idle, teacher, tmp_path / "run", resume=True)
    assert json.loads(end.manifest.read_text())["config"]["allow_no_bn"]


def test_another_process_waits_for_the_first(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("synth.agreement.SETTINGS_TIMEOUT", 0.0)
    with pytest.raises(TimeoutError, match="the first process wrote no settings"):
        next(iter(synthesize(config(), teacher, tmp_path / "run", rank=1, world=2)))


def test_dearkd_reads_the_folder_as_it_is(teacher, tmp_path):
    list(synthesize(config(per_class=2, classes=(3, 1)), teacher, tmp_path / "run"))
    train, evaluation = open_data(str(tmp_path / "run"))
    assert evaluation is None and len(train) == 4
    assert train.classes.names == ("dog", "fox")
    assert (train.classes.indices, train.classes.total) == ((1, 3), 4)
    assert train.image(0).size == (16, 16)


@pytest.mark.parametrize("names", [("cat", "dog", "eel", "fox"), ("a, b", "c", "d", "e"), None])
def test_a_killed_parquet_run_resumes_and_is_read_by_dearkd(tmp_path, names):
    teacher = classifier(random_net(), "teacher", class_names=names)
    settings = config(per_class=4, classes=(3, 1), image_format="parquet")
    for name in ("whole", "killed"):
        run = synthesize(settings, teacher, tmp_path / name)
        for event in run:
            if name == "killed" and isinstance(event, GroupDone):
                break
        run.close()
    first = tmp_path / "killed/data/train-000000.parquet"
    stamp = first.stat().st_mtime_ns
    list(synthesize(settings, teacher, tmp_path / "killed", resume=True))
    files = [sorted((tmp_path / name).glob("data/*")) for name in ("whole", "killed")]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    assert first.stat().st_mtime_ns == stamp and len(files[0]) == 2
    train, evaluation = open_data(str(tmp_path / "whole"))
    assert evaluation is None and len(train) == 8
    assert match_classes(train.classes, names, 4) == (0, 1, 2, 3)
    manifest = json.loads((tmp_path / "whole/manifest.json").read_text())
    for index, record in enumerate(manifest["images"]):
        assert record["target"] == train.labels[index]
        assert record["shard"] == f"data/train-{record['group']:06d}.parquet"
        pixels = torch.from_numpy(np.array(train.image(index))).permute(2, 0, 1)
        assert record["sha256"] == pixel_hash(pixels)


def test_class_names_that_are_no_folders_are_read_under_the_teachers_indices(tmp_path):
    names = ("a, b", "c", "d", "e")
    teacher = classifier(random_net(), "teacher", class_names=names)
    list(synthesize(config(per_class=2, classes=(3, 1)), teacher, tmp_path / "run"))
    train, _ = open_data(str(tmp_path / "run"))
    assert match_classes(train.classes, names, 4) == (1, 3)


def test_only_the_first_process_draws_the_preview(teacher, tmp_path):
    run = synthesize(config(), teacher, tmp_path / "run")
    next(run)
    run.close()
    list(synthesize(config(), teacher, tmp_path / "run", rank=1, world=2))
    assert not (tmp_path / "run/preview.png").exists()
