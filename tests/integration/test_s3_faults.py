"""What the S3 store says when the server, or the way to it, fails: the class of error, how soon, and the mend."""

import secrets
import traceback
from collections.abc import Callable
from time import monotonic

import pytest
from pydantic import SecretStr

from shared.contracts.errors import DoctorGenError, Permanent, ResourceExhausted, Transient
from shared.storage.open import open_store
from shared.storage.port import ArtifactStore
from shared.storage.settings import StorageSettings
from tests.servers.fixtures_ceph import S3Server
from tests.servers.proxy import FaultyProxy
from tests.servers.scripted_http import NEVER, Request, ScriptedServer, answer, s3_error

BINARY = "application/octet-stream"
QUICKLY_S = 5.0
KEYS = {"access_key": SecretStr("an-access-key"), "secret_key": SecretStr("a-very-secret-key")}


def store_at(endpoint: str, *, retries: int = 2, read_timeout_s: float = 10.0) -> ArtifactStore:
    return open_store(
        StorageSettings(
            url=f"s3://bucket?endpoint={endpoint}&secure=false",
            create_bucket=False,
            retries=retries,
            connect_timeout_s=5.0,
            read_timeout_s=read_timeout_s,
            **KEYS,
        )
    )


def every_method(store: ArtifactStore) -> tuple[Callable[[], object], ...]:
    return (
        lambda: store.put("a", b"x", BINARY),
        lambda: store.replace("a", b"x", BINARY),
        lambda: store.get("a"),
        lambda: store.delete("a"),
        lambda: list(store.keys("")),
    )


def whole_text(error: DoctorGenError) -> str:
    return "".join(traceback.format_exception(error))


def test_a_stopped_server_is_transient_soon_and_the_same_store_works_again(
    s3_server: S3Server, s3_settings: StorageSettings
) -> None:
    store = open_store(s3_settings)
    store.put("a", b"x", BINARY)
    s3_server.ceph.stop_gateway()
    try:
        for attempt in every_method(store):
            start = monotonic()
            with pytest.raises(Transient, match="Connection refused"):
                attempt()
            assert monotonic() - start < QUICKLY_S
    finally:
        s3_server.ceph.start_gateway()
    assert store.get("a") == b"x"
    assert store.put("a", b"y", BINARY) is False


def test_a_restart_between_two_requests_goes_unnoticed(s3_server: S3Server, s3_settings: StorageSettings) -> None:
    store = open_store(s3_settings)
    store.put("a", b"x", BINARY)
    s3_server.ceph.stop_gateway()
    s3_server.ceph.start_gateway()
    assert store.put("b", b"y", BINARY) is True
    assert store.get("a") == b"x"


def test_a_silent_network_is_transient_by_time_out_and_the_same_store_works_again(
    s3_server: S3Server, s3_settings: StorageSettings
) -> None:
    open_store(s3_settings).put("a", b"x", BINARY)
    with FaultyProxy(s3_server.ceph.port) as proxy:
        url = s3_settings.url.replace(s3_server.ceph.endpoint, f"127.0.0.1:{proxy.port}")
        store = open_store(s3_settings.model_copy(update={"url": url, "create_bucket": False, "read_timeout_s": 0.5}))
        assert store.get("a") == b"x"
        proxy.black_hole()
        for attempt in every_method(store):
            start = monotonic()
            with pytest.raises(Transient, match="timed out"):
                attempt()
            assert monotonic() - start < QUICKLY_S
        proxy.reset()
        proxy.pass_through()
        assert store.get("a") == b"x"


def test_a_server_that_never_answers_is_transient_by_time_out() -> None:
    with ScriptedServer(lambda _: NEVER) as server:
        for attempt in every_method(store_at(server.endpoint, read_timeout_s=0.2)):
            with pytest.raises(Transient, match="timed out"):
                attempt()


