"""Makes a job of a request: checks it and its photos, compiles the prompt, pins the recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.gateway.defaults import GenerationDefaults
from services.gateway.planner import plan
from shared.contracts.artifacts import ArtifactRef
from shared.contracts.base import now
from shared.contracts.brief import Brief
from shared.contracts.errors import InvalidInput, StoreAway, Transient
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest, PhotoRef
from shared.contracts.step import ErrorAccount, StepMessage
from shared.jobs.port import Job, StepState
from shared.prompts.catalogue import Catalogue
from shared.prompts.compiler import compile_brief
from shared.storage.artifacts import store_artifact
from shared.storage.digest import sha256
from shared.storage.port import ArtifactStore
from shared.vision.photos import PhotoLimits, normalise_photo
from shared.worker.errors import account_of
from shared.worker.operation import Operation

ANY_KEY = "inbox/is-the-store-there"

Photos = tuple[ArtifactRef, ...]


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

    def job(self, request: JobRequest, job_id: str, photos: Callable[[], Photos]) -> Job:
        """The job that a request becomes: accepted with its first message, or refused with field, finding and mend.

        `photos` gives the normalised photos and is called once the rest of the request has been looked at.

        Raises:
            StoreAway: the object store does not answer at all.
            Transient, Permanent, ResourceExhausted: it has some other trouble, perhaps with this request only.
        """
        try:
            first, brief = self._plan(request, job_id, photos)
        except InvalidInput as error:
            return _new_job(request, job_id, error=account_of(error))
        except Transient as error:
            if self._is_away():
                raise StoreAway(str(error)) from error
            raise
        return _new_job(request, job_id, first, brief)

    def photos(self, subject: str, photos: tuple[PhotoRef, ...]) -> Photos:
        """Check photos, turn them upright, drop their metadata, and store them as artifacts of the subject.

        Raises:
            InvalidInput: a photo cannot be used; names it as `photos[n]`, n from 1.
            Transient, Permanent, ResourceExhausted: the object store's trouble.
        """
        return tuple(self._photo(subject, photo, f"photos[{number}]") for number, photo in enumerate(photos, start=1))

    def _plan(self, request: JobRequest, job_id: str, photos: Callable[[], Photos]) -> tuple[StepMessage, Brief]:
        defaults = self._house.defaults()
        if defaults.consent_required and request.consent is None:
            raise InvalidInput("consent", "the request states none", "State the consent that the photos rest on.")
        recipe = self._house.recipe(request.recipe or defaults.recipe)
        brief = compile_brief(
            self._house.catalogue(),
            request.scenario,
            request.photography_style or defaults.photography_style,
            request.attributes,
            request.custom_prompt,
        )
        return plan(request, job_id, photos(), recipe, brief, self._house.operations, defaults), brief

    def _is_away(self) -> bool:
        try:
            self._store.get(ANY_KEY)
        except Transient:
            return True
        return False

    def _photo(self, subject: str, photo: PhotoRef, field: str) -> ArtifactRef:
        data = self._store.get(photo.key)
        if data is None:
            raise InvalidInput(field, f"there is nothing at {photo.key}", "Put the photo there before the request.")
        if sha256(data) != photo.sha256:
            raise InvalidInput(
                field, f"the bytes at {photo.key} do not have the digest stated", "Put the photo there again."
            )
        normal = normalise_photo(data, field=field, name=photo.key, limits=self._house.photo_limits)
        return store_artifact(self._store, subject, "photo", normal, "image/png")


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
