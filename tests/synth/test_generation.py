"""The generator engine: its network, its loop against a slow form, and chains on disk."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from test_synthesis import hashes
from toy_nets import CLASSES, ToyNet, classifier, random_net, trained_net

from synth.chains import Chain
from synth.classifier import pixel_range
from synth.generation import GeneratorChain
from synth.generator import ImageGenerator
from synth.generator_settings import GeneratorConfig
from synth.groups import Group, generator_for, plan_groups
from synth.jitter import draw_views
from synth.objective import Objective
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig
from synth.synthesis import Finished, GroupDone, Prepared, Progress, steps_of, synthesize

CPU = torch.device("cpu")
WEIGHTS = ObjectiveConfig(
    ce_weight=0.5, tv_weight=0, l2_weight=0, bn_weight=3, ep_weight=0.2, triplet_weight=0.1
)
SMALL = GeneratorConfig(latent_dim=8, width=4, warmup_batches=0, lr=0.02, latent_lr=0.05)


def config(**kwargs):
    settings = {
        "engine": "generator",
        "generator": SMALL,
        "resolutions": (16,),
        "iterations": (3,),
        "per_class": 6,
        "images_per_class": 2,
        "objective": WEIGHTS,
        "precision": "fp32",
        "layout": "contiguous",
    }
    return SynthesisConfig(**(settings | kwargs))


def with_generator(settings, **kwargs):
    return dataclasses.replace(settings, generator=dataclasses.replace(SMALL, **kwargs))


@pytest.fixture(scope="module")
def teacher():
    return classifier(random_net(), "teacher")


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """An uninterrupted run: a chain of three batches of eight images."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, list(synthesize(config(), teacher, out))


