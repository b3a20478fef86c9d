"""The aligned crop, the face parser's file format, and the bare face."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d, interpolate

from shared.contracts.errors import InvalidInput, Permanent
from shared.vision.networks.crop512 import BORDER, TEMPLATE, crop512, crop_matrix, moved
from shared.vision.networks.parsing import (
    CLASSES,
    WHITE_CLASSES,
    FaceParser,
    grey_on_white,
    layout,
    load_parser,
    parse,
)
from tests.engines.synthetic_antelope import ASTRONAUT_POINTS
from tests.photos import astronaut

PUBLISHED_BYTES = 53_289_463
"""Of parsing_bisenet.pth."""

POINTS = np.array(ASTRONAUT_POINTS)


@pytest.fixture(scope="module")
def parser() -> FaceParser:
    torch.manual_seed(0)
    return FaceParser().eval()


# The crop


@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.1, 10),
    shift=st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)),
)
def test_points_of_the_template_s_shape_land_on_it(degrees: float, scale: float, shift: tuple[float, float]) -> None:
    """However the face is turned, however large and wherever it is."""
    turn = np.asarray(cv2.getRotationMatrix2D((0, 0), degrees, scale), np.float64)
    points = moved(TEMPLATE, turn) + shift
    assert moved(points, crop_matrix(points)) == pytest.approx(TEMPLATE, abs=0.01)


def test_a_real_face_lands_near_the_template() -> None:
    apart = np.linalg.norm(moved(POINTS, crop_matrix(POINTS)) - TEMPLATE, axis=1)
    assert apart.max() < 30


def test_one_point_that_is_off_does_not_tilt_the_face() -> None:
    """Least median of squares: the other four decide."""
    points = TEMPLATE.copy()
    points[4] += (60, -80)
    assert moved(TEMPLATE, crop_matrix(points))[:4] == pytest.approx(TEMPLATE[:4], abs=0.5)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (25, 1.0), (-40, 1.5), (10, 2.0)])
def test_a_turned_and_scaled_photo_gives_the_same_crop(degrees: float, scale: float) -> None:
    """Up to what interpolating twice costs: 2 grey levels on average within the photo."""
    photo = astronaut()
    side = round(512 * scale)
    matrix = np.asarray(cv2.getRotationMatrix2D(ASTRONAUT_POINTS[2], degrees, scale), np.float64)
    matrix[:, 2] += side / 2 - POINTS[2]
    turned = np.asarray(cv2.warpAffine(photo, matrix, (side, side), flags=cv2.INTER_CUBIC), np.uint8)
    inside = crop512(np.full((side, side, 3), 255, np.uint8), moved(POINTS, matrix)).min(axis=2) == 255
    inside &= crop512(np.full((512, 512, 3), 255, np.uint8), POINTS).min(axis=2) == 255
    apart = np.abs(crop512(photo, POINTS).astype(int) - crop512(turned, moved(POINTS, matrix)))
    assert inside.mean() > 0.7
    assert apart[inside].mean() < 2.0


def test_beyond_the_photo_is_grey() -> None:
    corner = crop512(np.zeros((300, 300, 3), np.uint8), TEMPLATE)[-1, -1]
    assert tuple(corner) == BORDER


def test_points_in_one_place_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no face can be brought upright"):
        crop_matrix(np.full((5, 2), 100.0))


# The parser


def test_the_layout_is_the_published_one(parser: FaceParser) -> None:
    """Names, shapes and the size of facexlib's parsing_bisenet: 53.25 MB of tensors in a pickle of 53.29 MB."""
    names = layout(parser)
    assert len(names) == 160
    state = parser.state_dict()
    taken = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert 0 < PUBLISHED_BYTES - taken < 200 * len(state)
    assert {name.split(".")[0] for name in names} == {"cp", "ffm", "conv_out", "conv_out16", "conv_out32"}
    for name, shape in {
        "cp.resnet.conv1.weight": (64, 3, 7, 7),
        "cp.resnet.bn1.running_mean": (64,),
        "cp.resnet.layer1.0.conv1.weight": (64, 64, 3, 3),
        "cp.resnet.layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "cp.resnet.layer2.0.downsample.1.running_var": (128,),
        "cp.resnet.layer4.1.conv2.weight": (512, 512, 3, 3),
        "cp.arm16.conv.conv.weight": (128, 256, 3, 3),
        "cp.arm16.conv_atten.weight": (128, 128, 1, 1),
        "cp.arm32.bn_atten.bias": (128,),
        "cp.arm32.conv.bn.weight": (128,),
        "cp.conv_head32.conv.weight": (128, 128, 3, 3),
        "cp.conv_head16.bn.bias": (128,),
        "cp.conv_avg.conv.weight": (128, 512, 1, 1),
        "ffm.convblk.conv.weight": (256, 256, 1, 1),
        "ffm.conv1.weight": (64, 256, 1, 1),
        "ffm.conv2.weight": (256, 64, 1, 1),
        "conv_out.conv.conv.weight": (256, 256, 3, 3),
        "conv_out.conv_out.weight": (19, 256, 1, 1),
        "conv_out16.conv.conv.weight": (64, 128, 3, 3),
        "conv_out32.conv_out.weight": (19, 64, 1, 1),
    }.items():
        assert names[name] == shape


