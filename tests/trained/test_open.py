"""Trained networks by name, folder or file, and every way to name one that does not work."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from commands import refused
from conftest import opened
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._hub import save_config_for_hf
from torch import nn

from dearkd.errors import MissingFileError, UserError
from dearkd.models.cnn import SmallResNet
from dearkd.models.teacher import Teacher, default_stage
from dearkd.run_folder.files import save_model
from dearkd.synthesis.setup import classifier_of
from dearkd.trained import open as opening
from dearkd.trained.open_teacher import open_teacher
from dearkd.trained.resolve import resolve
from dearkd.trained.weights import read_state

HALF: dict[str, Any] = {"student_mean": (0.5, 0.5, 0.5), "student_std": (0.5, 0.5, 0.5)}
SMALL = "dearkd_resnet10t_32"
SEEN = {"input_size": (3, 16, 16), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
default_cfgs = generate_default_cfgs(
    {
        "squashed_cnn": {
            "input_size": (3, 16, 16),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "crop_mode": "squash",
            "classifier": "fc",
        },
        "grey_cnn": {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.5,), "classifier": "fc"},
        "unpadded_cnn": {**SEEN, "input_size": (3, 40, 40), "classifier": "fc"},
        "fixed_cnn": {**SEEN, "input_size": (3, 40, 40), "fixed_input_size": True},
        "talkative_cnn": {**SEEN, "classifier": "fc"},
        "wrongly_sized_cnn": {**SEEN, "input_size": (3, 2, 2), "classifier": "fc"},
    }
)


def small(num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(SMALL, num_classes=num_classes)


def metadata(**changes: Any) -> dict[str, Any]:
    names = [f"class {i}" for i in range(4)]
    known = {"arch": SMALL, "num_classes": 4, "class_names": names, "img_size": 16}
    return {**known, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], **changes}


def teacher_of(name: str, *, weights: Path | None = None, **options: Any) -> Teacher:
    return open_teacher(resolve(name, weights=weights), **{**HALF, **options})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.safetensors", small(4), metadata())
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(opening, "is_cached", lambda repo: False)


def test_run_folder_and_its_file_are_teachers(run: Path) -> None:
    for name in (str(run), str(run / "model.safetensors")):
        teacher = teacher_of(name, img_size=16)
        assert teacher.class_names == ("class 0", "class 1", "class 2", "class 3")
        assert teacher.num_classes == 4
        images = torch.randn(2, 3, 16, 16)
        raw = images * 0.5 + 0.5
        mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
        theirs = (raw - mean[:, None, None]) / std[:, None, None]
        expected = small(4).eval()(theirs)
        torch.testing.assert_close(teacher(images).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": None}, "damaged metadata (num_classes is "),
        ({"mean": "x"}, "damaged metadata (mean is "),
        ({"heads": [1]}, "damaged metadata (heads[0] is "),
    ],
)
def test_a_strangers_metadata_are_held_against_their_shape(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_model(file, small(4), metadata(**change))
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(str(tmp_path))
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(SMALL, weights=file)


def test_transformer_run_keeps_its_image_size(tmp_path: Path) -> None:
    name = "deit_micro_distilled_patch4_32"
    model = timm.create_model(name, img_size=16)
    save_model(tmp_path / "model.safetensors", model, metadata(arch=name, num_classes=10))
    loaded = opened(tmp_path).network
    assert loaded.patch_embed.grid_size == (4, 4)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "state_dict_ema"])
def test_local_state_dicts_set_the_classes(tmp_path: Path, wrapper: str | None) -> None:
    model = small(7)
    state: dict[str, Any] = {f"module.{key}": value for key, value in model.state_dict().items()}
    file = tmp_path / "weights.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, file)
    trained = opened(SMALL, weights=file)
    assert trained.num_classes == 7
    assert trained.class_names is None
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(trained.network(images), model.eval()(images))


@pytest.mark.parametrize("tag", ["ap_in1k", "ns_jft_in1k"])
def test_local_weights_see_images_as_those_of_their_tag(tmp_path: Path, tag: str) -> None:
    name, file = f"tf_efficientnet_b0.{tag}", tmp_path / "w.safetensors"
    save_file(timm.create_model(name).state_dict(), file)
    cfg: Any = timm.get_pretrained_cfg(name)
    assert (cfg.mean == (0.5, 0.5, 0.5)) == (tag == "ap_in1k")
    assert opened(name, weights=file).view.items() <= cfg.to_dict().items()
    assert teacher_of(name, weights=file).mean == cfg.mean


@register_model
def squashed_cnn(pretrained: bool = False, **kwargs: Any) -> Any:
    """One of those that timm shows whole images, made square."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    return build_model_with_cfg(SmallResNet, "squashed_cnn", pretrained, **{**sizes, **kwargs})


