"""What a step of FLUX is given beside its words: who is to be seen and where, drawings to follow, a style to take."""

from typing import NamedTuple

from services.generate.stage import CONTROLS, IDENTITIES, Control, FluxParams
from shared.contracts.errors import InvalidInput
from shared.flux.pulid.artifact import PulidIdentity
from shared.flux.regions import Region
from shared.flux.told import identity_in
from shared.vision.codec import Image, decode
from shared.vision.edges import control_picture
from shared.worker.operation import Work

STYLE = "style"


class Drawing(NamedTuple):
    """A picture to follow, in the size of the one to be painted, and how."""

    how: Control
    picture: Image


class Wished(NamedTuple):
    """A picture whose style is to be taken, and the IP-Adapter that reads it."""

    adapter: str
    picture: Image


def people(work: Work[FluxParams]) -> tuple[PulidIdentity, ...]:
    """Who is to be seen; nobody where the only identity is a portable engine's record, which says nothing to FLUX.

    Raises:
        InvalidInput: one of several is such a record, is damaged, or was made by another identity model.
    """
    names = [name for name in IDENTITIES if name in work.inputs]
    found = {name: identity_in(work.one(name), name, work.params.identity_model) for name in names}
    known = tuple(who for who in found.values() if who is not None)
    if known and len(known) < len(found):
        strangers = ", ".join(name for name, who in found.items() if who is None)
        raise InvalidInput(strangers, "a portable engine made it, and FLUX cannot read it", "Encode it with 'flux'.")
    return known


def regions(params: FluxParams) -> tuple[Region, ...]:
    """Where each of them is to be."""
    return tuple(Region(one.left, one.top, one.right, one.bottom, one.feather) for one in params.regions)


def drawings(work: Work[FluxParams]) -> tuple[Drawing, ...]:
    """The pictures to follow, each with its parameters.

    Raises:
        InvalidInput: there are not as many of one as of the other, or a drawing of that kind cannot be made here.
    """
    params = work.params
    names = [name for name in CONTROLS if name in work.inputs]
    if len(names) != len(params.controls):
        found = f"there are {len(params.controls)} for {len(names)} control pictures"
        raise InvalidInput("controls", found, "Give one for each picture, in the order of the inputs.")
    return tuple(
        Drawing(
            how,
            control_picture(
                how.kind, decode(work.one(name)), params.width, params.height, from_picture=how.from_picture
            ),
        )
        for name, how in zip(names, params.controls, strict=True)
    )


def style(work: Work[FluxParams]) -> Wished | None:
    """The style to take; None where none is wished for.

    Raises:
        InvalidInput: there is a picture without an adapter to read it, or the reverse.
    """
    blob, adapter = work.perhaps(STYLE), work.params.ip_adapter
    if blob is None and adapter is None:
        return None
    if blob is None or adapter is None:
        found = "there is no picture at `style`" if blob is None else "nothing is named that reads the picture"
        raise InvalidInput("ip_adapter", found, "Name an adapter and hand in a picture, or neither.")
    return Wished(adapter, decode(blob))