def test_a_download_cut_short_is_never_data() -> None:
    half = answer(200, b"x" * 100, length=1000, content_type=BINARY)
    expected = pytest.raises(Transient, match=r"could not read a: .*100 bytes read, 900 more expected")
    with ScriptedServer(lambda _: half) as server, expected:
        store_at(server.endpoint).get("a")


def test_a_download_without_a_length_is_never_data() -> None:
    half = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf a bl"
    expected = pytest.raises(Transient, match="announced None bytes of a and sent 9")
    with ScriptedServer(lambda _: half) as server, expected:
        store_at(server.endpoint).get("a")


def test_a_download_that_stalls_half_way_is_transient() -> None:
    half = answer(200, b"x" * 100, length=1000, content_type=BINARY)
    with ScriptedServer(lambda _: half, hold_open=True) as server, pytest.raises(Transient, match="timed out"):
        store_at(server.endpoint, read_timeout_s=0.2).get("a")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again_and_then_transient(status: int) -> None:
    with ScriptedServer(lambda _: s3_error(status, "SlowDown", "Reduce your request rate.")) as server:
        store = store_at(server.endpoint, retries=2)
        with pytest.raises(Transient, match=r"could not write a: SlowDown, Reduce your request rate\."):
            store.put("a", b"x", BINARY)
        assert len(server.requests) == 3


def test_trouble_that_passes_is_not_noticed() -> None:
    answers = iter([s3_error(503, "SlowDown"), s3_error(500, "InternalError"), answer(200)])
    with ScriptedServer(lambda _: next(answers)) as server:
        assert store_at(server.endpoint).put("a", b"x", BINARY) is True
        assert [request.body for request in server.requests] == [b"x"] * 3


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (s3_error(403, "QuotaExceeded"), ResourceExhausted),
        (s3_error(507, "XMinioStorageFull"), ResourceExhausted),
        (s3_error(507, "InsufficientStorage"), ResourceExhausted),
        (s3_error(429, "TooManyRequests"), Transient),
        (s3_error(408, "RequestTimeout"), Transient),
        (s3_error(403, "RequestTimeTooSkewed"), Transient),
        (s3_error(403, "SomethingNew"), Permanent),
        (answer(403, b"<html>go away", content_type="text/html"), Transient),
        (answer(404, b"not here", content_type="text/plain"), Transient),
        (answer(502, b"<html>bad gateway</html>", content_type="text/html"), Transient),
    ],
)
def test_each_refusal_has_its_class_whatever_was_asked(said: bytes, error: type[DoctorGenError]) -> None:
    with ScriptedServer(lambda _: said) as server:
        for attempt in every_method(store_at(server.endpoint, retries=0)):
            with pytest.raises(DoctorGenError) as caught:
                attempt()
            assert type(caught.value) is error
            assert f"the object store http://{server.endpoint}/bucket could not" in str(caught.value)


def test_a_conflict_of_two_writers_is_settled_by_asking_again() -> None:
    answers = iter([s3_error(409, "ConditionalRequestConflict"), s3_error(412, "PreconditionFailed")])
    with ScriptedServer(lambda _: next(answers)) as server:
        assert store_at(server.endpoint).put("a", b"x", BINARY) is False


def test_an_endless_conflict_is_transient() -> None:
    expected = pytest.raises(Transient, match="others keep writing it")
    with ScriptedServer(lambda _: s3_error(409, "ConditionalRequestConflict")) as server, expected:
        store_at(server.endpoint).put("a", b"x", BINARY)


@pytest.mark.parametrize("refusal", [s3_error(501, "NotImplemented"), s3_error(400, "InvalidArgument")])
def test_a_server_that_knows_no_conditions_is_asked_first_from_then_on(refusal: bytes) -> None:
    blobs: dict[str, bytes] = {}

    def script(request: Request) -> bytes:
        if "If-None-Match" in request.headers:
            return refusal
        if request.method == "HEAD":
            return answer(200 if request.path in blobs else 404)
        blobs[request.path] = request.body
        return answer(200)

    with ScriptedServer(script) as server:
        store = store_at(server.endpoint)
        assert [store.put("a", b"first", BINARY), store.put("a", b"second", BINARY)] == [True, False]
        assert store.put("b", b"x", BINARY) is True
        conditional = [request for request in server.requests if "If-None-Match" in request.headers]
    assert blobs == {"/bucket/a": b"first", "/bucket/b": b"x"}
    assert len(conditional) == 1


