"""Settings: the file, the environment over it, what is refused, what is never shown, what is read again."""

import logging
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from doctor_image_gen.settings import LiveDefaults, Settings
from shared.contracts.errors import InvalidInput
from shared.storage.settings import FolderTarget, S3Target, StorageSettings
from shared.worker.retry import DEFAULT_LADDER_MS
from shared.worker.settings import WorkerSettings

SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a settings file, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DOCTORGEN_")]:
        monkeypatch.delenv(name)
    return tmp_path


def write(text: str, name: str = "doctorgen.yaml") -> Path:
    path = Path(name)
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))  # two writes within one tick of the clock differ too
    return path


def refusal() -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        Settings.load()
    return refused.value


def test_without_any_settings_everything_runs_in_this_process(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "share"))
    monkeypatch.setenv("HOME", str(folder))
    settings = Settings.load()
    assert settings.embedded
    assert (settings.generation.recipe, settings.generation.engine) == ("portrait", "portable")
    assert settings.worker_usd_per_hour == 4.04
    assert settings.data_dir.is_relative_to(folder)
    assert settings.retry.ladder_ms == DEFAULT_LADDER_MS


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("worker_usd_per_hour: 1.5\nshutdown_grace_s: 5\ngeneration: {recipe: slow, photography_style: studio}\n")
    monkeypatch.setenv("DOCTORGEN_WORKER_USD_PER_HOUR", "2.5")
    monkeypatch.setenv("DOCTORGEN_GENERATION__RECIPE", "quick")
    settings = Settings.load()
    assert settings.worker_usd_per_hour == 2.5
    assert settings.shutdown_grace_s == 5
    assert settings.generation.recipe == "quick"
    assert settings.generation.photography_style == "studio", "the rest of the section stays as the file says"


def test_what_is_passed_in_goes_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    write("worker_usd_per_hour: 1.5\n")
    monkeypatch.setenv("DOCTORGEN_WORKER_USD_PER_HOUR", "2.5")
    assert Settings(worker_usd_per_hour=3.5).worker_usd_per_hour == 3.5


def test_nested_names_reach_into_the_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STORAGE__URL": "s3://portraits?endpoint=s3.internal:9000&secure=false",
        "STORAGE__ACCESS_KEY": "key",
        "STORAGE__SECRET_KEY": SECRET,
        "PHOTO_LIMITS__MIN_SIDE_PX": "800",
        "RETRY__RULES": '{"Transient": {"attempts": 2}}',
        "RETRY__LADDER_MS": "[10, 20]",
        "GENERATION__OVERRIDES": '{"refine": {"grain": 0.4}}',
        "GENERATION__CONSENT_REQUIRED": "true",
    }.items():
        monkeypatch.setenv(f"DOCTORGEN_{name}", value)
    settings = Settings.load()
    assert settings.storage.target == S3Target(bucket="portraits", endpoint="s3.internal:9000", secure=False)
    assert settings.storage.secret_key == SecretStr(SECRET)
    assert settings.photo_limits.min_side_px == 800
    assert settings.retry.rule("swap", "Transient").attempts == 2
    assert settings.retry.ladder_ms == (10, 20)
    assert settings.generation.overrides == {"refine": {"grain": 0.4}}
    assert settings.generation.consent_required


def test_another_file_may_be_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    write("worker_usd_per_hour: 1.5\n")
    write("worker_usd_per_hour: 9\n", "other.yaml")
    monkeypatch.setenv("DOCTORGEN_CONFIG", str(folder / "other.yaml"))
    assert Settings.load().worker_usd_per_hour == 9


def test_the_embedded_pipeline_keeps_everything_in_its_data_folder(folder: Path) -> None:
    settings = Settings(data_dir=folder / "odd #1? %41 name")
    assert settings.storage_or_folder.target == FolderTarget(root=folder / "odd #1? %41 name" / "store")
    assert settings.jobs_url_or_file.startswith("sqlite:////")
    assert settings.jobs_url_or_file.endswith("/odd%20%231%3F%20%2541%20name/jobs.sqlite")


