"""What a step tells FLUX: words, people and what else is to act on a picture, as the sampling takes it."""

from dataclasses import dataclass

from shared.contracts.errors import InvalidInput
from shared.flux.denoise import Branch, Extra, alone
from shared.flux.parts import proper_name
from shared.flux.pulid.artifact import PulidIdentity, load_identity
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.text import PromptEmbedding


@dataclass(frozen=True)
class Told:
    """What one branch of the sampling is held to.

    Attributes:
        words: on the transformer's device and in its dtype.
        people: who is seen (`shared.flux.regions.subjects`).
        extras: models beside the transformer that speak to it.
    """

    words: PromptEmbedding
    people: tuple[Subject, ...] = ()
    extras: tuple[Extra, ...] = ()

    def branch(self) -> Branch:
        """The same as `shared.flux.denoise.denoise` takes it."""
        return Branch(self.words, IdentityCall(self.people).around if self.people else alone, self.extras)


def identity_in(blob: bytes, slot: str, model: str) -> PulidIdentity | None:
    """PuLID's identity, or None where it is a portable engine's record, which is JSON and says nothing to FLUX.

    Args:
        blob: of a step's input. A safetensors blob starts with its header's length, a multiple of eight, so never with
            a brace.
        slot: the input's name.
        model: PuLID's weights that are to read it.

    Raises:
        InvalidInput: it is damaged, or was encoded by another version of PuLID.
    """
    if blob[:1] == b"{":
        return None
    who = load_identity(blob, slot)
    made_by = who.about.models.get("idformer", model)
    if proper_name(made_by) != proper_name(model):
        raise InvalidInput(
            "identity_model",
            f"the identity was encoded by {made_by}, and {model} is to read it",
            "Name the same version of PuLID in both steps.",
        )
    return who
