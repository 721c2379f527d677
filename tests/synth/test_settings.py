import ast
import dataclasses
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import synth
from synth.idle_settings import refuse_idle
from synth.objective_settings import ObjectiveConfig
from synth.settings import SynthesisConfig


def test_defaults_are_the_papers():
    config = SynthesisConfig()
    assert config.stages == ((112, 2000), (224, 2000))
    weights = config.objective
    assert (weights.tv_weight, weights.l2_weight, weights.bn_weight) == (1e-4, 1e-5, 5e-2)
    assert (weights.ep_weight, weights.triplet_weight) == (50, 0.5)
    assert [round(config.jitter_fraction * size) for size in (112, 224, 32)] == [15, 30, 4]


def test_it_comes_out_of_omegaconf_as_it_is():
    tree = OmegaConf.merge(
        OmegaConf.structured(SynthesisConfig),
        {"resolutions": [32], "iterations": [10], "classes": [1, 2], "objective": {"bn_weight": 1}},
    )
    config = OmegaConf.to_object(tree)
    assert config == SynthesisConfig(
        resolutions=(32,),
        iterations=(10,),
        classes=(1, 2),
        objective=ObjectiveConfig(bn_weight=1),
    )
    assert OmegaConf.to_object(OmegaConf.structured(SynthesisConfig)) == SynthesisConfig()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tv_weight": -1}, "tv_weight must be at least 0, got -1"),
        ({"bn_weight": float("nan")}, "bn_weight must be at least 0, got nan"),
        ({"bn_weight": float("inf")}, "bn_weight must be finite, got inf"),
        (
            {"bn_first_multiplier": 5.0, "bn_weight": 0.0},
            "objective.bn_first_multiplier has no effect with objective.bn_weight=0; leave it out",
        ),
        ({"triplet_margin": 0.1, "triplet_weight": 0.0}, "no effect with objective.triplet"),
        ({"bn_first_multiplier": -1}, "bn_first_multiplier must be at least 0"),
        ({"triplet_margin": 2.5}, "triplet_margin must be in 0-2, .* got 2.5"),
        ({"auto_iterations": 0}, "auto_iterations must be at least 1, got 0"),
        ({"ep_warmup_iterations": -1}, "ep_warmup_iterations must be at least 0"),
        ({"ep_weight": 0, "ep_warmup_iterations": 5}, "no effect with objective.ep_weight=0"),
        ({"bn_weight": 0, "bn_relative": True}, "objective.bn_relative has no effect"),
        ({"auto_iterations": 500}, "auto_iterations has no effect without objective.auto_weights"),
        ({"bn_weight": 0, "auto_weights": True}, "auto_weights tunes bn_weight, which is 0"),
    ],
)
def test_objective_ranges(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"resolutions": (32,)},
            r"stage, as in 112,224 and 500,500; got \[32\] and \[2000, 2000\]",
        ),
        ({"resolutions": (), "iterations": ()}, "one entry a stage"),
        ({"resolutions": (4, 224)}, "resolutions of every stage must be at least 8, got 4"),
        ({"iterations": (5, 0)}, "iterations of every stage must be at least 1, got 0"),
        ({"iterations": (5, 10**9)}, "iterations of every stage must be at most 100000, got 1000"),
        (
            {"resolutions": (224, 112)},
            r"must not fall, .*; write resolutions=\[112, 224\]",
        ),
        ({"resolutions": (100, 224), "canvas": "pooled"}, "resolutions that divide the last, 224"),
        ({"lr": 0}, "lr must be above 0 and at most 10, got 0"),
        ({"betas": (0.5, 1.0)}, r"two numbers in \[0, 1\), got \[0.5, 1.0\]"),
        ({"jitter_fraction": 0.6}, "jitter_fraction must be in 0-0.5, got 0.6"),
        ({"smallest_crop": 0.0}, "smallest_crop must be in 0.1-1 of the image's side, got 0.0"),
        ({"flip_probability": 1.1}, "flip_probability must be in 0-1.0, got 1.1"),
        ({"per_class": 0}, "per_class must be at least 2, got 0"),
        ({"per_class": 10**12}, "per_class must be at most 1000000, got 1000000000000"),
        ({"groups_per_batch": 0}, "groups_per_batch must be at least 1"),
        ({"classes": ()}, "classes is empty"),
        ({"classes": (1, 2, 1)}, "classes names 1 more than once"),
        ({"classes": (-1, 2)}, "every entry of classes must be at least 0, got -1"),
        ({"resolutions": (16,), "iterations": (2,), "canvas": "pooled"}, "one stage; leave it out"),
        ({"log_interval": 0}, "log_interval must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"warmup_iterations": -1}, "warmup_iterations must be at least 0"),
        ({"iterations": (9, 50), "grad_norm_interval": 51}, "=51 has no effect .* at most 50 iter"),
    ],
)
def test_synthesis_ranges(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SynthesisConfig(**kwargs)


def test_synth_is_a_leaf():
    for path in Path(synth.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "dearkd" for name in names), path


EARLY = {"stop_cross_entropy": 1.0, "iterations": (100, 60)}
PILOT = ObjectiveConfig(ep_weight=1.0, auto_weights=True, auto_iterations=20)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"resolutions": (16, 16), "canvas": "pooled"}, "canvas=pooled has no effect with stages"),
        (EARLY, "stop_cross_entropy has no effect in stages of at most 100 iterations"),
        (EARLY | {"stop_window": 1}, "every log_interval=50, .* over stop_window=1 iterations; lo"),
        (EARLY | {"stop_window": 80, "log_interval": 10}, None),
        (EARLY | {"stop_window": 81, "log_interval": 10}, "no effect"),
        (EARLY | {"stop_window": 9, "log_interval": 10}, "=9 has no effect below log_interval=10"),
        ({"iterations": (100, 60), "warmup_iterations": 26}, "=26 has no effect beyond 25, a quar"),
        ({"iterations": (100, 60), "warmup_iterations": 25}, None),
        ({"iterations": (10, 60), "objective": PILOT}, "=20 has no effect beyond 10, the first"),
        ({"iterations": (20, 60), "objective": PILOT}, None),
        ({"resolutions": (8, 16), "canvas": "pooled"}, None),
        (
            {"resolutions": (8, 32), "jitter_fraction": 0.01},
            "=0.01 has .* 32 px.* at least 0.0159,",
        ),
        ({"resolutions": (8, 32), "jitter_fraction": 0.016}, None),
        ({"resolutions": (8, 32), "jitter_fraction": 0.0}, None),
    ],
)
def test_settings_without_effect_in_these_stages_are_refused(kwargs, message):
    config = SynthesisConfig(**kwargs)
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        refuse_idle(config)


def test_the_jitter_that_is_named_has_an_effect_at_any_size():
    for side in range(8, 8193):
        config = SynthesisConfig(resolutions=(side,), iterations=(1,), jitter_fraction=0.5 / side)
        if round(0.5 / side * side):  # half a pixel, which is rounded up
            continue
        with pytest.raises(ValueError, match="no effect") as error:
            refuse_idle(config)
        least = float(re.search(r"at least ([\d.e-]+)", str(error.value))[1])
        refuse_idle(dataclasses.replace(config, jitter_fraction=least))
