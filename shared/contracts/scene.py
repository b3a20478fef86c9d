"""How a picture is framed and what stands behind the person: data a scenario carries to the painter."""

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Contract


class Framing(Contract):
    """Where the face goes. Shares of the picture's width and height."""

    face_width: Annotated[float, Field(ge=0.15, le=0.25)] = 0.19
    centre_x: Annotated[float, Field(ge=0.3, le=0.7)] = 0.5
    centre_y: Annotated[float, Field(ge=0.25, le=0.5)] = 0.36