class TalkativeCNN(SmallResNet):
    """One that gives its features beside its logits."""

    def forward(self, images: torch.Tensor) -> Any:
        features = self.forward_features(images)
        return self.forward_head(features), features


@register_model
def talkative_cnn(pretrained: bool = False, **kwargs: Any) -> Any:
    """Returns a tuple."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    return build_model_with_cfg(TalkativeCNN, "talkative_cnn", pretrained, **{**sizes, **kwargs})


def test_a_network_that_returns_more_than_logits_is_refused(tmp_path: Path) -> None:
    """It ended in the traceback of whatever took the answer for a tensor."""
    file, message = tmp_path / "w.safetensors", "talkative_cnn's forward returns a tuple; let it"
    save_file(timm.create_model("talkative_cnn", num_classes=10).state_dict(), file)
    assert message in refusal("talkative_cnn", weights=file)
    assert message in refused("teacher", "talkative_cnn", "--out", tmp_path / "run")


def test_a_network_that_cannot_take_its_own_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("wrongly_sized_cnn").state_dict(), file)
    message = refusal("wrongly_sized_cnn", weights=file)
    assert "teacher wrongly_sized_cnn cannot take an image of 3 x 2 x 2 (" in message


@register_model
def wrongly_sized_cnn(pretrained: bool = False, **kwargs: Any) -> Any:
    """Its first layer is larger than the image that its configuration names."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    net = build_model_with_cfg(SmallResNet, "wrongly_sized_cnn", pretrained, **{**sizes, **kwargs})
    net.conv1 = nn.Conv2d(3, 8, 5)
    return net


@register_model
def grey_cnn(pretrained: bool = False, **kwargs: Any) -> Any:
    """Takes images of one channel."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "in_chans": 1}
    return build_model_with_cfg(SmallResNet, "grey_cnn", pretrained, **{**sizes, **kwargs})


def test_a_network_of_grey_images_gives_images_and_is_refused_elsewhere(tmp_path: Path) -> None:
    file, message = tmp_path / "w.safetensors", "grey_cnn takes images of 1 channel, and is given 3"
    save_file(timm.create_model("grey_cnn", num_classes=10).state_dict(), file)
    assert message in refusal("grey_cnn", weights=file)
    assert message in refused("eval", "grey_cnn", "--weights", file, "--data", "digits")
    assert message in refused("teacher", "grey_cnn", "--out", tmp_path / "run")
    assert len(classifier_of(resolve("grey_cnn", weights=file)).mean) == 1


class UnpaddedCNN(SmallResNet):
    """Sees no first 16 rows and columns, so that nothing is left of an image of 16 pixels."""

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward_features(images[:, :, 16:, 16:])


@register_model
def unpadded_cnn(pretrained: bool = False, **kwargs: Any) -> Any:
    """Takes no small images."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    return build_model_with_cfg(UnpaddedCNN, "unpadded_cnn", pretrained, **{**sizes, **kwargs})


def test_a_teacher_that_cannot_take_the_students_images_is_refused(tmp_path: Path) -> None:
    net = timm.create_model("unpadded_cnn", num_classes=4)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    message = refusal("unpadded_cnn", weights=tmp_path / "w.safetensors", img_size=16)
    assert "teacher unpadded_cnn cannot take 16-px images (" in message
    assert "it was made for 40 px: choose --img-size nearer to that, or have it resize" in message
    assert teacher_of("unpadded_cnn", weights=tmp_path / "w.safetensors", img_size=32)
    save_model(tmp_path / "model.safetensors", net, metadata(arch="unpadded_cnn", img_size=40))
    assert "it was made for 40 px: choose" in refusal(str(tmp_path), img_size=16)


