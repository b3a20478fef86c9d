"""Makes a job of a request: checks it and its pictures, compiles the prompt, pins the recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.gateway.defaults import GenerationDefaults
from services.gateway.pictures import Pictures
from services.gateway.planner import check_images, plan
from shared.contracts.base import now
from shared.contracts.brief import Brief
from shared.contracts.errors import InvalidInput, StoreAway, Transient
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest
from shared.contracts.step import ErrorAccount, StepMessage
from shared.jobs.port import Job, StepState
from shared.prompts.catalogue import Catalogue
from shared.prompts.compiler import compile_brief
from shared.storage.port import ArtifactStore
from shared.vision.photos import PhotoLimits
from shared.worker.errors import account_of
from shared.worker.operation import Operation

ANY_KEY = "inbox/is-the-store-there"


@dataclass(frozen=True)
class House:
    """What a deployment offers: recipes, operations, scenarios; and its defaults, asked for at each job."""

    operations: Mapping[str, Operation]
    recipe: Callable[[str], Recipe]
    catalogue: Callable[[], Catalogue]
    defaults: Callable[[], GenerationDefaults]
    photo_limits: PhotoLimits


class Reception:
    """Knows the house and the object store; the job store is others' business."""

    def __init__(self, store: ArtifactStore, house: House) -> None:
        self._store = store
        self._house = house

    def pictures(self) -> Pictures:
        """Takes in the pictures of one request, or of several that share some."""
        return Pictures(self._store, self._house.photo_limits)

    def check(self, request: JobRequest) -> None:
        """Look at the words of a request, and at none of its pictures.

        Raises:
            InvalidInput: `job` would refuse it.
        """
        recipe, brief, defaults = self._words(request)
        plan(request, "checked", (), recipe, brief, self._house.operations, defaults)

    def job(self, request: JobRequest, job_id: str, pictures: Pictures) -> Job:
        """The job that a request becomes: accepted with its first message, or refused with field, finding and mend.

        Its pictures are taken in once the words of the request have been looked at.

        Raises:
            StoreAway: the object store does not answer at all.
            Transient, Permanent, ResourceExhausted: it has some other trouble, perhaps with this request only.
        """
        try:
            first, brief = self._plan(request, job_id, pictures)
        except InvalidInput as error:
            return _new_job(request, job_id, error=account_of(error))
        except Transient as error:
            if self._is_away():
                raise StoreAway(str(error)) from error
            raise
        return _new_job(request, job_id, first, brief)

    def _plan(self, request: JobRequest, job_id: str, pictures: Pictures) -> tuple[StepMessage, Brief]:
        recipe, brief, defaults = self._words(request)
        photos, images = pictures.photos(request), pictures.images(request)
        return plan(request, job_id, photos, recipe, brief, self._house.operations, defaults, images), brief

    def _words(self, request: JobRequest) -> tuple[Recipe, Brief, GenerationDefaults]:
        defaults = self._house.defaults()
        if defaults.consent_required and request.consent is None:
            raise InvalidInput("consent", "the request states none", "State the consent that the photos rest on.")
        recipe = self._house.recipe(request.recipe or defaults.recipe)
        check_images(request, recipe)
        brief = compile_brief(
            self._house.catalogue(),
            request.scenario,
            request.photography_style or defaults.photography_style,
            request.attributes,
            request.custom_prompt,
        )
        return recipe, brief, defaults

    def _is_away(self) -> bool:
        try:
            self._store.get(ANY_KEY)
        except Transient:
            return True
        return False


def _new_job(
    request: JobRequest,
    job_id: str,
    first: StepMessage | None = None,
    brief: Brief | None = None,
    error: ErrorAccount | None = None,
) -> Job:
    at = now()
    return Job(
        job_id=job_id,
        batch_id=request.batch_id,
        caller=request.caller,
        subject=request.subject,
        state="refused" if error else "accepted",
        request=request,
        brief=brief,
        first_message=first,
        steps=tuple(StepState(step=step.name, state="waiting") for step in first.steps) if first else (),
        error=error,
        created_at=at,
        updated_at=at,
    )
