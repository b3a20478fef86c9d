"""A pack of InsightFace stands once in memory, whichever stages find faces with it."""

from pathlib import Path

from services.identity import tiny
from services.identity.flux import FluxEncoder
from services.identity.stage import FluxEncodeParams
from services.swap.flux_face import FluxFace
from services.swap.flux_face_detail import FluxFaceDetail
from services.swap.stage import FluxFaceDetailParams
from services.upscale.flux import FluxImage
from services.upscale.stage import FluxImageParams
from shared.flux.studio import studio_of
from shared.vision.networks import tiny_restorer, tiny_swapper, tiny_yolo
from shared.vision.networks.insight import ANTELOPEV2
from tests.engines.swap_models import params, write


def test_four_operations_borrow_the_same(tmp_path: Path) -> None:
    """Who guesses sex and age borrows that beside. What they name is what they borrow: their own tests hold that."""
    write(tmp_path)
    tiny.write(tmp_path / "tiny-pulid")
    tiny_swapper.write_pack(tmp_path / "antelopev2", pack=ANTELOPEV2)
    tiny_yolo.write(tmp_path / "faces" / "faces.onnx", ((0.5, 0.5, 0.2, 0.2),))
    tiny_restorer.write(tmp_path / "restorer")
    encode = FluxEncodeParams(model="tiny-pulid", encoder="antelopev2")
    detail = FluxFaceDetailParams(detector="faces", whose="subject", encoder="antelopev2")
    enlarge = FluxImageParams(face_restorer="restorer", face_encoder="antelopev2")
    keys = [
        FluxEncoder(tmp_path, "cpu").resident_keys(encode),
        FluxFace(tmp_path, "cpu").resident_keys(params(encoder="antelopev2")),
        FluxFaceDetail(studio_of(tmp_path, "cpu")).resident_keys(detail),
        FluxImage(tmp_path, "cpu").resident_keys(enlarge),
    ]
    assert frozenset.intersection(*map(frozenset, keys)) == {f"{tmp_path / 'antelopev2'} on cpu"}