@pytest.mark.parametrize("size", [16, 20, 128])
def test_the_generator_draws_images_of_its_size_in_the_unit_range(size):
    network = ImageGenerator(size, 3, latent_dim=5, width=2, classes=CLASSES)
    images = network(torch.randn(6, 5), torch.arange(6) % CLASSES)
    assert images.shape == (6, 3, size, size)
    assert 0 <= images.min() < images.max() <= 1
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(3, 3)] * 3
    assert network.linear.out_features == (size // 4) ** 2 * convolutions[0].in_channels


def test_a_class_has_a_say_only_where_the_generator_is_conditional():
    latents = torch.randn(1, 5).expand(4, 5)
    for classes in (None, CLASSES):
        network = ImageGenerator(16, 3, latent_dim=5, width=2, classes=classes)
        images = network(latents, torch.arange(4))
        assert torch.allclose(images[0], images[1]) is (classes is None)


def slow_view(image, shift, black):
    """A crop out of the image with a black border, mirrored."""
    down, right, flip = shift.tolist()
    pad = 8
    canvas = black.expand(3, image.shape[1] + 2 * pad, image.shape[2] + 2 * pad).clone()
    canvas[:, pad:-pad, pad:-pad] = image
    seen = canvas[:, pad - down :, pad - right :][:, : image.shape[1], : image.shape[2]]
    return seen.flip(2) if flip else seen


def norm_inputs(net, images):
    """What the two BatchNorms of a ToyNet see."""
    first = net.conv1(images)
    return first, net.conv2(F.relu(net.bn1(first)))


class SlowChain:
    """The equations of the engine once more, image by image and layer by layer, in float64."""

    def __init__(self, chain, net, settings):
        self.generator = ImageGenerator(16, 3, 8, 4, CLASSES).double()
        self.generator.load_state_dict(chain.generator.state_dict())
        self.net, self.settings = net, settings
        norms = [net.bn1, net.bn2]
        self.running = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        self.stored = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        self.adam = torch.optim.Adam(self.generator.parameters(), lr=0.02, betas=(0.5, 0.999))

    def batch(self, group, steps):
        random = generator_for(0, group.id, "latents")
        latents = torch.randn((len(group.targets), 8), generator=random).double().requires_grad_()
        adam = torch.optim.Adam([latents], lr=0.05, betas=(0.5, 0.999))
        low, high = pixel_range((0.5, 0.4, 0.6), (0.25, 0.2, 0.3), latents)
        views = draw_views(
            steps, len(group.targets), 2, 0.5, generator_for(0, group.id, "views", 0)
        )
        labels = torch.tensor(group.targets)
        for step in range(steps):
            images = low + (high - low) * self.generator(latents, labels)
            seen = torch.stack(
                [
                    slow_view(image, view, low)
                    for image, view in zip(images, views[step], strict=True)
                ]
            )
            blends, loss = [], 0.5 * F.cross_entropy(self.net(seen), labels)
            for x, (mean, var), (to, to_var) in zip(
                norm_inputs(self.net, seen), self.running, self.stored, strict=True
            ):
                seen_mean = x.mean(dim=(0, 2, 3))
                seen_var = x.var(dim=(0, 2, 3), unbiased=False)
                blends.append((0.9 * mean + 0.1 * seen_mean, 0.9 * var + 0.1 * seen_var))
                loss = loss + 3 * (blends[-1][0] - to).norm() + 3 * (blends[-1][1] - to_var).norm()
            for optimizer in (self.adam, adam):
                optimizer.zero_grad()
            loss.backward()
            for optimizer in (self.adam, adam):
                optimizer.step()
        self.running = [(mean.detach(), var.detach()) for mean, var in blends]
        return (low + (high - low) * self.generator(latents, labels)).detach()


def test_two_batches_are_those_of_the_slow_form():
    net = random_net().double()
    weights = dataclasses.replace(WEIGHTS, ep_weight=0.0, triplet_weight=0.0)
    settings = config(objective=weights, jitter_fraction=2 / 16)
    objective = Objective(classifier(net), weights, dtype=torch.float64)
    chain = GeneratorChain(objective, settings, CPU)
    slow = SlowChain(chain, net, settings)
    for group in plan_groups(settings, CLASSES)[:2]:
        *_, last = chain(objective, (group,), settings, CPU)
        expected = slow.batch(group, steps=3)
        torch.testing.assert_close(last.images, expected, rtol=1e-8, atol=1e-8)
    for (mean, var), (slow_mean, slow_var) in zip(
        chain.running[0].layers, slow.running, strict=True
    ):
        torch.testing.assert_close((mean[0], var[0]), (slow_mean, slow_var), rtol=1e-8, atol=1e-8)


def test_the_running_mean_leaves_a_tenth_of_the_gradient_and_has_none():
    net = random_net().double()
    weights = ObjectiveConfig(ce_weight=0, tv_weight=0, l2_weight=0, bn_weight=1, ep_weight=0)
    weights = dataclasses.replace(weights, triplet_weight=0)
    objective = Objective(classifier(net), weights, dtype=torch.float64)
    chain = GeneratorChain(objective, config(objective=weights), CPU)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)

    def gradient(running):
        objective.recorders[0].running = running
        objective.guides[0](images, 1)
        return torch.autograd.grad(objective.recorders[0].loss().sum(), images)[0]

    whole, tenth = gradient(None), gradient(chain.running[0])
    torch.testing.assert_close(tenth, whole / 10)


def test_the_boundary_loss_works_on_the_batch_as_on_a_group(teacher):
    settings = config()
    objective = Objective(teacher, WEIGHTS)
    *_, last = GeneratorChain(objective, settings, CPU)(
        objective, plan_groups(settings, CLASSES)[:1], settings, CPU
    )
    assert {"easy_positive", "triplet", "cross_entropy", "bn_statistics"} < set(last.terms)
    assert "total_variation" in last.terms
    assert objective.recorders[0].running is None  # the terms at the end are the batch's own


