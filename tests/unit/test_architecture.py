"""Who may import whom, read off the source of every module."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from doctor_image_gen.stages import STAGES

ROOT = Path(__file__).parents[2]
OURS = ("doctor_image_gen", "services", "shared")
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "insightface",
    "mediapipe",
    "dlib",
    "cv2",
    "skimage",
    "timm",
    "onnxruntime",
    "spandrel",
    "spandrel_extra_arches",
    "ultralytics",
    "peft",
}
"""Libraries that only engines may pull in. The gateway reads photos with Pillow alone."""

ENGINE_SIDE = {
    "services",
    "shared.flux",
    "shared.vision",
    "shared.models.convert",
    "shared.models.convert_yolo",
    "shared.models.yolo_checkpoint",
    "shared.models.onnx",
}
"""Where modules that engines are made of may lie, with what opens ONNX files for them and what reads pickles for an
operator."""


@dataclass(frozen=True)
class Import:
    """One import statement's target, as seen from a module."""

    module: str
    target: str

    def __str__(self) -> str:
        return f"{self.module} imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All of a module but its expressions, which hold no import and make up most of it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)


def imports_of(module: str, path: Path) -> Iterator[Import]:
    """Every import, those inside functions and under TYPE_CHECKING too."""
    for node in statements(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; say the whole name"
            assert node.module is not None
            for alias in node.names:
                yield Import(module, f"{node.module}.{alias.name}")


@cache
def imports() -> list[Import]:
    """Read when the first test asks, not by every process that collects the tests."""
    return [found for module, path in modules().items() for found in imports_of(module, path)]


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_walk_finds_the_whole_house() -> None:
    """Guards the other tests against looking at nothing."""
    assert {f"services.{stage}.stage" for stage in STAGES} <= modules().keys()
    assert {"shared.contracts.request", "doctor_image_gen.stack"} <= modules().keys()
    assert Import("doctor_image_gen", "doctor_image_gen.generator.DoctorImageGenerator") in imports()
    assert any(is_under(found.target, "mediapipe") for found in imports())


def test_contracts_import_nothing_else_of_ours() -> None:
    assert [
        str(found)
        for found in imports()
        if is_under(found.module, "shared.contracts")
        and any(is_under(found.target, package) for package in OURS)
        and not is_under(found.target, "shared.contracts")
    ] == []


def test_contracts_do_no_input_or_output() -> None:
    doors = ("os", "io", "pathlib", "socket", "subprocess", "tempfile", "urllib", "logging", "yaml", "sqlalchemy")
    assert [
        str(found)
        for found in imports()
        if is_under(found.module, "shared.contracts")
        and any(is_under(found.target, door) for door in doors)
        and found.module != "shared.contracts.schemas"  # writes the JSON Schemas into docs/
    ] == []


def test_shared_imports_neither_services_nor_the_face() -> None:
    assert [
        str(found)
        for found in imports()
        if is_under(found.module, "shared")
        and (is_under(found.target, "services") or is_under(found.target, "doctor_image_gen"))
    ] == []


def test_a_service_imports_no_other_service_and_not_the_face() -> None:
    def own(module: str) -> str:
        return ".".join(module.split(".")[:2])

    assert [
        str(found)
        for found in imports()
        if is_under(found.module, "services")
        and (
            is_under(found.target, "doctor_image_gen")
            or (is_under(found.target, "services") and not is_under(found.target, own(found.module)))
        )
    ] == []


def test_heavy_libraries_stay_with_the_engines() -> None:
    assert [
        str(found)
        for found in imports()
        if found.target.split(".")[0] in HEAVY
        and not any(is_under(found.module, side) for side in ENGINE_SIDE)
        and found.module != "doctor_image_gen.demo"  # takes its photo from scikit-image
    ] == []


def test_nobody_imports_an_engine_but_its_own_stage() -> None:
    """An engine is named by its import path ("package.module:factory") and imported by the worker that runs it."""
    engines = {
        spec.factory.partition(":")[0]
        for stage in STAGES.values()
        for operation in stage.operations
        for spec in operation.engines.values()
    }
    assert engines <= modules().keys()
    assert [
        str(found)
        for found in imports()
        if any(is_under(found.target, engine) for engine in engines)
        and found.module.split(".")[:2] != found.target.split(".")[:2]
    ] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_as_all_stages_do(stage: str) -> None:
    """`stage.py` says what it can do, `__main__.py` runs it."""
    assert {f"services.{stage}.stage", f"services.{stage}.__main__"} <= modules().keys()
    assert STAGES[stage].name == stage


LIGHT = [
    "doctor_image_gen.stages",
    "doctor_image_gen.settings",
    "doctor_image_gen.stack",
    "doctor_image_gen.cli.models",
    "services.gateway.intake",
    "services.gateway.journal",
    *(f"services.{stage}.stage" for stage in STAGES),
]


def test_describing_the_stages_and_running_the_gateway_imports_no_heavy_library() -> None:
    """In a process of its own, where nothing else has imported them."""
    code = f"""
import sys
from importlib import import_module
for name in {LIGHT!r}:
    import_module(name)
    heavy = sorted({HEAVY!r} & sys.modules.keys())
    if heavy:
        sys.exit(f"{{name}} pulls in {{', '.join(heavy)}}")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_comparing_faces_does_not_import_what_finds_them() -> None:
    """MediaPipe takes a second to import, most of it matplotlib; in a process of its own."""
    code = """
import sys
import services.identity.fuse, services.qa.observation, shared.vision.align
print(sorted({"mediapipe", "matplotlib"} & sys.modules.keys()))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