@pytest.mark.parametrize("counters", [True, False])
def test_a_file_is_loaded_whole(parser: FaceParser, tmp_path: Path, counters: bool) -> None:
    """Whether or not the batch norms' training counters are in it."""
    state = {name: one for name, one in parser.state_dict().items() if counters or "num_batches" not in name}
    save_file(state, tmp_path / "parser.safetensors")
    loaded = load_parser(tmp_path / "parser.safetensors")
    assert not loaded.training
    for name, tensor in parser.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_another_file_is_refused(parser: FaceParser, tmp_path: Path) -> None:
    state = dict(parser.state_dict())
    state["fc.weight"] = state.pop("ffm.conv1.weight").clone()
    state["cp.resnet.bn1.bias"] = torch.zeros(32)
    save_file(state, tmp_path / "parser.safetensors")
    with pytest.raises(Permanent) as told:
        load_parser(tmp_path / "parser.safetensors")
    for part in ("1 missing: ffm.conv1.weight", "1 unexpected: fc.weight", "cp.resnet.bn1.bias is [32] instead of"):
        assert part in str(told.value)


def test_the_network_computes_what_was_published() -> None:
    """Against the published order of operations written out over the state dict, without any of the modules."""
    torch.manual_seed(1)
    parser = FaceParser().eval()
    for name, tensor in parser.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith(("running_mean", "bn1.bias", "bn.bias")):
            tensor.normal_(std=0.2)
    state = parser.state_dict()
    conv, relu = torch.nn.functional.conv2d, torch.relu

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, gain, bias = (
            state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        normed: torch.Tensor = (x - mean) / torch.sqrt(var + 1e-5) * gain + bias
        return normed

    def cbr(x: torch.Tensor, name: str, padding: int = 1) -> torch.Tensor:
        return relu(norm(conv(x, state[f"{name}.conv.weight"], padding=padding), f"{name}.bn"))

    def block(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = relu(norm(conv(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
        y = norm(conv(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:
            x = norm(conv(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
        return relu(x + y)

    def whole(x: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = avg_pool2d(x, list(x.shape[2:]))
        return pooled

    def arm(x: torch.Tensor, name: str) -> torch.Tensor:
        y = cbr(x, f"{name}.conv")
        weights: torch.Tensor = norm(conv(whole(y), state[f"{name}.conv_atten.weight"]), f"{name}.bn_atten").sigmoid()
        return y * weights

    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        x = relu(norm(conv(pixels, state["cp.resnet.conv1.weight"], stride=2, padding=3), "cp.resnet.bn1"))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        x = block(block(x, "cp.resnet.layer1.0", 1), "cp.resnet.layer1.1", 1)
        x8 = block(block(x, "cp.resnet.layer2.0", 2), "cp.resnet.layer2.1", 1)
        x16 = block(block(x8, "cp.resnet.layer3.0", 2), "cp.resnet.layer3.1", 1)
        x32 = block(block(x16, "cp.resnet.layer4.0", 2), "cp.resnet.layer4.1", 1)
        up = interpolate(cbr(whole(x32), "cp.conv_avg", 0), x32.shape[2:], mode="nearest")
        up = cbr(interpolate(arm(x32, "cp.arm32") + up, x16.shape[2:], mode="nearest"), "cp.conv_head32")
        up = cbr(interpolate(arm(x16, "cp.arm16") + up, x8.shape[2:], mode="nearest"), "cp.conv_head16")
        fused = cbr(torch.cat([x8, up], dim=1), "ffm.convblk", 0)
        weights = torch.sigmoid(conv(relu(conv(whole(fused), state["ffm.conv1.weight"])), state["ffm.conv2.weight"]))
        out = conv(cbr(fused * weights + fused, "conv_out.conv"), state["conv_out.conv_out.weight"])
        expected = interpolate(out, (64, 96), mode="bilinear", align_corners=True)
        torch.testing.assert_close(parser(pixels), expected, rtol=1e-4, atol=1e-5)


def test_each_pixel_gets_a_class(parser: FaceParser) -> None:
    labels = parse(parser, crop512(astronaut(), POINTS))
    assert labels.shape == (512, 512)
    assert labels.dtype == np.uint8
    assert labels.max() < CLASSES


def test_parsing_normalises_as_imagenet(parser: FaceParser) -> None:
    """The same labels as from scores of pixels normalised by hand."""
    face = crop512(astronaut(), POINTS)[:64, :64]
    pixels = (face / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.inference_mode():
        scores = parser(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))
    assert (parse(parser, face) == scores[0].argmax(0).numpy()).mean() > 0.999


def test_scores_that_are_no_numbers_are_an_error_and_no_background() -> None:
    broken = FaceParser(width=8).eval()
    broken.conv_out.conv_out.weight.data.fill_(torch.nan)
    with pytest.raises(Permanent, match="gave what is no number"):
        parse(broken, crop512(astronaut(), POINTS)[:64, :64])


# The bare face


def test_the_face_is_grey_and_the_rest_white() -> None:
    """Against the formula, pixel by pixel and class by class."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (38, 3, 3), np.uint8)
    labels = np.repeat(np.arange(19), 6).reshape(38, 3)
    bare = grey_on_white(rgb, labels)
    assert bare.dtype == np.float32
    assert bare.shape == rgb.shape
    for y in range(38):
        for x in range(3):
            r, g, b = (int(level) / 255 for level in rgb[y, x])
            white = labels[y, x] in (0, 7, 8, 9, 14, 15, 16, 18)
            expected = 1.0 if white else 0.299 * r + 0.587 * g + 0.114 * b
            assert bare[y, x].tolist() == pytest.approx([expected] * 3, abs=1e-6)


def test_hair_glasses_and_lips_are_kept() -> None:
    assert set(range(CLASSES)) - set(WHITE_CLASSES) == {1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 17}
