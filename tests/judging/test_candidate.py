"""What is judged on what: a run's own images, as far as its configuration says which."""

import pytest
import timm
import yaml
from commands import refused
from conftest import opened
from rich.console import Console

from dearkd.judging import eval as judging
from dearkd.run_folder.files import save_model

SMALL = "dearkd_resnet10t_32"


@pytest.fixture
def run(tmp_path):
    """A folder with weights, and a function that writes its configuration."""
    names = [str(digit) for digit in range(10)]
    metadata = {"arch": SMALL, "num_classes": 10, "class_names": names, "img_size": 16}
    metadata |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    save_model(tmp_path / "model.safetensors", timm.create_model(SMALL, num_classes=10), metadata)

    def configured(**config):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return tmp_path

    return configured


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"data": ["digits"]}, "has a damaged config.yaml (data is a list); restore that"),
        ({"data": {"train": 3}}, "(data.train is 3)"),
        ({"data": {"train": "digits", "validation": "some"}}, "(data.validation is 'some')"),
        ({"data": {"path": "digits"}}, "has no data of its own, so --data must name the images"),
        (
            {"data": {"train": "digits"}, "memory_format": "nhwc"},
            "memory_format must be contiguous or channels_last, got 'nhwc' in the config.yaml of ",
        ),
    ],
)
def test_a_configuration_that_was_spoiled_by_hand_gets_one_line(run, config, words):
    assert words in refused("eval", run(**config))


def test_what_the_run_did_not_decide_is_as_usual(run):
    assert opened(run(memory_format="auto")).memory_format == "contiguous"
    assert opened(run(memory_format="channels_last")).memory_format == "channels_last"


def test_short_sequences_are_judged_by_the_attention_that_they_are_trained_by(
    run, tmp_path, monkeypatch
):
    """To the last image: plain products and the fused kernel differ in the last bits."""
    name, seen = "dearkd_micro_patch4_32", []
    metadata = {"arch": name, "num_classes": 10, "img_size": 16}
    metadata["class_names"] = [str(digit) for digit in range(10)]
    student = timm.create_model(name, num_classes=10, img_size=16)
    save_model(run() / "model.safetensors", student, metadata)
    judge = judging.evaluate

    def watched(network, *rest):
        seen.append(network)
        return judge(network, *rest)

    monkeypatch.setattr(judging, "evaluate", watched)
    judging.evaluate_target(str(tmp_path), data="digits", console=Console(quiet=True))
    assert {block.attn.fused_attn for block in seen[0].blocks} == {False}
