"""The portable hand detailer: finds hands and restores them gently, each within a soft outline of its own."""

from collections.abc import Mapping

import cv2
import numpy as np

from services.swap.stage import HandsParams
from services.swap.unchanged import unchanged
from shared.vision.blend import Mask, Region, feather, from_lab, lay_over, place, polygon_mask, to_lab
from shared.vision.codec import Image, decode
from shared.vision.filters import gaussian, guided, within_neighbourhood
from shared.vision.hands import Hand, HandFinder
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_FLESH_SHARE = 0.22
"""How far a hand's outline lies outside its landmarks, which run along the bones; share of the palm's length."""


class PortableHands:
    """Hands found by MediaPipe, denoised and given back their local contrast."""

    def __init__(self) -> None:
        self._finder = HandFinder()

    def models(self, _: HandsParams) -> Mapping[str, str]:
        return self._finder.models

    def run(self, work: Work[HandsParams]) -> Outcome:
        data = work.one("image")
        image = decode(data)
        hands = self._finder.find(image)[: work.params.max_hands]
        if not hands:
            return unchanged(data, "hands")
        for hand in hands:
            image = restore_hand(image, hand, work.params)
        sizes = [round(hand.palm_px, 1) for hand in hands]
        return Outcome({"image": image_output(image, "intermediate")}, {"hands": len(hands), "palm_px": [*sizes]})


def restore_hand(image: Image, hand: Hand, params: HandsParams) -> Image:
    """A copy of the picture with one hand restored: noise off, edges kept, knuckles and nails a little clearer.

    Lightness is smoothed by a guided filter and gets back its detail of about a fortieth of the palm; colour, where
    noise shows most and detail least, is smoothed alone. No pixel leaves its neighbourhood's range: nothing glows.
    """
    palm = hand.palm_px
    region = Region.around(hand.landmarks, _FLESH_SHARE * palm + 2, image)
    if region.empty:
        return image
    patch = region.of(image)
    radius = max(round(palm / 40), 1)
    lab = to_lab(patch)
    light = lab[..., 0].copy()
    calm = light + params.denoise * (guided(light, radius, epsilon=9.0) - light)
    detail = calm - gaussian(calm, 2.0 * radius)
    lab[..., 0] = within_neighbourhood(calm + params.strength * detail, light, radius)
    for channel in (1, 2):
        colour = lab[..., channel].copy()
        lab[..., channel] = colour + params.denoise * (guided(colour, radius, epsilon=16.0) - colour)
    mask = outline(hand, region)
    return place(image, region, lay_over(patch, from_lab(lab), mask))


def outline(hand: Hand, region: Region) -> Mask:
    """The hand's opacity within the region: the hull of its landmarks, widened to the flesh and feathered inwards."""
    reach = _FLESH_SHARE * hand.palm_px
    hull = np.asarray(cv2.convexHull(hand.landmarks - region.origin)[:, 0], np.float32)
    core = polygon_mask(region.size, hull)
    distance = cv2.distanceTransform(1 - core, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return feather((distance < reach).astype(np.uint8), 0.0, 1.5 * reach)
