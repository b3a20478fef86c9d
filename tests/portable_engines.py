"""The portable engines and their parts, built once for all tests: building takes most of a second."""

from functools import cache

from services.identity.portable import PortableEncoder
from services.qa.portable import PortableScorer
from shared.vision.embedding import FaceEncoder
from shared.vision.faces import FaceFinder


@cache
def finder() -> FaceFinder:
    return FaceFinder()


@cache
def encoder() -> FaceEncoder:
    return FaceEncoder()


@cache
def identity_engine() -> PortableEncoder:
    return PortableEncoder()


@cache
def qa_engine() -> PortableScorer:
    return PortableScorer()