def test_a_wrong_secret_is_permanent_with_the_mend_and_without_the_secret(
    s3_server: S3Server, s3_settings: StorageSettings
) -> None:
    open_store(s3_settings)
    wrong = s3_settings.model_copy(update={"secret_key": SecretStr("not-the-right-secret"), "create_bucket": False})
    for attempt in every_method(open_store(wrong)):
        with pytest.raises(Permanent, match=r"Check storage\.access_key and storage\.secret_key\.") as caught:
            attempt()
        assert "not-the-right-secret" not in whole_text(caught.value)
        assert s3_server.account.access_key not in whole_text(caught.value)


def test_an_unknown_access_key_is_permanent_with_the_mend(s3_settings: StorageSettings) -> None:
    stranger = s3_settings.model_copy(update={"access_key": SecretStr("nobody-knows-me"), "create_bucket": False})
    with pytest.raises(Permanent, match=r"InvalidAccessKeyId.* Check storage\.access_key") as caught:
        open_store(stranger).get("a")
    assert "nobody-knows-me" not in whole_text(caught.value)


def test_somebody_elses_bucket_is_permanent_with_the_mend(s3_server: S3Server, s3_settings: StorageSettings) -> None:
    open_store(s3_settings)
    other = s3_server.ceph.create_user(f"other-{secrets.token_hex(4)}")
    keys = {"access_key": SecretStr(other.access_key), "secret_key": SecretStr(other.secret_key)}
    with pytest.raises(Permanent, match=r"AccessDenied.*policy must allow"):
        open_store(s3_settings.model_copy(update={**keys, "create_bucket": False})).put("a", b"x", BINARY)
    with pytest.raises(Permanent, match="could not make the bucket: AccessDenied"):
        open_store(s3_settings.model_copy(update=keys))


def test_a_missing_bucket_is_permanent_with_the_mend(s3_settings: StorageSettings) -> None:
    store = open_store(s3_settings.model_copy(update={"create_bucket": False}))
    for attempt in every_method(store):
        with pytest.raises(Permanent, match=r"NoSuchBucket\. Create the bucket, or set storage\.create_bucket\."):
            attempt()


def test_a_quota_that_is_used_up_is_resource_exhausted(s3_server: S3Server, s3_settings: StorageSettings) -> None:
    user = f"poor-{secrets.token_hex(4)}"
    account = s3_server.ceph.create_user(user)
    for what in (("set", "--max-size=100000"), ("enable",)):
        s3_server.ceph.admin("quota", *what, f"--uid={user}", "--quota-scope=bucket")
    keys = {"access_key": SecretStr(account.access_key), "secret_key": SecretStr(account.secret_key)}
    store = open_store(s3_settings.model_copy(update=keys))
    with pytest.raises(ResourceExhausted, match=r"QuotaExceeded.* raise the quota\."):
        store.put("a", bytes(200_000), BINARY)


def test_tls_to_a_server_without_it_is_permanent_with_the_mend(s3_settings: StorageSettings) -> None:
    url = s3_settings.url.replace("secure=false", "secure=true")
    with pytest.raises(Permanent, match=r"add secure=false to storage\.url"):
        open_store(s3_settings.model_copy(update={"url": url}))


def test_a_wrong_clock_passes_and_says_what_to_set() -> None:
    with ScriptedServer(lambda _: s3_error(403, "RequestTimeTooSkewed")) as server:
        with pytest.raises(Transient, match=r"RequestTimeTooSkewed\. Set this machine's clock\."):
            store_at(server.endpoint).get("a")
        assert len(server.requests) == 1