def test_a_relative_data_folder_holds_when_the_working_folder_changes(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    settings = Settings(data_dir=Path("data"))
    before = (settings.storage_or_folder.target, settings.jobs_url_or_file)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert (settings.storage_or_folder.target, settings.jobs_url_or_file) == before
    assert settings.data_dir == folder / "data"


def test_what_is_set_goes_before_the_data_folder(folder: Path) -> None:
    settings = Settings(
        data_dir=folder,
        storage=StorageSettings(url=f"file://{folder}/elsewhere"),
        jobs_url=SecretStr("sqlite:///elsewhere.sqlite"),
    )
    assert settings.storage_or_folder.target == FolderTarget(root=folder / "elsewhere")
    assert settings.jobs_url_or_file == "sqlite:///elsewhere.sqlite"


def test_with_a_broker_the_storage_is_never_a_folder_by_accident() -> None:
    """Workers on other machines would not find it."""
    settings = Settings(broker_url=SecretStr("amqp://u:p@host/"))
    assert not settings.embedded
    assert isinstance(settings.storage_or_folder.target, S3Target)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HOME", str(folder))
    write("data_dir: ~/data\nuser_folder: ~/own\n")
    settings = Settings.load()
    assert (settings.data_dir, settings.user_folder) == (folder / "data", folder / "own")


def test_secrets_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_BROKER_URL", f"amqp://user:{SECRET}@host/")
    monkeypatch.setenv("DOCTORGEN_JOBS_URL", f"postgresql://user:{SECRET}@host/db")
    monkeypatch.setenv("DOCTORGEN_STORAGE__ACCESS_KEY", SECRET)
    monkeypatch.setenv("DOCTORGEN_STORAGE__SECRET_KEY", SECRET)
    settings = Settings.load()
    shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
    assert [text for text in shown if SECRET in text] == []
    assert SECRET in settings.broker_url.get_secret_value()


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("brokr_url: x", "settings.brokr_url", "there is no such field. Did you mean broker_url"),
        ("storage: {acces_key: x}", "settings.storage.acces_key", "there is no such field. Did you mean access_key"),
        ("worker_usd_per_hour: -1", "settings.worker_usd_per_hour", "greater than or equal to 0, found -1"),
        ("worker_usd_per_hour: cheap", "settings.worker_usd_per_hour", "should be a valid number"),
        ("shutdown_grace_s: 999999", "settings.shutdown_grace_s", "less than or equal to 3600, found 999999"),
        ("retry: {rules: {Transient: {attempts: 0}}}", "settings.retry.rules.Transient.attempts", "found 0"),
        ("retry: {ladder_ms: []}", "settings.retry.ladder_ms", "at least 1 item"),
        ("retry: {base_delay_ms: 1}", "settings.retry.base_delay_ms", "rules"),
        ("generation: {recipe: A b}", "settings.generation.recipe", "found 'A b'"),
        ("generation: {recpe: quick}", "settings.generation.recpe", "there is no such field. Did you mean recipe"),
        ("photo_limits: {min_side: 5}", "settings.photo_limits.min_side", "there is no such field"),
        ("storage: {url: 'ftp://x'}", "storage.url", "the scheme is 'ftp'"),
        ("a: [", "doctorgen.yaml", "this is not YAML"),
        ("- 1", "doctorgen.yaml", "it is no list of `name: value` lines"),
        ("text", "doctorgen.yaml", "it is no list of `name: value` lines"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(text: str, field: str, words: str) -> None:
    write(text)
    error = refusal()
    assert error.field == field
    assert words in str(error)
    assert error.mend


def test_keys_in_the_storage_url_are_refused_and_not_repeated() -> None:
    write(f"storage: {{url: 's3://key:{SECRET}@bucket'}}")
    error = refusal()
    assert str(error) == "storage.url: it holds keys. Set storage.access_key and storage.secret_key instead."


@pytest.mark.parametrize(
    "text",
    [
        "storage: {secret_key: 20071969}",
        "storage: {access_key: [20071969]}",
        "broker_url: ['amqp://user:20071969@host/']",
        "jobs_url: {a: 20071969}",
    ],
)
def test_a_secret_of_the_wrong_type_is_not_repeated(text: str) -> None:
    """A password of digits alone is a number to YAML, unless it is quoted."""
    write(text)
    assert "20071969" not in str(refusal())


def test_a_file_that_is_no_text_is_named() -> None:
    Path("doctorgen.yaml").write_bytes(b"\xff\xfe")
    assert refusal().field == "doctorgen.yaml"


def test_a_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_CONFIG", "doctorgn.yaml")
    assert str(refusal()) == "DOCTORGEN_CONFIG: there is no file 'doctorgn.yaml'. Name the settings file."


@pytest.mark.parametrize("section", ["STORAGE", "GENERATION"])
def test_a_section_that_is_no_json_is_named_but_not_repeated(monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    monkeypatch.setenv(f"DOCTORGEN_{section}", SECRET)
    error = refusal()
    assert error.field == f"DOCTORGEN_{section}"
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("DOCTORGEN_BROKER_ULR", "Did you mean DOCTORGEN_BROKER_URL?"),
        ("DOCTORGEN_JOB_URL", "Did you mean DOCTORGEN_JOBS_URL?"),
        ("DOCTORGEN_STORAGE_URL", "Did you mean DOCTORGEN_STORAGE__URL?"),
        ("DOCTORGEN_STORAGE_SECRET_KEY", "Did you mean DOCTORGEN_STORAGE__SECRET_KEY?"),
        ("doctorgen_data_dirs", "Did you mean DOCTORGEN_DATA_DIR?"),
    ],
)
def test_a_slip_in_the_environment_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, mend: str) -> None:
    monkeypatch.setenv(name, SECRET)
    error = refusal()
    assert (error.field, error.found, error.mend) == (name, "there is no such setting", mend)


