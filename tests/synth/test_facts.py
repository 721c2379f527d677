"""Precision, layout and compiler follow from facts alone, each with its reason."""

import dataclasses

import pytest
import timm
import torch
from toy_nets import ToyNet, classifier, random_net

from synth.cores import usable_cores
from synth.facts import (
    Facts,
    bf16_units,
    compile_by_facts,
    facts_of,
    layout_by_facts,
    precision_by_facts,
)
from synth.groups import Group
from synth.settings import SynthesisConfig

CPU = torch.device("cpu")
PLAIN = Facts(
    device="cpu",
    bf16_units=None,
    compiler=True,
    grouped=False,
    depthwise=False,
    grad_norms=False,
    minutes_a_graph=1.0,
)
LONG = {"minutes_a_graph": 1234.0}
GPU = {"device": "cuda", "bf16_units": "tensor cores"}


class Whole(ToyNet):
    """Takes images of one size alone: its last layer sees the whole map."""

    def __init__(self, size):
        super().__init__()
        self.fc = torch.nn.Linear(12 * (size // 4) ** 2, 4)

    def forward_head(self, x, pre_logits=False):
        return x.flatten(1) if pre_logits else self.fc(x.flatten(1))


def test_a_further_teacher_is_counted_at_the_size_that_it_sees():
    config = SynthesisConfig(resolutions=(16,), iterations=(3,))
    batches = ((Group(id=0, targets=(0, 0, 1, 1)),),)
    other = classifier(Whole(32), img_size=32)
    both = facts_of(config, classifier(random_net()), batches, CPU, others=(other,))
    alone = facts_of(config, classifier(random_net()), batches, CPU)
    bare = facts_of(dataclasses.replace(config, resolutions=(32,)), other, batches, CPU)
    assert both.minutes_a_graph == pytest.approx(alone.minutes_a_graph + bare.minutes_a_graph)


def facts(**kwargs):
    return dataclasses.replace(PLAIN, **kwargs)


@pytest.mark.parametrize(
    ("given", "precision", "reason"),
    [
        ({}, "fp32", "no bf16 units known in this CPU"),
        ({"bf16_units": "AMX", "depthwise": True}, "bf16", "this CPU has bf16 units (AMX)"),
        ({"bf16_units": "AVX-512"}, "bf16", "this CPU has bf16 units (AVX-512)"),
        ({"bf16_units": "AVX-512", "depthwise": True}, "fp32", "do not help depth-wise"),
        (GPU, "bf16", "this GPU has bf16 units (tensor cores)"),
        ({"device": "cuda"}, "fp32", "no bf16 units known in this GPU"),
        ({"device": "mps"}, "fp32", "no bf16 units known in this mps"),
    ],
)
def test_precision(given, precision, reason):
    chosen, why = precision_by_facts(facts(**given))
    assert chosen == precision and reason in why


@pytest.mark.parametrize(
    ("given", "layout", "reason"),
    [
        ({"depthwise": True}, "channels_last", "no grouped convolutions"),
        ({"grouped": True}, "contiguous", "grouped convolutions, which may be slow"),
        (GPU, "channels_last", "no grouped convolutions"),
        ({"device": "cuda"}, "contiguous", "tensor cores"),
        ({"device": "mps"}, "contiguous", "not tried on mps"),
    ],
)
def test_layout(given, layout, reason):
    chosen, why = layout_by_facts(facts(**given))
    assert chosen == layout and reason in why


@pytest.mark.parametrize(
    ("given", "compiled", "reason"),
    [
        ({"depthwise": True}, False, "a short run, of nominal 1 minutes a graph"),
        ({"depthwise": True, **LONG}, True, "a long run, of nominal 1234 minutes a graph"),
        (LONG, False, "no depth-wise convolutions"),
        ({"depthwise": True, **LONG, "compiler": False}, False, "no C++ compiler"),
        ({"depthwise": True, **LONG, "grad_norms": True}, False, "grad_norm_interval"),
        ({**GPU, **LONG}, False, "not measured on a GPU"),
    ],
)
def test_compile(given, compiled, reason):
    chosen, why = compile_by_facts(facts(**given))
    assert chosen is compiled and reason in why


def facts_for(network, **kwargs):
    settings = {"resolutions": (32,), "iterations": (10,), "compile": "auto"} | kwargs
    teacher = classifier(network, num_classes=network.num_classes)
    batches = ((Group(id=0, targets=(0, 0, 1, 1)),),) * settings.pop("batches", 1)
    return facts_of(SynthesisConfig(**settings), teacher, batches, CPU)


@pytest.mark.parametrize(
    ("name", "grouped", "depthwise"),
    [
        ("resnet10t", False, False),
        ("regnety_002", True, False),
        ("mobilenetv3_small_050", False, True),
    ],
)
def test_kinds_of_convolutions(name, grouped, depthwise):
    found = facts_for(timm.create_model(name, num_classes=4).eval())
    assert (found.grouped, found.depthwise) == (grouped, depthwise)


def test_work_follows_from_operations_iterations_images_and_graphs():
    net = random_net()
    net.num_classes = 4
    one = facts_for(net).minutes_a_graph
    # 3x3 convolutions from 3 to 8 and 8 to 12 channels, a matrix of 12 x 4; two operations for
    # each product, forward and backward
    operations = 2 * 2 * (16 * 16 * 8 * 3 * 9 + 8 * 8 * 12 * 8 * 9 + 12 * 4)
    expected = operations * 4 * 10 / (24e9 * usable_cores()) / 60
    assert one == pytest.approx(expected)
    assert facts_for(net, batches=7).minutes_a_graph == pytest.approx(7 * one)
    # the small stage costs a quarter, and makes a graph of its own
    two = facts_for(net, resolutions=(16, 32), iterations=(10, 10)).minutes_a_graph
    assert two == pytest.approx(one * 1.25 / 2)


def test_the_threads_that_a_launcher_leaves_a_process_decide_nothing():
    net, threads = random_net(), torch.get_num_threads()
    net.num_classes = 4
    alone = facts_for(net)
    try:
        torch.set_num_threads(threads + 1)
        assert facts_for(net) == alone
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("names", "units"),
    [
        (["avx2"], None),
        (["avx2", "avx512_bf16"], "AVX-512"),
        (["avx512_bf16", "amx_bf16"], "AMX"),
    ],
)
def test_units_are_those_that_torch_names(names, units, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
    assert bf16_units(CPU) == units
    assert bf16_units(torch.device("meta")) is None
