"""Who may not judge: recognisers that had a part in making the picture.

A picture that was led by an encoder's embedding is near to it by that encoder's measure, alike or not: PuLID is led by
antelopev2's glintr100, inswapper by buffalo_l's w600k_r50.
"""

CONDITIONING = {
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": "antelopev2",
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": "buffalo_l",
}
"""SHA-256 of their recognition graphs, and the pack that each is of: a copy by another name is the same encoder."""


def has_a_part(name: str, digest: str = "") -> str | None:
    """By a recogniser's name, or its file's SHA-256, the pack it is of if pictures are made with that; else None."""
    packs = {pack.casefold(): pack for pack in CONDITIONING.values()}
    return packs.get(name.casefold()) or CONDITIONING.get(digest)
