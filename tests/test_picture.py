"""Networks for pictures, their graphs, and layers that learned before: `pytest tests/test_picture.py`."""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import compose
from torch import nn
from torch.nn import functional as F

from pipelines.errors import ArtifactError, MissingInput
from pipelines.images import moments
from pipelines.models import pretrained
from pipelines.models.augment import augment
from pipelines.models.picture import Cnn, Picture
from pipelines.models.picture_graph import to_onnx
from pipelines.models.pictures import fit_pictures
from pipelines.models.resnet import Block, Resnet
from pipelines.records import Pictures
from pipelines.train_params import Augment, Backbone, Train
from pipelines.train_params import Cnn as CnnSettings

PARITY = 1e-5
FAMILIES = ("cnn", "resnet", "large")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads beside another busy process are many times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(n: int, side: int = 12, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Half of them brighter on the left."""
    made = np.random.default_rng(seed).integers(0, 156, (n, side, side, channels), dtype=np.uint8)
    made[: n // 2, :, : side // 2] += 100
    return made


def network(family: str, channels: int = 1, classes: int = 3, **changed: Any) -> Picture:
    """With the moments of `pixels`, and BatchNorms that have seen some."""
    torch.manual_seed(changed.pop("seed", 0))
    seen = pixels(40, channels=channels)
    told: dict[str, Any] = {"dropout": 0.3, "initial": "kaiming"}
    if family == "cnn":
        told |= {"channels": (8, 16, 24), "convolutions": 2} | changed
        made: Picture = Cnn(*moments(seen), classes, **told)
    else:
        stem = "large" if family == "large" else "small"
        told |= {"depth": 10, "width": 0.125, "stem": stem} | changed
        made = Resnet(*moments(seen), classes, **told)
    for _ in range(3):
        made(torch.from_numpy(seen))
    return made.eval()


def perturbed(made: Picture) -> Picture:
    """What no fresh network has: every weight different from every other."""
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (28, 20), (65, 33)])
def test_any_size_grey_or_colour(family: str, channels: int, size: tuple[int, int]) -> None:
    made = network(family, channels)
    some = torch.randint(0, 256, (4, *size, channels), dtype=torch.uint8)
    logits, embedding = made(some), made.embed(some)
    assert logits.shape == (4, 3)
    assert embedding.shape == (4, made.head.in_features)
    assert torch.allclose(made.head(embedding), logits)
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_224(family: str) -> None:
    made = network(family, 3)
    assert torch.isfinite(made(torch.from_numpy(pixels(2, side=224, channels=3)))).all()


def test_standardised_pictures_have_mean_0_and_deviation_1() -> None:
    seen = pixels(40, channels=3)
    images = network("cnn", 3).standardise(torch.from_numpy(seen))
    assert images.shape == (40, 3, 12, 12)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_standardised_pictures_answer_as_their_pixels_do(family: str) -> None:
    """What augmentation hands over enters past the scaling."""
    made, some = network(family), torch.from_numpy(pixels(4))
    assert torch.equal(made(made.standardise(some)), made(some))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_moments_travel_with_the_weights(family: str) -> None:
    one, other = network(family), network(family, seed=1)
    other.mean += 3
    some = torch.from_numpy(pixels(4))
    assert not torch.allclose(one(some), other(some))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(some), other(some))


@pytest.mark.parametrize("family", FAMILIES)
def test_learns_with_augmentation(family: str) -> None:
    made = network(family, classes=2).train()
    some, label = torch.from_numpy(pixels(40)), torch.arange(40).ge(20).long()
    optimizer = torch.optim.AdamW(pretrained.groups(made, 1e-2, 1e-2, 1.0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        images = augment(made.standardise(some), Augment(shift=1, rotation=5), generator)
        optimizer.zero_grad()
        F.cross_entropy(made(images), label).backward()
        optimizer.step()
    assert (made.eval()(some).argmax(1) == label).float().mean() >= 0.9


@pytest.mark.parametrize("initial", ["kaiming", "xavier", "orthogonal"])
def test_first_weights_by_parameter(initial: str) -> None:
    made = network("resnet", initial=initial)
    kernel = made.layer2[0].conv2.weight
    flat = kernel.reshape(len(kernel), -1).detach()
    if initial == "orthogonal":
        assert torch.allclose(flat @ flat.T, torch.eye(len(flat)), atol=1e-5)
    if initial == "kaiming":
        assert abs(flat.std() / (2 / (9 * len(kernel))) ** 0.5 - 1) < 0.1
    if initial == "xavier":
        assert flat.abs().max() <= (6 / (18 * len(kernel))) ** 0.5
    assert made.head.weight.abs().max() < 0.1
    assert made.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_residual_block_begins_as_its_shortcut() -> None:
    made = network("resnet")
    some = torch.rand(2, 8, 6, 6)
    blocks = [m for m in made.modules() if isinstance(m, Block)]
    assert len(blocks) == 4
    assert all((block.bn2.weight == 0).all() for block in blocks)
    assert torch.equal(made.layer1(some), some)


@pytest.mark.parametrize(("depth", "layers"), [(10, 10), (18, 18), (34, 34)])
def test_the_depth_counts_layers_with_weights(depth: int, layers: int) -> None:
    made = network("resnet", depth=depth)
    kernels = [
        name
        for name, layer in made.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and "downsample" not in name
    ]
    assert len(kernels) == layers


def test_width_multiplies_channels() -> None:
    assert network("resnet", width=1.0).head.in_features == 512
    assert network("resnet", width=0.25).head.in_features == 128


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_but_the_head_is_in_one_depth(family: str) -> None:
    made = network(family)
    grouped = [p for group in made.depths() for layer in group for p in layer.parameters()]
    assert {id(p) for p in grouped} == {id(p) for p in made.parameters()}
    assert len(grouped) == len(list(made.parameters()))
    assert made.depths()[-1] == [made.head]


# ---- as ONNX


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_graph_answers_as_the_network_does(family: str, channels: int) -> None:
    made = perturbed(network(family, channels))
    graph = to_onnx(made, (12, 12), channels)
    onnx.checker.check_model(graph)
    (given_,) = graph.graph.input
    dims = [d.dim_param or d.dim_value for d in given_.type.tensor_type.shape.dim]
    assert (given_.name, dims) == ("pixels", ["rows", 12, 12, channels])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for n in (1, 2, 7):
        some = pixels(n, channels=channels, seed=n)
        probability, embedding = session.run(["probability", "embedding"], {"pixels": some})
        with torch.inference_mode():
            expected = torch.softmax(made(torch.from_numpy(some)), dim=1).numpy()
            features = made.embed(torch.from_numpy(some)).numpy()
        assert probability.dtype == embedding.dtype == np.float32
        assert np.abs(probability - expected).max() <= PARITY
        assert np.abs(embedding - features).max() <= PARITY * max(1, np.abs(features).max())
        assert np.abs(probability.sum(axis=1) - 1).max() <= PARITY


def test_exporting_leaves_the_network_in_the_mode_it_was() -> None:
    made = network("cnn")
    before = copy.deepcopy(made.state_dict())
    for mode in (True, False):
        made.train(mode)
        to_onnx(made, (12, 12), 1)
        assert all(m.training == mode for m in made.modules())
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())


# ---- layers that learned before


def saved(made: Picture, how: str, folder: Path) -> Path:
    state = made.state_dict()
    if how == "artifact":
        graph = compose.add_prefix(to_onnx(made, (12, 12), 1), "model/")
        onnx.save(graph, folder / "model.onnx")
        return folder
    place = folder / f"weights.{how.partition(' ')[0]}"
    if how == "onnx":
        onnx.save(to_onnx(made, (12, 12), 1), place)
    elif how == "safetensors":
        place.write_bytes(safetensors(state))
    elif how == "pt of a training":
        torch.save({"epoch": 3, "state_dict": state}, place)
    elif how == "pth of many GPUs":
        torch.save({f"module._orig_mod.{k}": v for k, v in state.items()}, place)
    else:
        torch.save(state, place)
    return place


def safetensors(state: dict[str, torch.Tensor]) -> bytes:
    """Written as its specification says, by other code than reads it."""
    names = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for key, value in state.items():
        raw = bytes(value.contiguous().reshape(-1).view(torch.uint8).numpy())
        shape, place = list(value.shape), [len(body), len(body) + len(raw)]
        header[key] = {"dtype": names[value.dtype], "shape": shape, "data_offsets": place}
        body += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


FORMS = (
    "pt", "pth of many GPUs", "pt of a training", "safetensors", "onnx", "artifact",
)  # fmt: skip


@pytest.mark.parametrize("family", ["cnn", "resnet"])
@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize("fresh", [True, False])
def test_begins_with_what_another_learned(
    family: str, how: str, fresh: bool, tmp_path: Path
) -> None:
    """A fresh network too: many of its weights are equal, and each must come back."""
    one = network(family) if fresh else perturbed(network(family))
    other, some = network(family, seed=1), torch.from_numpy(pixels(4))
    place = saved(one, how, tmp_path)
    pretrained.begin_with(other, pretrained.weights(place), place)
    assert torch.equal(one(some), other(some))


@pytest.mark.parametrize("how", FORMS)
def test_other_classes_get_a_head_of_their_own(how: str, tmp_path: Path) -> None:
    one, other = perturbed(network("resnet")), network("resnet", classes=5, seed=1)
    head, some = other.head.weight.clone(), torch.from_numpy(pixels(4))
    place = saved(one, how, tmp_path)
    pretrained.begin_with(other, pretrained.weights(place), place)
    assert torch.equal(other.head.weight, head)
    assert torch.equal(one.embed(some), other.embed(some))


def test_torchvisions_names_fit() -> None:
    """Of its resnet18, the shapes as published: 62 tensors besides the counters and the head."""
    made = network("large", channels=3, width=1.0, depth=18)
    state = {k: v for k, v in made.state_dict().items() if k not in ("mean", "deviation")}
    state = {k: v for k, v in state.items() if not k.startswith("head.")}
    state |= {"fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}
    shapes = {
        "conv1.weight": (64, 3, 7, 7), "bn1.running_var": (64,),
        "layer1.1.conv2.weight": (64, 64, 3, 3), "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1), "layer4.0.downsample.1.bias": (512,),
        "layer4.1.bn2.running_mean": (512,),
    }  # fmt: skip
    assert {k: tuple(state[k].shape) for k in shapes} == shapes
    mean = made.mean.clone()
    state["layer3.0.bn1.bias"] = torch.full((256,), 4.0)
    pretrained.begin_with(made, state, Path("resnet18.pth"))
    assert (made.layer3[0].bn1.bias == 4).all()
    assert torch.equal(made.mean, mean)


def test_half_precision_is_read(tmp_path: Path) -> None:
    state = {"a": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)}
    (tmp_path / "w.safetensors").write_bytes(safetensors(state))
    found = pretrained.weights(tmp_path / "w.safetensors")
    assert torch.equal(found["a"], state["a"])


def test_what_does_not_fit_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    one, other = network("resnet", width=0.25), network("resnet")
    before = copy.deepcopy(other.state_dict())
    place = saved(one, "pt", tmp_path)
    wanted = "conv1.weight is (16, 1, 3, 3) in .*; allowed is the network's (8, 1, 3, 3)"
    with pytest.raises(ArtifactError, match=wanted.replace("(", r"\(").replace(")", r"\)")):
        pretrained.begin_with(other, pretrained.weights(place), place)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())


def test_missing_and_unknown_layers_are_named() -> None:
    made, place = network("cnn"), Path("somewhere.pt")
    state = made.state_dict()
    lacking = {k: v for k, v in state.items() if k != "stages.1.0.weight"}
    with pytest.raises(ArtifactError, match=r"no stages\.1\.0\.weight.*\(16, 8, 3, 3\)"):
        pretrained.begin_with(made, lacking, place)
    with pytest.raises(ArtifactError, match=r"has stages\.9\.0\.weight of \(2,\).*allowed are"):
        pretrained.begin_with(made, state | {"stages.9.0.weight": torch.ones(2)}, place)


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize(
    "name", ["trap.pt", "cut.pt", "empty.pt", "text.pt", "text.safetensors", "text.onnx"]
)
def test_a_file_that_is_no_weights_is_refused_and_runs_nothing(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    if name == "trap.pt":
        torch.save({"a": Trap()}, place)
    elif name == "cut.pt":
        whole = saved(network("cnn"), "pt", tmp_path).read_bytes()
        place.write_bytes(whole[: len(whole) // 2])
    else:
        place.write_text("" if name == "empty.pt" else "nothing like it, but more than eight bytes")
    with pytest.raises(ArtifactError, match=re.escape(str(place))):
        pretrained.weights(place)


def test_a_place_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=re.escape(str(tmp_path / "model.onnx"))):
        pretrained.weights(tmp_path)
    (tmp_path / "w.ckpt").touch()
    with pytest.raises(ArtifactError, match=r"'\.ckpt'; allowed are: .*\.safetensors"):
        pretrained.weights(tmp_path / "w.ckpt")


# ---- frozen, and learning slower with depth


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_only_the_head_learns_and_batchnorm_keeps_its_moments(family: str) -> None:
    made = network(family)
    made.freeze()
    made.train()
    before = copy.deepcopy(made.state_dict())
    optimizer = torch.optim.AdamW(pretrained.groups(made, 0.1, 0.1, 1.0))
    made(torch.from_numpy(pixels(8, seed=3))).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in made.state_dict().items() if not torch.equal(before[k], v)}
    assert changed == {"head.weight", "head.bias"}
    assert made.dropout.training


@pytest.mark.parametrize("family", FAMILIES)
def test_unfrozen_all_learns(family: str) -> None:
    made = perturbed(network(family))
    made.freeze()
    made.train()
    made.freeze(False)
    before = copy.deepcopy(made.state_dict())
    optimizer = torch.optim.AdamW(pretrained.groups(made, 0.1, 0.1, 0.5))
    made(torch.from_numpy(pixels(8, seed=3))).square().sum().backward()
    optimizer.step()
    same = {k for k, v in made.state_dict().items() if torch.equal(before[k], v)}
    assert same == {"mean", "deviation"}


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_learn_slower_the_further_from_the_head(family: str) -> None:
    made = network(family)
    found = pretrained.groups(made, 0.01, 0.1, 0.5)
    rate = {id(p): g["lr"] for g in found for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in found for p in g["params"]}
    assert set(rate) == {id(p) for p in made.parameters()}
    depths = made.depths()
    for depth, layers in enumerate(depths):
        for parameter in (p for layer in layers for p in layer.parameters()):
            assert rate[id(parameter)] == pytest.approx(0.01 * 0.5 ** (len(depths) - 1 - depth))
            assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0)


def test_pictures_are_changed_in_float32_whatever_a_step_is_computed_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training's own pictures, as they come to its network."""
    seen: list[torch.Tensor] = []
    real = Cnn.features
    monkeypatch.setattr(
        Cnn, "features", lambda made, images: (seen.append(images), real(made, images))[1]
    )
    rows = Pictures(pixels(16, side=64), np.arange(16) // 8, np.zeros(16, dtype=np.int64))
    loop = CnnSettings(channels=(8,), epochs=1, batch=16)
    turned = Augment(crop=0.5, rotation=90)
    for precision in ("fp32", "bf16"):
        chosen = Train(
            seed=3, family="cnn", cnn=loop, augment=turned, device="cpu", precision=precision
        )
        fit_pictures(rows, rows, (0.5,), (0.3,), 2, chosen, lambda *_: None)
    plain, mixed = seen[0], seen[len(seen) // 2]
    assert plain.dtype == mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_large_pictures_go_through_a_network_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a training asks of it: of 1,024 at 224 a side, a first layer of 32 takes 6.6 GB."""
    passed: list[int] = []
    real = Cnn.features
    monkeypatch.setattr(
        Cnn, "features", lambda made, images: (passed.append(len(images)), real(made, images))[1]
    )
    monkeypatch.setattr("pipelines.images.PIXELS", 5 * 12 * 12)
    rows = Pictures(pixels(23), np.arange(23) // 12, np.zeros(23, dtype=np.int64))
    loop = CnnSettings(channels=(8,), epochs=1, batch=4)
    chosen = Train(seed=3, family="cnn", cnn=loop, device="cpu")
    made = fit_pictures(rows, rows, (0.5,), (0.3,), 2, chosen, lambda *_: None)
    assert made.predict(rows.pixels).shape == (23, 2)
    # 5 batches of 4, then judged, embedded and answered.
    assert (max(passed), sum(passed)) == (5, 20 + 3 * 23)


@pytest.mark.parametrize(("unfreeze", "moves"), [(None, False), (2, False), (1, True), (0, True)])
def test_a_training_unfreezes_at_its_epoch(
    unfreeze: int | None, moves: bool, tmp_path: Path
) -> None:
    """Of two epochs. The head learns in any case, and the weights kept are of the last one."""
    one = perturbed(network("cnn", classes=2))
    place = saved(one, "pt", tmp_path)
    rows = Pictures(pixels(40), np.arange(40) // 20, np.zeros(40, dtype=np.int64))
    loop = CnnSettings(channels=(8, 16, 24), epochs=2, batch=8)
    backbone = Backbone(weights=str(place), unfreeze=unfreeze, layer_decay=0.5)
    chosen = Train(seed=3, family="cnn", cnn=loop, backbone=backbone)
    made = fit_pictures(rows, rows, (0.5,), (0.3,), 2, chosen, lambda epoch, found: None)
    before, after = one.state_dict(), made.network.state_dict()
    body = [k for k in before if not k.startswith("head.") and k not in ("mean", "deviation")]
    assert any(not torch.equal(before[k], after[k]) for k in body) == moves
    if made.best["epoch"] == 1 and moves:
        assert all(not torch.equal(before[k], after[k]) for k in body if k.endswith("weight"))
    assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize("where", ["a folder below", "a worktree"])
def test_weights_are_found_from_the_projects_folder(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """params.yaml stands in a retraining's worktree too, and what git does not hold is not there."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    inner = project / "docs"
    for folder in (inner, project / "weights", elsewhere):
        folder.mkdir(parents=True)
    for folder in (project, elsewhere):
        (folder / "params.yaml").touch()
    one = perturbed(network("cnn", classes=2))
    place = saved(one, "pt", project / "weights")
    rows = Pictures(pixels(40), np.arange(40) // 20, np.zeros(40, dtype=np.int64))
    loop = CnnSettings(channels=(8, 16, 24), epochs=1, batch=8)

    def begun_with(weights: str) -> torch.Tensor:
        backbone = Backbone(weights=weights, unfreeze=None)
        chosen = Train(seed=3, family="cnn", cnn=loop, backbone=backbone)
        made = fit_pictures(rows, rows, (0.5,), (0.3,), 2, chosen, lambda epoch, found: None)
        return made.network.state_dict()[body]

    body = next(name for name, held in one.state_dict().items() if held.ndim == 4)
    monkeypatch.delenv("PERENNIAL_ROOT", raising=False)
    monkeypatch.delenv("PERENNIAL_SOURCES", raising=False)
    monkeypatch.chdir(inner if where == "a folder below" else elsewhere)
    if where == "a worktree":
        with pytest.raises(MissingInput, match=str(elsewhere / "weights")):
            begun_with("weights/weights.pt")
        monkeypatch.setenv("PERENNIAL_SOURCES", str(project))
    assert torch.equal(begun_with("weights/weights.pt"), one.state_dict()[body])
    assert torch.equal(begun_with(str(place)), one.state_dict()[body])
