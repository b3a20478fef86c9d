"""What a folder of one's own says of the identity encoders in it: `identity_index.json`. Reads no weight.

The catalogue's PuLID needs none: its sizes are the published ones, which are the defaults here.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from shared.contracts.errors import Permanent

INDEX = "identity_index.json"
"""What makes a folder an identity model of one's own."""

ARCFACE_WIDTH = 512
"""Of the embedding that a recogniser gives, whichever it is."""

Count = Annotated[int, Field(ge=1, le=65536)]
RelativePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$")
]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EvaShape(_Data):
    """The vision tower's measures. The defaults are those of EVA02-CLIP-L-14-336."""

    image_size: Count = 336
    patch_size: Count = 14
    width: Count = 1024
    depth: Count = 24
    heads: Count = 16
    projected: Count = 768
    reference_grid: Count = 16
    """The rotary positions run from 0 to this, whatever the number of patches: 224 / 14, as it was pretrained."""
    taps: tuple[Count, ...] = (4, 8, 12, 16, 20)
    """After which blocks, counted from 1, hidden states are taken."""

    @property
    def tokens(self) -> int:
        """How many tokens a hidden state has: the class token and one a patch."""
        return (self.image_size // self.patch_size) ** 2 + 1


class IDFormerShape(_Data):
    """The arguments of IDFormer, its published ones by default."""

    dim: Count = 1024
    depth: Count = 10
    heads: Count = 16
    head_dim: Count = 64
    queries: Count = 32
    id_tokens: Count = 5
    out_dim: Count = 2048
    id_dim: Count = 1280
    vit_dim: Count = 1024
    scales: Count = 5
    ff_mult: Count = 4


class AttentionsShape(_Data):
    """The cross-attentions, all alike: one after double blocks 0, 2 .. and one after single blocks 0, 4 .. ."""

    count: Count = 20
    dim: Count = Field(default=3072, description="width of the transformer's tokens")
    heads: Count = 16
    head_dim: Count = 128


class IdentityFiles(_Data):
    """Where the parts lie, below the index's folder."""

    pulid: RelativePath = "pulid.safetensors"
    vision_tower: RelativePath = "eva_clip.safetensors"
    face_parser: RelativePath = "face_parsing.safetensors"
    faces: RelativePath = Field(default="antelopev2", description="folder of the detector's and recogniser's ONNX")


class IdentityIndex(_Data):
    """The sizes of the networks and the names of their files."""

    schema_version: Literal[1] = 1
    idformer: IDFormerShape = IDFormerShape()
    attentions: AttentionsShape = AttentionsShape()
    vision_tower: EvaShape = EvaShape()
    face_parser_width: Count = Field(default=64, description="channels of the face parser's first convolution")
    files: IdentityFiles = IdentityFiles()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        """Sizes that stand in two places are one."""
        former, tower = self.idformer, self.vision_tower
        for name, found, wanted in (
            ("idformer.id_dim", former.id_dim, ARCFACE_WIDTH + tower.projected),
            ("idformer.vit_dim", former.vit_dim, tower.width),
            ("idformer.scales", former.scales, len(tower.taps)),
        ):
            if found != wanted:
                raise ValueError(f"{name} is {found}, which its inputs make {wanted}")
        if former.depth % former.scales:
            raise ValueError(f"idformer.depth {former.depth} is no multiple of its {former.scales} scales")
        if list(tower.taps) != sorted(set(tower.taps)) or max(tower.taps, default=0) > tower.depth:
            raise ValueError(f"vision_tower.taps {list(tower.taps)} do not rise from 1 to its depth {tower.depth}")
        return self


PUBLISHED = IdentityIndex()
"""Of the catalogue's PuLID, whose parts lie in folders of their own."""


def read_index(own: Path) -> IdentityIndex:
    """What the folder of an identity model of one's own says.

    Raises:
        Permanent: there is no index, or it cannot be understood; names the file, the field and the mend.
    """
    path = own / INDEX
    try:
        return IdentityIndex.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Permanent(
            f"{path} is missing. A name of the catalogue is brought by `doctorgen models download`; an identity model "
            f"of one's own needs that file, which `doctorgen models tiny` writes an example of."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise Permanent(
            f"{path} is not understood: {field}: {first['msg']}. Correct it after docs/identity.md, or after the "
            "example that `doctorgen models tiny` writes."
        ) from error
