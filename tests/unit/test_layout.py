"""Where things lie in the bucket."""

import hashlib

import pytest
from pydantic import TypeAdapter

from shared.contracts.base import ObjectKey
from shared.contracts.errors import InvalidInput
from shared.storage.layout import artifact_ref, inbox_key, manifest_key, subject_prefix

DIGEST = hashlib.sha256(b"pixels").hexdigest()


def test_everything_of_a_subject_lies_below_its_prefix_and_below_no_other() -> None:
    keys = [artifact_ref("dr-a", "photo", b"pixels", "image/png").key, manifest_key("dr-a", DIGEST)]
    assert all(key.startswith(subject_prefix("dr-a")) for key in keys)
    assert not any(key.startswith(subject_prefix("dr-")) for key in keys)
    assert not any(key.startswith(subject_prefix("dr-aa")) for key in keys)


@pytest.mark.parametrize(
    ("media_type", "ending"),
    [("image/png", "png"), ("image/jpeg", "jpg"), ("application/json", "json"), ("application/octet-stream", "bin")],
)
def test_an_artifact_is_named_by_its_digest_kind_and_type(media_type: str, ending: str) -> None:
    ref = artifact_ref("dr-a", "result", b"pixels", media_type)
    assert ref.key == f"subjects/dr-a/result/{DIGEST}.{ending}"
    assert (ref.sha256, ref.size, ref.media_type) == (DIGEST, 6, media_type)


def test_manifests_and_the_inbox_have_places_of_their_own() -> None:
    assert manifest_key("dr-a", DIGEST) == f"subjects/dr-a/manifests/{DIGEST}.json"
    assert inbox_key(DIGEST, "image/jpeg") == f"inbox/{DIGEST}.jpg"


def test_the_longest_identifiers_still_give_legal_keys() -> None:
    subject = "s" * 64
    key = TypeAdapter(ObjectKey)
    for made in (artifact_ref(subject, "intermediate", b"", "application/json").key, manifest_key(subject, DIGEST)):
        assert key.validate_python(made) == made


def test_an_unknown_media_type_is_refused_with_those_that_are_known() -> None:
    for attempt in (
        lambda: artifact_ref("dr-a", "photo", b"", "image/gif"),
        lambda: inbox_key(DIGEST, "image/gif"),
    ):
        with pytest.raises(
            InvalidInput, match=r"media_type: 'image/gif' is not stored here\. Use image/png, image/jpeg"
        ):
            attempt()