def test_images_of_a_trained_network_become_their_targets(tmp_path):
    settings = with_generator(
        config(iterations=(8,), per_class=40, images_per_class=10), warmup_batches=3, width=8
    )
    list(synthesize(settings, classifier(trained_net(0)), tmp_path / "run"))
    quality = json.loads((tmp_path / "run/manifest.json").read_text())["quality"]["teacher"]
    assert quality["recognition"]["overall"] >= 0.9  # 0.25 is chance
    assert quality["diversity"]["overall"] > 0


def test_a_set_by_a_generator_has_the_files_of_any_other(whole):
    out, events = whole
    assert isinstance(events[0], Prepared) and events[-1] == Finished(
        manifest=out / "manifest.json"
    )
    assert (events[0].images, events[0].images_here, events[0].iterations_here) == (24, 24, 9)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["config"]["engine"] == "generator"
    assert len(manifest["images"]) == 24 == len(set(hashes(out).values()))
    assert not list((out / ".parts").glob("chain*"))  # of no use once the set is finished


def test_a_warm_up_is_told_and_counted_with_the_batches(teacher, tmp_path):
    """Else the time left, told from the first batch on, took its time for the batches' own."""
    settings = with_generator(config(iterations=(4,), log_interval=2), warmup_batches=2, chains=2)
    run = synthesize(settings, teacher, tmp_path / "run")
    prepared, *events = list(run)
    progress = [event for event in events if isinstance(event, Progress)]
    assert prepared.iterations_here == 4 * (3 + 2 * 2)
    assert [event.iterations_done for event in progress] == list(range(2, 29, 2))
    warm, own = [()] * 4, [(0,)] * 2
    assert [event.groups for event in progress][:6] == warm + own
    assert len([event for event in progress if not event.groups]) == 8
    assert len(json.loads((tmp_path / "run/loss_curves.json").read_text())["groups"]["0"]) == 2


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_chain_goes_on_from_its_state(whole, teacher, tmp_path, monkeypatch, after):
    out, _ = whole
    target = tmp_path / "run"
    run = synthesize(config(), teacher, target)
    for event in run:
        if isinstance(event, GroupDone) and event.group == after:
            break  # its images are on disk, the state is that after the batch before
    run.close()
    loaded = []
    load = GeneratorChain.load
    monkeypatch.setattr(GeneratorChain, "load", lambda *args: loaded.append(1) or load(*args))
    events = list(synthesize(config(), teacher, target, resume=True))
    assert hashes(target) == hashes(out)
    assert loaded == ([] if after == 2 else [1])
    assert events[0].images_here == 8 * (2 - after)


def test_images_that_are_lost_are_made_again_from_the_chains_beginning(whole, teacher, tmp_path):
    target = tmp_path / "run"
    list(synthesize(config(), teacher, target))
    for file in target.glob("*/000001_*.png"):
        file.unlink()
    events = list(synthesize(config(), teacher, target, resume=True))
    assert hashes(target) == hashes(whole[0])
    assert (events[0].images_here, events[0].iterations_here) == (8, 6)


def test_processes_share_the_chains_and_the_images_are_the_same(teacher, tmp_path):
    settings = with_generator(config(), chains=2)
    list(synthesize(settings, teacher, tmp_path / "one"))
    for rank in range(2):
        *_, end = synthesize(settings, teacher, tmp_path / "two", rank=rank, world=2)
    assert end.manifest is not None
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")


def test_chains_differ_and_an_unkept_batch_changes_the_next(teacher, whole, tmp_path):
    objective, settings = Objective(teacher, WEIGHTS), with_generator(config(), warmup_batches=2)
    group, images = Group(id=0, targets=(0, 0, 1, 1)), {}
    for number in range(2):
        chain = GeneratorChain(objective, config(), CPU, number)
        *_, last = chain(objective, (group,), config(), CPU)
        images[number] = last.images
    *_, rehearsed = steps_of(objective, (group,), settings, CPU)
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], rehearsed.images)
    chains = [Chain(id=number, batches=((group,),)) for number in range(2)]
    ids = [one.id for chain in chains for (one,) in chain.rehearsals(settings)]
    assert ids == [-1, -2, -3, -4]  # each with latent vectors of its own


