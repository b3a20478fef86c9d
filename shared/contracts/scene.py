"""How a picture is framed and what stands behind the person: data a scenario carries to the painter.

Places are in metres: x to the picture's right of the line of sight, y up from the floor, z away from the camera.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from shared.contracts.base import Contract, Fraction


class Framing(Contract):
    """Where the face goes. Shares of the picture's width and height."""

    face_width: Annotated[float, Field(ge=0.15, le=0.25)] = 0.19
    centre_x: Annotated[float, Field(ge=0.3, le=0.7)] = 0.5
    centre_y: Annotated[float, Field(ge=0.25, le=0.5)] = 0.36


Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
"""An sRGB colour, `#rrggbb`."""

Metres = Annotated[float, Field(ge=-200.0, le=200.0)]
Place = tuple[Metres, Metres, Metres]
Kelvin = Annotated[float, Field(ge=2000.0, le=12000.0)]

ElementKind = Literal[
    "panel",
    "window",
    "blinds",
    "curtain",
    "shelf",
    "screen",
    "picture",
    "lamp",
    "sparkle",
    "person",
    "plant",
    "foliage",
    "facade",
    "glassware",
    "bed",
    "chair",
]


class _Compact(Contract):
    """A contract written without the fields that stand at their defaults, so that a message stays small."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if getattr(self, name) != defaults[name]}


class Light(_Compact):
    """The light that falls on the person and on the scene."""

    azimuth_deg: Annotated[float, Field(ge=-180.0, le=180.0)] = Field(
        default=-40.0, description="0 from the camera, 90 from the picture's right, -90 from its left, 180 from behind"
    )
    elevation_deg: Annotated[float, Field(ge=0.0, le=90.0)] = 35.0
    kelvin: Kelvin = Field(default=5500.0, description="colour temperature of the key light")
    key: Annotated[float, Field(ge=0.0, le=2.0)] = Field(default=0.7, description="strength; 1 lights white to white")
    ambient_kelvin: Kelvin = 6000.0
    ambient: Annotated[float, Field(ge=0.0, le=2.0)] = 0.45


class Lens(_Compact):
    """The camera, on a full-frame sensor 36 mm wide. Focal length and stop decide how far the scene is defocused."""

    focal_mm: Annotated[float, Field(ge=20.0, le=200.0)] = 85.0
    f_number: Annotated[float, Field(ge=0.9, le=16.0)] = 1.8
    focus_m: Annotated[float, Field(ge=0.8, le=10.0)] = Field(default=1.9, description="distance of the person")
    height_m: Annotated[float, Field(ge=0.2, le=5.0)] = 1.5
    horizon: Annotated[float, Field(ge=0.1, le=0.9)] = Field(default=0.4, description="share of the picture's height")


class Shell(_Compact):
    """What closes the scene off: a room, the open air, or a studio's paper."""

    kind: Literal["room", "outdoor", "studio"] = "room"
    left: Annotated[float, Field(ge=0.3, le=200.0)] = Field(default=3.0, description="metres to the left wall")
    right: Annotated[float, Field(ge=0.3, le=200.0)] = Field(default=3.0, description="metres to the right wall")
    height: Annotated[float, Field(ge=2.0, le=60.0)] = Field(default=2.8, description="metres, floor to ceiling")
    depth: Annotated[float, Field(ge=2.5, le=200.0)] = Field(default=6.0, description="metres, camera to back wall")
    wall: Colour = "#d9dde0"
    back: Colour = Field(default="#d9dde0", description="back wall; outdoors: horizon; studio: paper")
    floor: Colour = "#9a948c"
    ceiling: Colour = Field(default="#eef0f1", description="outdoors: zenith; studio: the paper's lit middle")
    dado: Colour | None = Field(default=None, description="the walls' lower 1.1 m, where of another colour")
    gloss: Fraction = Field(default=0.15, description="how far the floor mirrors the scene")


class Element(_Compact):
    """One flat thing in the scene, or a row of them: a textured rectangle, as wide and high as `size`."""

    kind: ElementKind
    at: Place = Field(description="middle of the lower edge; of a level one (facing up or down), its middle")
    size: tuple[Annotated[float, Field(gt=0, le=200)], Annotated[float, Field(gt=0, le=200)]] = Field(
        description="width and height in metres; of a level one, width and depth"
    )
    facing: Literal["camera", "left", "right", "up", "down"] = "camera"
    colours: Annotated[tuple[Colour, ...], Field(max_length=8)] = Field(
        default=(), description="what they colour depends on the kind; left out: the kind's own"
    )
    emit: Annotated[float, Field(ge=0.0, le=40.0)] = Field(
        default=0.0, description="light it gives off; 1 is white, 10 and more makes bokeh discs"
    )
    opacity: Fraction = 1.0
    detail: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="panes, boards, heads, points; 0: usual")
    count: Annotated[int, Field(ge=1, le=40)] = 1
    step: Place = Field(default=(0.0, 0.0, 0.0), description="metres from one of the row to the next")
    jitter: Annotated[float, Field(ge=0.0, le=5.0)] = Field(default=0.0, description="metres each strays, by the seed")


class Finish(_Compact):
    """What the camera and the grading do to the whole."""

    exposure: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    bloom: Fraction = Field(default=0.35, description="glow around what is bright")
    haze: Fraction = Field(default=0.08, description="veil of light at the back of the scene")
    saturation: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    vignette: Fraction = 0.3
    grain: Annotated[float, Field(ge=0.0, le=8.0)] = Field(default=1.6, description="standard deviation, grey levels")


class Backdrop(_Compact):
    """A scene to stand in, painted from data: add one as a YAML file, without code."""

    schema_version: Literal[1] = 1
    light: Light = Light()
    lens: Lens = Lens()
    shell: Shell = Shell()
    finish: Finish = Finish()
    elements: Annotated[tuple[Element, ...], Field(max_length=64)] = ()
