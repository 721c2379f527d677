"""Classes matched by name, ImageNet's synsets and descriptions included, against timm's tables."""

import pytest
from timm.data.imagenet_info import ImageNetInfo
from torchvision.models import ResNet18_Weights

from dearkd.data.class_matching import class_keys, find_names, match_classes, match_names
from dearkd.data.sources import Classes

INFO = ImageNetInfo()
SYNSETS, DESCRIPTIONS = INFO.label_names(), INFO.label_descriptions()
WHOLE = tuple(range(1000))


def test_descriptions_and_synsets_match_both_ways():
    assert match_classes(Classes(1000, tuple(DESCRIPTIONS)), SYNSETS, 1000) == WHOLE
    assert match_classes(Classes(1000, tuple(SYNSETS)), DESCRIPTIONS, 1000) == WHOLE


def test_shuffled_descriptions_are_matched_by_name_not_by_place():
    order = [index for index in reversed(range(1000)) if "crane" not in DESCRIPTIONS[index]]
    names = [DESCRIPTIONS[index] for index in order]
    assert match_names(names, SYNSETS) == tuple(order)


def test_torchvisions_own_wording_follows_in_order():
    names = ResNet18_Weights.DEFAULT.meta["categories"]
    assert match_names(names, SYNSETS) == WHOLE
    with pytest.raises(ValueError, match=r"9 of 1000 data classes are unknown"):
        match_names([*names[1:], names[0]], SYNSETS)


def test_synthetic_data_keeps_its_indices_where_two_classes_share_a_name():
    names = ("crane", "tench", "crane")
    assert match_classes(Classes(1, ("crane",), (0,), 3), names, 3) == (0,)
    assert match_classes(Classes(3, names, (0, 1, 2), 3), names, 3) == (0, 1, 2)
    # Of another model with as many classes in another order, names decide.
    assert match_classes(Classes(1, ("tench",), (1,), 3), ("tench", "a", "b"), 3) == (0,)


def test_equal_lists_match_in_order_where_two_classes_share_a_name():
    names = ("crane", "tench", "crane")
    assert match_classes(Classes(3, names), names, 3) == (0, 1, 2)
    with pytest.raises(ValueError, match="several data classes match the model's 'crane'"):
        match_classes(Classes(3, ("tench", "crane", "crane")), names, 3)


def test_a_few_classes_match_by_one_of_their_names():
    assert match_names(["Tinca tinca", "goldfish"], SYNSETS) == (0, 1)
    assert match_names(["n01443537"], DESCRIPTIONS) == (1,)


def test_a_name_of_two_synsets_is_not_guessed():
    with pytest.raises(ValueError, match=r"1 of 2 data classes are unknown.*crane"):
        match_names(["tench", "crane"], SYNSETS)


def test_two_classes_of_one_name_are_both_found_beside_unknown_ones():
    cranes = [name for name, text in zip(SYNSETS, DESCRIPTIONS, strict=True) if "crane" in text]
    names = ["crane", "not of ImageNet", "crane"]
    assert find_names(names, ["n01440764", *cranes]) == [1, -1, 2]


def test_a_word_of_a_description_claims_no_other_class_of_imagenet():
    """The Cardigan is a dog, too, and the cardigan a garment that the model has no class of."""
    assert find_names(["cardigan", "golden retriever"], ["n02113186", "n02099601"]) == [-1, 1]
    assert find_names(["missile", "projectile, missile"], ["n04008634", "n02099601"]) == [-1, 0]
    assert find_names(["n02113186"], ["cardigan"]) == [-1]
    assert find_names(["cardigan"], ["n02963159", "n02113186"]) == [0]


def test_an_unknown_class_is_not_found_by_its_place():
    names = [*DESCRIPTIONS[:9], "not of ImageNet"]
    assert find_names(names, SYNSETS[:10]) == [*range(9), -1]


def test_results_tell_two_classes_of_one_name_apart():
    assert class_keys((2, 1), ["crane", "tench", "crane"]) == {2: "crane (2)", 1: "tench"}
    assert class_keys((2, 1), None) == {2: "2", 1: "1"}
