"""The objectives beside timm's task, beside their equations, and what they must not touch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ParallelThingsBlock
from timm.task import TokenDistillationTask
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dearkd  # noqa: F401 - registers the small CNNs
from dearkd.errors import UserError
from dearkd.losses import scale_target
from dearkd.models.heads import learning_heads
from dearkd.models.pairs import AlignedPair, default_pair, spread_pairs
from dearkd.models.teacher import Teacher
from dearkd.models.vit import DearKDVisionTransformer
from dearkd.objectives import CrossEntropy, DearKD, Distillation
from dearkd.training.settings import Pair

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 4,
    "num_classes": 10,
}


def student(cls: type[nn.Module] = VisionTransformerDistilled, **kwargs: Any) -> Any:
    torch.manual_seed(1)
    model = cls(**{**TINY, **kwargs})
    model.pretrained_cfg = {"mean": MEAN, "std": STD, "architecture": "toy_vit"}
    return model


def dearkd_student() -> Any:
    return student(DearKDVisionTransformer, mhca_depth=2)


def teacher(num_classes: int = 10) -> Teacher:
    torch.manual_seed(2)
    model = timm.create_model(
        "dearkd_resnet10t_32", channels=(8, 8, 12, 16), num_classes=num_classes
    )
    for name, buffer in model.named_buffers():  # statistics that a stray update would change
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return Teacher(model, student_mean=MEAN, student_std=STD, img_size=16)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(6, 3, 16, 16), torch.randint(10, (6,))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_deit_objectives_equal_timms_task(kind: str, batch: tuple[Tensor, Tensor]) -> None:
    """Same loss, terms and gradients; teacher and student normalise differently."""
    ours, theirs, own_teacher = student(), student(), teacher()
    if kind == "hard":
        objective: nn.Module = Distillation(ours, own_teacher)
        weights = {"task_loss_weight": 0.5}
    else:
        objective = Distillation(ours, own_teacher, "soft")
        weights = {"task_loss_weight": 0.9, "temperature": 3.0}
    task = TokenDistillationTask(
        student_model=theirs,
        teacher_model=own_teacher.model,
        criterion=nn.CrossEntropyLoss(),
        distill_type=kind,
        verbose=False,
        **weights,
    )
    terms, reference = objective.train()(*batch), task.train()(*batch)
    terms["loss"].backward()
    reference["loss"].backward()
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(terms["loss"], reference["loss"], **close)
    torch.testing.assert_close(terms["class"], reference["task_loss"].detach(), **close)
    torch.testing.assert_close(terms["distillation"], reference["distill_loss"].detach(), **close)
    expected = gradients(theirs)
    assert gradients(ours).keys() == expected.keys()
    for name, grad in gradients(ours).items():
        torch.testing.assert_close(grad, expected[name], **close, msg=name)


@pytest.mark.parametrize("soft_targets", [False, True])
def test_dearkd_is_its_equation(soft_targets: bool, batch: tuple[Tensor, Tensor]) -> None:
    images, targets = batch
    if soft_targets:
        targets = torch.randn(6, 10).softmax(1)
    model, own_teacher = dearkd_student(), teacher()
    pairs = [AlignedPair(0, 2), AlignedPair(1, 3)]
    objective = DearKD(model, own_teacher, pairs, hidden_weight=0.3).train()
    terms = objective(images, targets)

    labels = own_teacher(images).logits.argmax(1)
    class_logits, dist_logits = model(images)
    tokens = model.patch_embed(images)
    tokens = model._pos_embed(tokens)
    hidden = []
    with torch.no_grad():
        for block, aligner, stage in zip(model.blocks, objective.aligners, (2, 3), strict=False):
            tokens = block(tokens)
            grid = tokens[:, 2:].transpose(1, 2).reshape(6, 16, 4, 4)
            (target,) = own_teacher(images, [stage]).features
            aligned = aligner(grid, tuple(target.shape[-2:]))
            hidden.append(F.mse_loss(aligned, scale_target(target, nonnegative=True)))
    expected = (
        F.cross_entropy(class_logits, targets) / 2
        + F.cross_entropy(dist_logits, labels) / 2
        + 0.3 * (hidden[0] + hidden[1])
    )
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=1e-6)
    for name, value in (("hidden_0", hidden[0]), ("hidden_1", hidden[1])):
        torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms["hidden"], hidden[0] + hidden[1], rtol=1e-5, atol=1e-6)
    share = (dist_logits.argmax(1) == labels).float().mean()
    torch.testing.assert_close(terms["teacher_agreement"], share)


def test_cross_entropy_trains_both_heads_on_the_labels(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    model = student()
    terms = CrossEntropy(model).train()(images, labels)
    class_logits, dist_logits = model(images)
    terms["loss"].backward()
    halves = F.cross_entropy(class_logits, labels), F.cross_entropy(dist_logits, labels)
    torch.testing.assert_close(terms["loss"], sum(halves) / 2)
    torch.testing.assert_close(terms["class"], halves[0].detach())
    torch.testing.assert_close(terms["distillation"], halves[1].detach())
    assert gradients(model).keys() == dict(model.named_parameters()).keys()


def test_cross_entropy_of_a_plain_classifier(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    model = teacher().model.requires_grad_(True)
    terms = CrossEntropy(model).eval()(images, labels)
    assert terms.keys() == {"loss", "class"}
    torch.testing.assert_close(terms["loss"], F.cross_entropy(model(images), labels))


def test_hard_distillation_on_the_class_token_alone(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    model = student(timm.models.vision_transformer.VisionTransformer)
    own_teacher = teacher()
    terms = Distillation(model, own_teacher, token="class").train()(images, labels)
    logits, decided = model(images), own_teacher(images).logits.argmax(1)
    expected = F.cross_entropy(logits, labels) / 2 + F.cross_entropy(logits, decided) / 2
    torch.testing.assert_close(terms["loss"], expected)


def test_without_labels_both_heads_learn_from_the_teacher(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    model, own_teacher = student(), teacher()
    objective = Distillation(model, own_teacher, "soft", class_weight=0.0, temperature=2.0).train()
    terms = objective(images, labels)
    wanted = (own_teacher(images).logits / 2).softmax(1)
    halves = [
        4 * F.kl_div((logits / 2).log_softmax(1), wanted, reduction="batchmean")
        for logits in model(images)
    ]
    torch.testing.assert_close(terms["loss"], sum(halves) / 2)
    torch.testing.assert_close(terms["class_distillation"], halves[0].detach())
    torch.testing.assert_close(terms["distillation"], halves[1].detach())
    assert "class" not in terms
    assert torch.equal(objective(images, 9 - labels)["loss"], terms["loss"])  # labels are not seen


@pytest.mark.parametrize("logits", ["soft", "standardized"])
def test_class_head_alone_learns_what_the_teacher_says(
    logits: Any, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    model, own_teacher = student(timm.models.vision_transformer.VisionTransformer), teacher()
    terms = Distillation(model, own_teacher, logits, class_weight=0.25).train()(images, labels)
    ours, theirs = model(images), own_teacher(images).logits
    if logits == "standardized":
        ours, theirs = (
            (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True)
            for z in (ours, theirs)
        )
    tau = 3 if logits == "soft" else 2
    taught = F.kl_div((ours / tau).log_softmax(1), (theirs / tau).softmax(1), reduction="none")
    expected = 0.25 * F.cross_entropy(model(images), labels) + 0.75 * tau**2 * taught.sum() / 6
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=1e-6)


def test_dearkd_takes_every_kind_of_logits(batch: tuple[Tensor, Tensor]) -> None:
    for logits, weight in (("soft", 0.9), ("standardized", 0.0)):
        plain = Distillation(dearkd_student(), teacher(), logits, class_weight=weight)
        whole = DearKD(dearkd_student(), teacher(), logits=logits, class_weight=weight)
        ours, theirs = whole.train()(*batch), plain.train()(*batch)
        torch.testing.assert_close(ours["loss"], theirs["loss"] + ours["hidden"])


def test_hidden_features_without_the_teachers_labels(batch: tuple[Tensor, Tensor]) -> None:
    objective = DearKD(dearkd_student(), teacher(), alpha=0.0).train()
    terms = objective(*batch)
    torch.testing.assert_close(terms["loss"], terms["class"] + terms["hidden"])
    assert "distillation" not in terms
    terms["loss"].backward()
    assert learning_heads(objective.student) == ("class",)


def test_heads_without_a_scale() -> None:
    plain = student(timm.models.vision_transformer.VisionTransformer)
    plain.pretrained_cfg = {**plain.pretrained_cfg, "classifier": "head"}
    unscaled = {
        (kind, weight, name): Distillation(
            model, teacher(), kind, class_weight=weight
        ).heads_without_scale
        for kind in ("hard", "soft", "standardized")
        for weight in (0.0, 0.5)
        for name, model in (("two", student()), ("one", plain))
    }
    assert {key: heads for key, heads in unscaled.items() if heads} == {
        ("standardized", 0.0, "two"): ("class", "distillation"),
        ("standardized", 0.5, "two"): ("distillation",),
        ("standardized", 0.0, "one"): ("class",),
    }
    plain.pretrained_cfg = {"architecture": "toy_vit"}
    with pytest.raises(UserError, match="its last layer is not known"):
        Distillation(plain, teacher(), "standardized", class_weight=0.0)


def test_spread_pairs_are_three_blocks_and_three_grids(batch: tuple[Tensor, Tensor]) -> None:
    own_teacher = teacher()
    grids = [stage.grid for stage in own_teacher.stages]
    assert grids == [(16, 16), (16, 16), (8, 8), (4, 4), (2, 2)]
    objective = DearKD(dearkd_student(), own_teacher, pair_preset="early-middle-late").train()
    assert [(pair.block, pair.stage) for pair in objective.pairs] == [(0, 1), (1, 2), (2, 4)]
    assert [(p.block, p.stage) for p in spread_pairs(student(depth=12), own_teacher)] == [
        (0, 1),
        (5, 2),
        (11, 4),
    ]
    model, (images, _) = objective.student, batch
    terms = objective(*batch)
    tokens, hidden = model._pos_embed(model.patch_embed(images)), []
    with torch.no_grad():
        for block, aligner, stage in zip(model.blocks, objective.aligners, (1, 2, 4), strict=True):
            tokens = block(tokens)
            grid = tokens[:, 2:].transpose(1, 2).reshape(6, 16, 4, 4)
            (target,) = own_teacher(images, [stage]).features
            size = max(4, target.shape[-1])
            grown = [F.interpolate(m, (size, size), mode="bilinear") for m in (grid, target)]
            kernel = aligner.proj.weight[:, :, 0, 0]
            aligned = torch.einsum("oi,bihw->bohw", kernel, grown[0])
            aligned = aligned + aligner.proj.bias[:, None, None]
            hidden.append(F.mse_loss(aligned, grown[1]))
    torch.testing.assert_close(terms["hidden"], sum(hidden), rtol=1e-5, atol=1e-6)
    halves = (terms["class"] + terms["distillation"]) / 2
    torch.testing.assert_close(terms["loss"], halves + 2.5 * terms["hidden"])


def test_spread_pairs_need_three_of_each() -> None:
    with pytest.raises(UserError, match="needs a student of three blocks, and this one has 2"):
        DearKD(student(depth=2), teacher(), pair_preset="early-middle-late")
    flat = teacher()
    flat.stages = flat.stages[:2]
    with pytest.raises(UserError, match="needs a teacher with three grids, and this one has 1"):
        DearKD(student(), flat, pair_preset="early-middle-late")


def test_the_scale_of_a_stage_is_measured_once(batch: tuple[Tensor, Tensor]) -> None:
    images, _ = batch
    objective = DearKD(dearkd_student(), teacher(), target_scale="stage").train()
    assert objective(*batch)["hidden"].isnan()
    objective.measure_targets(iter(images.split(4)))
    (target,) = objective.teacher(images, objective.stages).features
    rms = target.square().mean().sqrt()
    torch.testing.assert_close(objective.aligners[0].target_rms, rms)
    assert not objective.aligners[0].target_mean.any()
    assert objective(*batch)["hidden"].isfinite()
    again = DearKD(dearkd_student(), teacher(), target_scale="stage")
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.train()(*batch)["loss"], objective(*batch)["loss"])


def test_a_norm_goes_with_targets_of_one_norm() -> None:
    def has_norm(**given: Any) -> bool:
        return DearKD(dearkd_student(), teacher(), **given).form.aligner_norm

    assert has_norm() and has_norm(target_scale="position")
    assert not has_norm(target_scale="stage")
    assert has_norm(target_scale="stage", aligner_norm=True)
    assert not has_norm(pair_preset="early-middle-late", target_scale="position")


def objectives() -> dict[str, nn.Module]:
    return {
        "dearkd": DearKD(dearkd_student(), teacher()),
        "hard": Distillation(student(), teacher()),
        "soft": Distillation(student(), teacher(), "soft"),
        "standardized": Distillation(student(), teacher(), "standardized"),
        "unlabelled": Distillation(student(), teacher(), "soft", class_weight=0.0),
        "spread": DearKD(dearkd_student(), teacher(), pair_preset="early-middle-late"),
    }


KINDS = ["dearkd", "hard", "soft", "standardized", "unlabelled", "spread"]


@pytest.mark.parametrize("name", KINDS)
def test_a_step_trains_everything_but_the_teacher(name: str, batch: tuple[Tensor, Tensor]) -> None:
    objective: Any = objectives()[name]
    before = {k: v.clone() for k, v in objective.teacher.state_dict().items()}
    objective.train()
    assert objective.student.training
    assert not any(module.training for module in objective.teacher.modules())
    objective(*batch)["loss"].backward()
    for key, parameter in objective.named_parameters():
        if key.startswith("teacher."):
            assert parameter.grad is None, key
        else:
            assert parameter.grad is not None, key
    torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1).step()
    for key, value in objective.teacher.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", KINDS)
def test_only_the_loss_has_a_graph(name: str, batch: tuple[Tensor, Tensor]) -> None:
    terms = objectives()[name].train()(*batch)
    assert all(term.shape == () for term in terms.values())
    assert [key for key, term in terms.items() if term.requires_grad] == ["loss"]


@pytest.mark.parametrize("name", KINDS)
def test_an_image_has_the_same_loss_in_any_batch(name: str, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    objective = objectives()[name].double().train()
    together = objective(images.double(), labels)
    alone = [
        objective(image[None].double(), label[None])
        for image, label in zip(images, labels, strict=True)
    ]
    for key, term in together.items():
        mean = torch.stack([terms[key].double() for terms in alone]).mean()
        torch.testing.assert_close(term.double(), mean, rtol=1e-6, atol=1e-6)


def test_the_hidden_loss_goes_down(batch: tuple[Tensor, Tensor]) -> None:
    objective = DearKD(dearkd_student(), teacher(), hidden_weight=1.0).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    values = []
    for _ in range(60):
        terms = objective(*batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        values.append(terms["hidden"].item())
    assert values[-1] < 0.5 * values[0]


def test_default_pair_is_the_last_mhca_block_and_the_nearest_grid() -> None:
    assert default_pair(dearkd_student(), teacher()) == AlignedPair(1, 3)
    twelve = student(depth=12)
    assert default_pair(twelve, teacher()) == AlignedPair(7, 3)
    assert default_pair(student(block_fn=ParallelThingsBlock), teacher()) == AlignedPair(1, 3)
    pairs = DearKD(dearkd_student(), teacher()).pairs
    assert pairs == (AlignedPair(1, 3, nonnegative=True),)


def test_sign_can_be_overridden_by_the_configs_pair() -> None:
    objective = DearKD(dearkd_student(), teacher(), [Pair(block=0, stage=3, nonnegative=False)])
    assert isinstance(objective.aligners[0].act, nn.Identity)
    automatic = DearKD(dearkd_student(), teacher(), [Pair(block=0, stage=3)])
    assert isinstance(automatic.aligners[0].act, nn.ReLU)


def test_a_pair_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="block 0 with stage 3 twice"):
        DearKD(student(), teacher(), pairs=[AlignedPair(0, 3), AlignedPair(0, 3)])


def test_two_pairs_may_share_a_block_or_a_stage(batch: tuple[Tensor, Tensor]) -> None:
    pairs = [AlignedPair(1, 3), AlignedPair(0, 3), AlignedPair(1, 2)]
    terms = DearKD(dearkd_student(), teacher(), pairs).train()(*batch)
    parts = [terms[f"hidden_{i}"] for i in range(3)]
    torch.testing.assert_close(terms["hidden"], sum(parts))
    assert len({part.item() for part in parts}) == 3


def test_student_without_a_distillation_token(batch: tuple[Tensor, Tensor]) -> None:
    plain = student(timm.models.vision_transformer.VisionTransformer)
    for build in (DearKD, Distillation):
        with pytest.raises(ValueError, match="student toy_vit has no distillation token; choose"):
            build(plain, teacher(), token="distillation")
        assert build(plain, teacher()).train()(*batch)["loss"].isfinite()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Distillation(student(), teacher(7)), "has 10 classes and the teacher 7"),
        (lambda: Distillation(student(), teacher(), token="class"), "toy_vit untrained"),
        (lambda: Distillation(student(), teacher(), alpha=1.5), "alpha must be .* got 1.5"),
        (lambda: Distillation(student(), teacher(), "soft", temperature=0.0), "temperature must"),
        (lambda: Distillation(student(), teacher(), alpha=0.0), "leaves nothing to learn"),
        (lambda: DearKD(student(), teacher(), alpha=0.0, hidden_weight=0.0), "leaves nothing to"),
        (
            lambda: Distillation(student(num_classes=2), teacher(2), "standardized"),
            "at least 3 classes, got 2",
        ),
        (lambda: DearKD(student(), teacher(), hidden_weight=-1.0), "at least 0, got -1.0"),
        (lambda: DearKD(student(), teacher(), [AlignedPair(3, 0)]), "block must be 0 to 2 .* 3"),
        (lambda: DearKD(student(), teacher(), [AlignedPair(0, 5)]), "stage must be 0 to 4 .* 5"),
    ],
)
def test_what_does_not_fit_is_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_under_ddp_every_trained_parameter_is_reduced(batch: tuple[Tensor, Tensor]) -> None:
    plain, wrapped = objectives()["dearkd"].train(), objectives()["dearkd"].train()
    plain.load_state_dict(wrapped.state_dict())
    parallel = DistributedDataParallel(wrapped)
    for _ in range(2):  # a second step fails where a parameter took no part in the first
        plain(*batch)["loss"].backward()
        parallel(*batch)["loss"].backward()
    expected = gradients(plain)
    for name, grad in gradients(wrapped).items():
        torch.testing.assert_close(grad, expected[name], msg=name)


def test_under_bf16_autocast_the_terms_are_float32(batch: tuple[Tensor, Tensor]) -> None:
    exact = objectives()["dearkd"].train()(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objectives()["dearkd"].train()(*batch)
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
    torch.testing.assert_close(terms["class"], exact["class"], rtol=0.05, atol=0.05)
