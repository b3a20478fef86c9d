"""Files batches and follows them."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from time import monotonic
from uuid import uuid4

from doctor_image_gen.batch import BatchFile, BatchImages, requests_of
from doctor_image_gen.client import POLL_S, Client
from doctor_image_gen.stack import Connections
from shared.broker.port import Outgoing
from shared.broker.topology import BATCH_KEY, EVENTS, INTAKE
from shared.contracts.base import now
from shared.contracts.batch import BatchEvent, BatchSummary
from shared.contracts.errors import InvalidInput, Transient
from shared.contracts.request import ImageRef, PhotoRef
from shared.worker.dispatch import wire


class BatchClient:
    """For one thread at a time. `client` uploads pictures; `still_alive` raises when waiting has become pointless."""

    def __init__(
        self, connections: Connections, client: Client, still_alive: Callable[[], None] = lambda: None
    ) -> None:
        self._connections = connections
        self._client = client
        self._still_alive = still_alive

    def submit(self, batch: BatchFile, folder: Path) -> str:
        """File a batch whose pictures are named relative to a folder; its id. Filed again it is the same batch.

        Raises:
            InvalidInput: a picture cannot be used, named as `subjects[n].photos[m]`, `subjects[n].images.<name>`,
                `scenario_images.<scenario>.<name>` or `images.<name>`; nothing is filed then.
            Transient: a queue is full or the broker is away; file the batch again under the same id.
        """
        batch_id = batch.batch_id or f"batch-{uuid4().hex}"
        images = self._upload_images(batch, folder)
        photos = [self._upload(number, batch, folder) for number in range(len(batch.subjects))]
        for part in requests_of(batch, batch_id, photos, now(), images):
            name = f"{batch_id}.{part.part}"
            self._connections.broker.publish(Outgoing(INTAKE, BATCH_KEY, wire(part), name))
        return batch_id

    def summary(self, batch_id: str) -> BatchSummary:
        """How a batch stands. Raises InvalidInput where the journal knows none of that id."""
        summary = self._connections.jobs.batch(batch_id)
        if summary is None:
            raise InvalidInput(
                "batch_id", f"there is no batch '{batch_id}'", "Intake may not have come to it yet; look again later."
            )
        return summary

    def follow(
        self, batch_id: str, on_summary: Callable[[BatchSummary], None], timeout_s: float | None = None
    ) -> BatchSummary:
        """Wait until a batch has ended; tell how it stands whenever that is heard of.

        Raises:
            Transient: the time is up.
        """
        give_up = None if timeout_s is None else monotonic() + timeout_s
        pattern = f"batch.{batch_id.replace('.', '_')}.*"
        with closing(self._connections.broker.listen(EVENTS, (pattern,))) as events:
            while True:
                standing = self._connections.jobs.batch(batch_id)
                if standing is not None and standing.closed:
                    return standing
                left_s = POLL_S if give_up is None else max(0.0, give_up - monotonic())
                delivery = events.receive(min(POLL_S, left_s))
                if delivery is not None:
                    on_summary(BatchEvent.from_json(delivery.body).summary)
                self._still_alive()
                if give_up is not None and monotonic() > give_up:
                    raise Transient(f"batch {batch_id} did not end within {timeout_s} seconds")

    def _upload_images(self, batch: BatchFile, folder: Path) -> BatchImages:
        def put(files: Mapping[str, str], field: str) -> dict[str, ImageRef]:
            paths = {name: folder / file for name, file in files.items()}
            return self._client.put_images(self._client.read_images(paths, field))

        return BatchImages(
            own=[put(one.images, f"subjects[{number}].images") for number, one in enumerate(batch.subjects, start=1)],
            of_scenario={name: put(files, f"scenario_images.{name}") for name, files in batch.scenario_images.items()},
            of_all=put(batch.images, "images"),
        )

    def _upload(self, number: int, batch: BatchFile, folder: Path) -> tuple[PhotoRef, ...]:
        doctor = batch.subjects[number]
        try:
            return self._client.upload([folder / photo for photo in doctor.photos], doctor.faces)
        except InvalidInput as error:
            raise InvalidInput(f"subjects[{number + 1}].{error.field}", error.found, error.mend) from error