def test_a_damaged_state_is_named(teacher, tmp_path):
    run = synthesize(config(), teacher, tmp_path)
    for event in run:
        if isinstance(event, GroupDone) and event.group == 1:
            break
    run.close()
    file = tmp_path / ".parts/chain_000000.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{file} is damaged .* delete it and resume"):
        list(synthesize(config(), teacher, tmp_path, resume=True))
    file.unlink()
    *_, end = synthesize(config(), teacher, tmp_path, resume=True)
    assert end.manifest is not None


def test_the_random_state_of_a_gpu_is_not_touched(teacher, monkeypatch):
    def touched(seed):
        raise AssertionError("the caller's draws on a GPU are seeded anew")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    GeneratorChain(Objective(teacher, config().objective), config(), CPU)


def test_random_state_is_left_as_it_is(teacher, tmp_path):
    state = torch.get_rng_state()
    list(synthesize(config(per_class=2), teacher, tmp_path / "run"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_teacher_without_batch_norm_is_refused(tmp_path):
    network = ToyNet(norm=lambda channels: torch.nn.GroupNorm(1, channels))
    with pytest.raises(ValueError, match="toy has no BatchNorm2d, whose statistics guide"):
        list(synthesize(config(), classifier(network), tmp_path / "run"))
    *_, end = synthesize(config(allow_no_bn=True), classifier(network), tmp_path / "run")
    assert "bn_statistics" not in json.loads(end.manifest.read_text())["groups"][0]["terms"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"resolutions": (16, 32), "iterations": (3, 3)}, r"one size, got resolutions=\[16, 32\]"),
        ({"resolutions": (256,)}, r"16-128 pixels a side.*got resolutions=\[256\]; write.*\[128\]"),
        ({"resolutions": (30,)}, r"a multiple of 4, got resolutions=\[30\]; write.*\[28\]"),
        ({"lr": 0.1}, r"lr=0.1 has no effect with engine=generator; leave it out"),
        ({"basis": "spectrum"}, r"basis=spectrum has no effect with engine=generator"),
        ({"groups_per_batch": 2}, r"groups_per_batch=2 has no effect with engine=generator"),
        ({"compile": "always"}, r"compile=always has no effect with engine=generator"),
        ({"stop_cross_entropy": 0.1}, r"stop_cross_entropy=0.1 has no effect"),
        ({"engine": "inversion"}, r"generator.lr=0.02 has no effect with engine=inversion; leave"),
        ({"objective": ObjectiveConfig(auto_weights=True)}, r"objective.auto_weights=True has no"),
    ],
)
def test_settings_that_can_have_no_effect_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        config(**wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lr": 0.0}, "generator.lr must be above 0 and at most 1, got 0.0"),
        ({"latent_dim": 0}, "generator.latent_dim must be at least 1, got 0"),
        ({"width": 1_000_000}, "generator.width must be at most 4096, got 1000000"),
        ({"warmup_batches": -1}, "generator.warmup_batches must be at least 0, got -1"),
    ],
)
def test_the_ranges_of_the_generator(wrong, words):
    with pytest.raises(ValueError, match=words):
        GeneratorConfig(**wrong)


def test_chains_fit_batches_and_processes(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"generator\.chains must be at most 3, the number of bat"):
        list(synthesize(with_generator(config(), chains=4), teacher, tmp_path / "run"))
    with pytest.raises(
        ValueError, match=r"generator\.chains must be at least 2, the number of pro"
    ):
        list(synthesize(config(), teacher, tmp_path / "run", world=2))
    assert not (tmp_path / "run").exists()