class FixedCNN(UnpaddedCNN):
    def __init__(self, img_size: int = 40, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@register_model
def fixed_cnn(pretrained: bool = False, **kwargs: Any) -> Any:
    """The same with what the error advises."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    return build_model_with_cfg(FixedCNN, "fixed_cnn", pretrained, **{**sizes, **kwargs})


def test_a_teacher_of_a_fixed_size_gets_resized_images(tmp_path: Path) -> None:
    save_file(timm.create_model("fixed_cnn").state_dict(), tmp_path / "w.safetensors")
    net = timm.create_model("fixed_cnn", num_classes=4)
    save_model(tmp_path / "model.safetensors", net, metadata(arch="fixed_cnn", img_size=40))
    for teacher in (
        teacher_of("fixed_cnn", weights=tmp_path / "w.safetensors", img_size=16),
        teacher_of(str(tmp_path), img_size=16),
    ):
        assert teacher(torch.zeros(1, 3, 16, 16)).logits.shape == (1, teacher.num_classes)


def test_images_are_cropped_as_timm_says_and_a_run_of_old_as_it_was_judged(tmp_path: Path) -> None:
    state = timm.create_model("squashed_cnn", num_classes=4)
    save_file(state.state_dict(), tmp_path / "plain.safetensors")
    found = opened("squashed_cnn", weights=tmp_path / "plain.safetensors")
    assert found.view["crop_mode"] == found.metadata["crop_mode"] == "squash"
    file = tmp_path / "model.safetensors"
    for stored, mode in ({}, "center"), ({"crop_mode": "border"}, "border"):
        save_model(file, state, metadata(arch="squashed_cnn", **stored))
        found = opened(tmp_path)
        assert found.view["crop_mode"] == mode
        assert found.network.pretrained_cfg["crop_mode"] == mode  # which an export writes


def test_weights_of_a_run_that_stored_a_tag(tmp_path: Path) -> None:
    """The run's own settings count, and its weights fit the same model by any tag."""
    file = tmp_path / "model.safetensors"
    model = timm.create_model("tf_efficientnet_b0.ap_in1k", num_classes=4)
    save_model(file, model, metadata(arch="tf_efficientnet_b0.dropped", img_size=32))
    for found in (opened(tmp_path), opened("tf_efficientnet_b0.ap_in1k", weights=file)):
        assert (tuple(found.view["mean"]), found.img_size) == ((0.1, 0.2, 0.3), 32)


def test_imagenet_models_have_synsets_for_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = teacher_of("tf_efficientnet_lite0", weights=tmp_path / "w.safetensors")
    assert teacher.class_names == tuple(ImageNetInfo().label_names())
    assert teacher.class_names[0] == "n01440764"
    stage = default_stage(teacher, (14, 14))
    assert (stage.channels, stage.grid, stage.nonnegative) == (112, (14, 14), False)


def refusal(name: str, **kwargs: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        teacher_of(name, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_hides_no_model_of_its_name(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "model.safetensors"
    monkeypatch.chdir(tmp_path)
    (tmp_path / SMALL).mkdir()
    assert resolve(SMALL, weights=weights).form == "timm"
    assert resolve(SMALL).form == "timm"
    (tmp_path / SMALL / "config.yaml").touch()
    assert "the run is not finished" in refusal(SMALL)
    line = refusal(SMALL, weights=weights)
    assert f"are for a timm name; {SMALL} is a folder here, leave them out" in line


def test_unknown_names(tmp_path: Path) -> None:
    assert "unknown teacher 'regnety_16'; did you mean 'regnety_" in refusal("regnety_16")
    assert "resnet18' has no weights 'nowhere'; known: " in refusal("resnet18.nowhere")
    assert "does not exist" in refusal("runs/nowhere")
    (tmp_path / "a.PNG").touch()
    assert "a.PNG is an image; name a run folder, weights or a timm" in refusal(f"{tmp_path}/a.PNG")
    assert "has no model.safetensors: the run is not finished, or" in refusal(str(tmp_path))


def test_the_home_of_nobody_is_a_place_that_is_not_there() -> None:
    """A shell leaves ``~NAME`` as it is where it knows no such user."""
    assert "teacher ~nobody-here/run does not exist" in refusal("~nobody-here/run")
    for data in ("~nobody-here/photos", "wds/~nobody-here/photos"):
        line = refused("train", "--method", "ce", "--data", data)
        assert f"data {data!r} does not exist" in line


@pytest.mark.usefixtures("offline")
def test_random_weights_are_never_a_teacher() -> None:
    assert "has no published weights; pass local weights (--teacher-weights" in refusal(SMALL)
    assert "within reach" in refusal("resnet18")
    assert "--teacher-weights FILE" in refusal("regnety_160.deit_in1k")


def test_weights_of_another_model(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(small().state_dict(), file)
    message = refusal("dearkd_resnet10_32", weights=file)
    assert "conv1.weight is (16, 3, 3, 3) there and (32, 3, 3, 3) in dearkd_resnet10_32" in message
    state = small().state_dict()
    save_file({k: v for k, v in state.items() if k != "bn1.weight"}, file)
    assert "it lacks bn1.weight (16,)" in refusal(SMALL, weights=file)
    save_file({**state, "extra.bias": torch.zeros(3)}, file)
    assert "it has extra.bias (3,) besides" in refusal(SMALL, weights=file)


def test_weights_that_say_what_they_are_of(run: Path) -> None:
    message = refusal("resnet18", weights=run / "model.safetensors")
    assert f"are of {SMALL}, not resnet18" in message


def test_own_weights_leave_no_room_for_others(run: Path) -> None:
    assert "is a folder here, leave them out" in refusal(
        str(run), weights=run / "model.safetensors"
    )


class Bomb:
    """What a malicious pickle does: call something when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_with_code_is_refused_unrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if legacy:
        Path("evil.pth").write_bytes(pickle.dumps({"conv1.weight": Bomb()}))
    else:
        torch.save({"conv1.weight": Bomb()}, "evil.pth")
    message = refusal(SMALL, weights=Path("evil.pth"))
    assert "evil.pth are refused: they hold more than tensors, which may run code" in message
    assert not Path("exploded").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_that_are_no_weights(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"w.{suffix}"
    assert "does not exist" in refusal(SMALL, weights=file)
    file.write_bytes(b"")
    assert str(file) in refusal(SMALL, weights=file)
    file.write_bytes(b"no weights at all")
    assert str(file) in refusal(SMALL, weights=file)


def flipped(content: bytes) -> bytes:
    """Four other bytes in the middle, where the largest tensor is: the archive's length is kept."""
    middle = len(content) // 2
    changed = bytes(255 - byte for byte in content[middle : middle + 4])
    return content[:middle] + changed + content[middle + 4 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[:-100], "is cut short: it was not copied or written"),
    "half": (lambda content: content[: len(content) // 2], "is cut short"),
    "empty": (lambda content: b"", "is cut short"),
    "flipped": (flipped, "is damaged: its checksum is wrong"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_told_in_our_own_words(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "w.pth"
    torch.save(small().state_dict(), file)
    change, words = DAMAGES[damage]
    file.write_bytes(change(file.read_bytes()))
    message = refusal(SMALL, weights=file)
    assert message.startswith(f"weights {file}: the file {words}")
    assert message.endswith("; fetch it again")


def test_a_bit_flipped_anywhere_in_an_archive_is_noticed(tmp_path: Path) -> None:
    """Even in its directory: no place makes another error, and none passes as other weights."""
    file, state = tmp_path / "w.pth", {"w": torch.arange(40.0)}
    torch.save(state, file)
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            read = read_state(file)
        except UserError as error:
            assert str(error).startswith(f"weights {file}")
        else:
            assert read.keys() == state.keys()
            assert torch.equal(read["w"], state["w"])


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(small(7).state_dict(), tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert opened(SMALL, weights=tmp_path / "w.pth").num_classes == 7


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth"])
def test_damaged_weights_in_a_timm_folder_are_noticed(tmp_path: Path, name: str) -> None:
    model = timm.create_model("test_resnet")
    save_config_for_hf(model, str(tmp_path / "config.json"))
    file = tmp_path / name
    torch.save(model.state_dict(), file)
    assert opened(tmp_path).num_classes == 1000
    file.write_bytes(flipped(file.read_bytes()))
    with pytest.raises(UserError, match=rf"weights {file}: the file is damaged: its checksum"):
        opened(tmp_path)


def test_state_dict_of_no_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    assert "are no state dict" in refusal(SMALL, weights=tmp_path / "w.pth")


def test_safetensors_of_another_origin_needs_a_name(tmp_path: Path) -> None:
    save_file(small().state_dict(), tmp_path / "w.safetensors")
    text = str(tmp_path / "w.safetensors")
    told = "was not written by dearkd; give its model's timm name instead, and --teacher-weights"
    assert told in refusal(text)
    with pytest.raises(UserError, match="by dearkd; name a run folder or weights that dearkd wro"):
        resolve(text, "--init")  # which has no option for such weights


def test_a_state_dict_of_torch_needs_a_name(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "w.pth")
    told = refusal(str(tmp_path / "w.pth"))
    assert "timm name instead, and --teacher-weights FILE for these weights" in told


def test_the_best_weights_of_an_unfinished_run_are_named_as_the_role_takes_them(run: Path) -> None:
    best = run / "checkpoint" / "best.safetensors"
    best.parent.mkdir()
    (run / "model.safetensors").rename(best)
    for role in ("teacher", "--init", "verifier", "student"):
        with pytest.raises(MissingFileError, match=f"its best weights so far: name {best}"):
            resolve(str(run), role)
    with pytest.raises(MissingFileError, match="its best weights so far: --which best"):
        resolve(str(run), "model")
    assert teacher_of(str(best), img_size=16).num_classes == 4


@pytest.mark.parametrize("role", ["teacher", "verifier", "--init"])
def test_an_empty_name_is_told_with_its_option(role: str) -> None:
    """As of a shell's variable that is not set; the folder of work was looked into."""
    with pytest.raises(UserError, match=f"^--{role.lstrip('-')} names nothing, got ''; give a run"):
        resolve("", role)
