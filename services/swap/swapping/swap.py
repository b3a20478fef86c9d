"""One subject's face onto one face of a picture."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.swap.stage import FluxFaceParams
from services.swap.swapping.align import Matrix, cropped, matrix_of, resized
from services.swap.swapping.boost import joined, parted
from services.swap.swapping.masks import box_mask, occlusion_mask, parsed_mask
from services.swap.swapping.networks import Networks
from services.swap.swapping.paste import coloured, mask_of, paste
from services.swap.swapping.restore import BOOST_PX, Restoring, face_boost
from services.swap.swapping.swapper import Swapper
from shared.vision.blend import Mask
from shared.vision.codec import Image
from shared.vision.networks.insight import InsightFace


class Crop(NamedTuple):
    """A face upright, and how it came to be so."""

    pixels: Image
    matrix: Matrix
    """From the picture to the crop."""

    @property
    def side_px(self) -> int:
        """Of the square."""
        return int(self.pixels.shape[0])


def swapped_crop(swapper: Swapper, crop: Image, latent: NDArray[np.float32]) -> Image:
    """The crop with the looks that the latent tells; one larger than the network's goes part by part."""
    return joined(swapper.swap(parted(crop, swapper.side_px), latent))


def swap(
    image: Image,
    face: InsightFace,
    latent: NDArray[np.float32],
    networks: Networks,
    params: FluxFaceParams,
    restoring: Restoring | None = None,
) -> Image | str:
    """The picture with a face swapped; or why it is left alone.

    Args:
        image: uint8 RGB.
        face: of the picture.
        latent: whose face it is to be, as `Swapper.latent` gives it.
        networks: the swapper, and those that the masks want.
        params: of the step.
        restoring: how the crop is sharpened before it is laid in; None leaves it.

    Raises:
        Permanent: a network gives what is no picture or no mask.
    """
    side_px = max(params.boost_px, networks.swapper.side_px)
    matrix = matrix_of(face.points, side_px, params.alignment)
    if matrix is None:
        return "its key points span no face"
    own = cropped(image, matrix, side_px, params.alignment)
    new = swapped_crop(networks.swapper, own, latent)
    masks = _masks(own, new, networks, params)
    new = coloured(new, own, masks, params.colour_match)
    laid = Crop(new, matrix)
    if restoring is not None:
        laid = Crop(face_boost(new, restoring), resized(matrix, BOOST_PX / side_px))
    published = "insightface" in params.masks
    mask = mask_of(laid.matrix, laid.side_px, (image.shape[0], image.shape[1]), masks, published, params.strength)
    if mask is None:
        return "it is too small, lies outside the picture, or is hidden: nothing of a swapped face would show"
    return paste(image, laid.pixels, laid.matrix, mask, published, laid.side_px > networks.swapper.side_px)


def _masks(own: Image, new: Image, networks: Networks, params: FluxFaceParams) -> list[Mask]:
    """Those that are made of the crop: what hides the face is seen before the swap, what is face after it."""
    masks: list[Mask] = []
    if "box" in params.masks:
        masks.append(box_mask(own.shape[0], params.box_blur, params.box_padding))
    if networks.occluder is not None:
        masks.append(occlusion_mask(own, networks.occluder, params.occluder))
    if networks.parser is not None:
        masks.append(parsed_mask(new, networks.parser))
    return masks
