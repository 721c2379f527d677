"""The embedding's distances are LPIPS, pair by pair; where its backbone comes from."""

import itertools
import pickle
import warnings

import huggingface_hub
import lpips
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from dearkd.measures.diversity import pair_mean, squared_distance_sums
from dearkd.measures.lpips_embedding import MIN_SIZE, LpipsEmbedding, backbone_shapes
from dearkd.measures.lpips_weights import backbone_file, load_lpips

NETS = ("alex", "vgg", "squeeze")


def random_backbone(net, seed=0):
    """Tensors under torchvision's keys that keep the scale of the features."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in backbone_shapes(net).items():
        fan_in = torch.Size(shape[1:]).numel() or shape[0]
        state[key] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return state


def reference(embedding):
    """The package's own network with the same backbone."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        for name in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
            patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)  # 138 M numbers
        net = lpips.LPIPS(net=embedding.net, pnet_rand=True, verbose=False)
    net.net.load_state_dict(embedding.backbone.state_dict())
    return net


@pytest.mark.parametrize(("net", "size"), [("alex", 48), ("vgg", 32), ("squeeze", 40)])
@torch.no_grad()
def test_squared_distances_are_lpips_of_every_pair(net, size):
    embedding = LpipsEmbedding(net, random_backbone(net))
    theirs = reference(embedding)
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    images[3] = images[2] + 0.01 * torch.randn(3, size, size)
    pairs = list(itertools.combinations(range(4), 2))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        embedding, theirs, images = embedding.to(dtype), theirs.to(dtype), images.to(dtype)
        rows = embedding(images).double()
        expected = [theirs(images[[a]], images[[b]], normalize=True).item() for a, b in pairs]
        found = [(rows[a] - rows[b]).square().sum().item() for a, b in pairs]
        assert found == pytest.approx(expected, abs=tolerance)
    sums = squared_distance_sums([images[:3], images[3:]], embedding)
    assert pair_mean(sums).mean == pytest.approx(sum(expected) / len(pairs), abs=1e-12)


@torch.no_grad()
def test_pixels_are_in_zero_to_one_and_the_packages_in_minus_one_to_one():
    embedding = LpipsEmbedding("alex", random_backbone("alex"))
    theirs, images = reference(embedding), torch.rand(2, 3, 32, 32)
    first, second = embedding(images).double()
    found = (first - second).square().sum().item()
    assert found == pytest.approx(theirs(*(2 * images - 1).split(1)).item(), abs=1e-6)
    assert abs(found - theirs(*images.split(1)).item()) > 1e-3


@pytest.mark.parametrize("net", NETS)
def test_the_backbone_is_keyed_as_torchvisions(net):
    names = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
    with torch.device("meta"):
        model = torchvision.models.get_model(names[net])
    theirs = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    ours = backbone_shapes(net)
    # the layers behind the last one that LPIPS reads (a pooling) have no weights
    assert ours == {key: shape for key, shape in theirs.items() if key.startswith("features")}


@pytest.mark.parametrize("net", NETS)
def test_frozen_and_able_to_take_the_least_size(net):
    embedding = LpipsEmbedding(net, random_backbone(net))
    assert not embedding.training
    assert not any(parameter.requires_grad for parameter in embedding.parameters())
    images = torch.rand(2, 3, MIN_SIZE, MIN_SIZE)
    assert embedding(images).isfinite().all()
    assert embedding(images[:0]).shape == (0, embedding(images).shape[1])
    features = embedding._features(images)[-1]
    assert torch.equal(embedding.pooled(images), features.mean((2, 3)))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("net", NETS)
def test_missing_weights_are_one_error_that_says_what_to_do(offline, net):
    with pytest.raises(ValueError, match="out of reach") as caught:
        load_lpips(net)
    message = str(caught.value)
    assert str(backbone_file(net)) in message
    assert backbone_file(net).parent == offline
    for word in ("TORCH_HOME", "--lpips-weights FILE", f"({net})"):
        assert word in message
    assert ("scripts/convert_lpips_backbone.py" in message) == (net != "squeeze")


def test_the_file_in_torchs_cache_is_taken_with_its_classifier(offline):
    state = random_backbone("squeeze")
    offline.mkdir(parents=True)
    torch.save(state | {"classifier.1.weight": torch.zeros(3, 3)}, backbone_file("squeeze"))
    images = torch.rand(1, 3, 32, 32)
    expected = LpipsEmbedding("squeeze", state)(images)
    assert torch.equal(load_lpips("squeeze")(images), expected)


def test_weights_of_another_network_or_damaged_ones_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(random_backbone("alex"), file)
    with pytest.raises(ValueError, match=r"not the backbone of LPIPS \(vgg\): features.0.weight"):
        load_lpips("vgg", file)
    state = random_backbone("alex")
    save_file({key: value for key, value in state.items() if key != "features.10.bias"}, file)
    with pytest.raises(ValueError, match=r"features.10.bias is missing"):
        load_lpips("alex", file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_lpips("alex", file)
    code = tmp_path / "code.pth"
    code.write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="refused"):
        load_lpips("alex", code)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_lpips("alex", tmp_path / "nowhere.pth")
