"""Recipes by name: settings that lie beneath those that are typed or in a file.

``paper`` adds none: a method is what its paper says. ``best`` is what did best in our own studies
(RESULTS.md), on few images and on images made from the teacher. What is typed goes over a recipe's
settings; its method alone is fixed.

Departure:
    The paper has two stages, hard labels and features of one layer and then the images' labels
    alone. ``best`` is one stage of soft labels and features of three layers (in Locality Guidance's
    form, but each stage divided by its own scale, so that the weight means the same for any CNN),
    on mixed views at any size, by Muon in place of AdamW. Tried at 16 and 32 px; three layers,
    their weight and Muon rest on CIFAR-10.
"""

from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from dearkd.data.synthetic_set import are_sets
from dearkd.errors import UserError

__all__ = ["Recipe", "recipe_settings"]

Recipe = Literal["paper", "best"]

BEST: dict[str, Any] = {
    "method": "dearkd",
    "stage1": 100,
    "stage2": 0,
    "distill": {
        "logits": "soft",
        "class_weight": 0.0,
        "pair_preset": "early-middle-late",
        "target_scale": "stage",
        "hidden_weight": 50.0,
    },
    "data": {"mixup": 0.8, "cutmix": 1.0},
    "optim": {"name": "muon"},
}
"""The teacher's soft labels and features, of three stages, of mixed views; the images' labels are
not used. After two fifths of the steps Muon has the loss that AdamW ends with (LAB.md)."""
HIDDEN = "distill.hidden_weight"
CHOSEN = ("recipe", "method", "stage1", "stage2", "switch", "distill")
"""Settings of which none is given where a synthetic set is met with ``best`` unasked."""


def recipe_settings(given: DictConfig) -> dict[str, Any]:
    """The settings that the recipe of a run adds beneath ``given``, and its name.

    Where a synthetic set is to be trained on and ``given`` says nothing of how, it is ``best``.

    Raises:
        UserError: If ``best`` is asked for with a method that is not its own.
    """
    recipe = given.get("recipe")
    if recipe is None and not any(name in given for name in CHOSEN) and _is_synthetic(given):
        recipe = "best"
    if recipe != "best":
        return {"recipe": recipe or "paper"}
    method = given.get("method", BEST["method"])
    if method != BEST["method"]:
        raise UserError(
            f"recipe=best has a method of its own, {BEST['method']}, got {method}; leave "
            "one of them out"
        )
    settings = {"recipe": "best", **BEST}
    left_out = _left_out(given)
    settings["distill"] = {k: v for k, v in BEST["distill"].items() if k not in left_out}
    return settings


def _left_out(given: DictConfig) -> tuple[str, ...]:
    """What of the recipe's ``distill`` does not go with the pairs that are given."""
    form = ("hidden_weight", "target_scale")
    if OmegaConf.select(given, "distill.pairs") or OmegaConf.select(given, HIDDEN) == 0:
        # Pairs that are named, or none at all: a preset beside them would have no effect.
        return ("pair_preset", *form)
    preset = OmegaConf.select(given, "distill.pair_preset")
    # Weight and scale were measured with the recipe's own pairs; others have those of their form.
    return () if preset in (None, BEST["distill"]["pair_preset"]) else form


def _is_synthetic(given: DictConfig) -> bool:
    data = given.get("data")
    # Of a reference to a setting that is not given, "in" says no, and a look ends in an error.
    return isinstance(data, DictConfig) and "train" in data and are_sets(str(data["train"]))