@pytest.mark.parametrize("name", ["DOCTORGEN_PORT", "DOCTORGEN_GATEWAY_SERVICE_HOST", "DOCTORGEN_JOBS_PORT"])
def test_what_kubernetes_adds_for_a_service_is_no_slip(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert Settings.load().embedded


def test_an_unknown_name_inside_a_section_is_refused_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_STORAGE__ACCES_KEY", SECRET)
    error = refusal()
    assert error.field == "settings.storage.acces_key"
    assert SECRET not in str(error)


def test_a_worker_leaves_other_people_s_sections_alone() -> None:
    write("generation: {recipe: A b}\nuser_folder: 5\nshutdown_grace_s: 7\n")
    assert WorkerSettings.load().shutdown_grace_s == 7


def test_generation_defaults_are_read_again_when_the_file_changes() -> None:
    write("generation: {photography_style: studio}\n")
    defaults = LiveDefaults(Settings.load())
    assert defaults().photography_style == "studio"
    write("generation: {photography_style: cinematic, overrides: {refine: {grain: 0.4}}}\n")
    assert defaults().photography_style == "cinematic"
    assert defaults().overrides == {"refine": {"grain": 0.4}}


def test_a_file_that_appears_or_goes_counts_as_a_change() -> None:
    defaults = LiveDefaults(Settings.load())
    assert defaults().recipe == "portrait"
    path = write("generation: {recipe: quick}\n")
    assert defaults().recipe == "quick"
    path.unlink()
    assert defaults().recipe == "portrait"


@pytest.mark.parametrize("broken", ["generation: {recipe: A b}", "generatoin: {}", "a: [", "- 1", "text", "\ud800"])
def test_a_file_that_breaks_leaves_the_last_good_defaults_in_force(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And says so once, not at each job."""
    write("generation: {recipe: quick}\n")
    defaults = LiveDefaults(Settings.load())
    path = write("")
    path.write_bytes(broken.encode("utf-8", "surrogatepass"))
    with caplog.at_level(logging.ERROR):
        assert defaults().recipe == "quick"
        assert defaults().recipe == "quick"
    (record,) = caplog.records
    assert "the defaults stay as they were" in record.getMessage()
    write("generation: {recipe: slow}\n")
    assert defaults().recipe == "slow"


def test_a_list_in_the_environment_that_is_no_json_is_named_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_WARM_ENGINES", "flux")
    with pytest.raises(InvalidInput, match=r'^DOCTORGEN_WARM_ENGINES: it is no JSON. Write a list as \["flux"\]; '):
        Settings.load()
