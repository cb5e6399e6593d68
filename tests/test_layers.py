"""The architecture as a test: who may import whom, who reads the environment, how long a file may get.

docs/adr/0015 says why. A new module has to be given its place in LAYERS before it can be imported.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Container, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up: a module imports from its own row (without a cycle) and from rows above it in this list.
# A name stands for the module or for everything in the package. docs/architecture.md shows the same rows.
LAYERS: list[set[str]] = [
    {
        "settings",
        "keys",
        "errors",
        "card",
        "onnx_file",
        "host",
        "xnor_op",
        "yaml_text",
        "randomness",
        "build",
        "prerequisites",
    },
    {"card_table", "exif", "image_cost", "image_header", "imaging", "metrics", "request_id", "schemas", "statistics"},
    {"tasks", "backends", "scheduler", "background"},
    {"evaluation", "registry", "calibration"},
    {"experiments", "parity"},
    {"pipeline", "report", "client", "server"},  # the client shares the wire types of experiments
    {"api", "ui"},
    {"tracing"},
    {"app"},
    {"__main__", "cli"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

# What the offline side may use of the online one: export verifies and evaluates with the code that serves.
MODELS_MAY_IMPORT = {
    "card",
    "image_header",
    "imaging",
    "tasks",
    "backends",
    "calibration",
    "statistics",
    "evaluation",
    "errors",
    "xnor_op",
    "prerequisites",
}
# The online side stays free of training and of the tools around it.
SERVICE_NEVER_IMPORTS = {"torch", "models", "loadtest", "tests", "locust", "pytest"}
# HTTP ends here: what computes and measures can be used without a server, as the offline commands do.
WEB = {"fastapi", "starlette", "uvicorn", "httptools"}
MAY_KNOW_THE_WEB = {"server", "api", "tracing", "app", "cli"}
# One reader of the environment. The operator's library reads its own override; its Python side names it in an error.
# The revision that an image sets is no setting: it has no effect besides being reported.
MAY_READ_ENVIRONMENT = {"service/settings.py", "service/xnor_op/__init__.py", "service/build.py"}

LINES_MAX = 450  # "about 400": beyond this a file has more than one responsibility
TEST_LINES_MAX = 700  # tables of cases are long without being hard to read
SOURCES = {".py", ".cc", ".h", ".inc"}
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home/\w+|Users/\w+|tmp/\w+)(?:/|\b)")
REGISTRY_HOST = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|registry\.npmjs\.org|deb\.debian\.org)\b")


def tracked_files() -> list[Path]:
    """Every file under version control; a copy without git history is read as it lies there."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("the tree is not a git checkout: there is no list of its files")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def python_files(package: str) -> list[Path]:
    """The modules of a top-level package."""
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text(), filename=str(path))


def imports(path: Path, *, typing_only: bool = True) -> Iterator[tuple[str, int]]:
    """The absolute dotted names that a module imports, also inside functions, with their lines.

    ``from package import name`` gives ``package.name``: the name may be a module.

    Args:
        path: the module.
        typing_only: whether to include what only a type checker imports.
    """
    nodes: list[ast.AST] = [tree_of(path)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing_only:
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it from the package's root"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def module_name(path: Path) -> str:
    """The dotted name by which a module is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def owner(name: str, modules: Container[str]) -> str:
    """The module among ``modules`` that an imported name is or belongs to; empty if it comes from elsewhere."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def reached_from(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """Every module that ``start`` imports, directly or through others; itself only if that leads back to it."""
    seen: set[str] = set()
    waiting = [*edges.get(start, ())]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += edges.get(module, ())
    return seen


def service_module(path: Path) -> str:
    """The first name below ``service`` that a file belongs to; empty for the package's own ``__init__``."""
    first = path.relative_to(ROOT / "service").parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def test_every_service_module_has_a_layer() -> None:
    placed = LAYER_OF.keys() | {""}
    unplaced = {service_module(path) for path in python_files("service")} - placed
    assert not unplaced, f"give these modules of service/ their place in LAYERS: {sorted(unplaced)}"


def test_the_page_shows_these_layers() -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition("\n## Layers\n")[2].partition("\n## ")[0]
    block = section.split("```")[1]
    assert [set(row.split()) for row in block.strip().splitlines()] == LAYERS


def test_service_imports_point_downwards() -> None:
    wrong = []
    for path in python_files("service"):
        importer = service_module(path)
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] != "service" or len(parts) < 2 or parts[1] not in LAYER_OF:
                continue
            if not importer or LAYER_OF[parts[1]] > LAYER_OF[importer]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "imports that point upwards:\n" + "\n".join(wrong)


@pytest.mark.parametrize("package", ["service", "models", "loadtest"])
def test_modules_form_no_cycle(package: str) -> None:
    """Module by module, also inside functions: in a circle, none can be read or moved without the others."""
    paths = {module_name(path): path for path in python_files(package)}
    edges = {}
    for importer, path in paths.items():
        targets = {owner(name, paths) for name, _ in imports(path, typing_only=False)}
        edges[importer] = targets - {importer, ""}
    cyclic = sorted(module for module in edges if module in reached_from(module, edges))
    assert not cyclic, f"these modules import each other in a circle: {cyclic}"


def test_service_packages_form_no_cycle() -> None:
    """The parts of service/ in one row of LAYERS, which may import each other, each with all its modules as one."""
    edges: dict[str, set[str]] = {}
    for path in python_files("service"):
        importer = service_module(path)
        targets = {name.split(".")[1] for name, _ in imports(path) if name.startswith("service.")}
        edges.setdefault(importer, set()).update(targets & LAYER_OF.keys() - {importer})
    cyclic = sorted(module for module in edges if module in reached_from(module, edges))
    assert not cyclic, f"these modules of service/ import each other in a circle: {cyclic}"


def test_service_never_imports_the_offline_side() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in python_files("service")
        for name, line in imports(path)
        if name.split(".")[0] in SERVICE_NEVER_IMPORTS
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_outer_layers_know_the_web() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in python_files("service")
        for name, line in imports(path)
        if name.split(".")[0] in WEB and service_module(path) not in MAY_KNOW_THE_WEB
    ]
    assert not wrong, "\n".join(wrong)


def test_models_import_only_the_shared_parts_of_service() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in python_files("models")
        for name, line in imports(path)
        if name.split(".")[0] == "service" and name.split(".")[1] not in MODELS_MAY_IMPORT
    ]
    assert not wrong, "\n".join(wrong)


def environment_reads(path: Path) -> Iterator[int]:
    """Lines that read an environment variable; setting one for a library to find is not reading."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Subscript):
            read = isinstance(node.ctx, ast.Load) and _is_environ(node.value)
        elif isinstance(node, ast.Attribute):
            read = node.attr == "getenv" or (node.attr in {"get", "items", "copy"} and _is_environ(node.value))
        else:
            read = False
        if read:
            yield node.lineno


def _is_environ(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )


def test_only_the_settings_read_the_environment() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in python_files("service")
        if str(path.relative_to(ROOT)) not in MAY_READ_ENVIRONMENT
        for line in environment_reads(path)
    ]
    assert not wrong, f"read these through service.settings: {wrong}"


def test_bodies_in_json_are_read_in_one_way() -> None:
    readers = {
        "model_validate_json",
        "from_json",
        "loads",
        "json",
    }  # the last one is Starlette's `await request.json()`
    calls = {
        path.name
        for path in python_files("service/api")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", "") in readers or getattr(node.func, "id", "") in readers)
    }
    assert calls == {"json_body.py"}, "let service.api.json_body.document_of parse them"


def test_only_the_adapter_knows_onnx_runtime() -> None:
    sources = [path for path in (ROOT / "service/xnor_op").rglob("*") if path.suffix in {".cc", ".h", ".inc"}]
    headers = ('#include "ort_abi.h"', '#include "ort_convert.h"')
    knowing = {path.name for path in sources if any(header in path.read_text() for header in headers)}
    assert knowing == {"register_op.cc", "ort_convert.cc", "ort_convert.h"}


def test_files_are_short() -> None:
    long = {}
    for path in tracked_files():
        name = str(path.relative_to(ROOT))
        limit = TEST_LINES_MAX if name.startswith("tests/") else LINES_MAX
        if path.suffix in SOURCES and (lines := len(path.read_text().splitlines())) > limit:
            long[name] = f"{lines}, the limit is {limit}"
    assert not long, f"split these: {long}"


@pytest.mark.parametrize(
    ("pattern", "what"), [(MACHINE_PATH, "a path of one machine"), (REGISTRY_HOST, "the host of a package registry")]
)
def test_nothing_names_one_machine_or_registry(pattern: re.Pattern[str], what: str) -> None:
    found = []
    for path in tracked_files():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # weights and pictures
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {match.group()}"
            for number, line in enumerate(text.splitlines(), 1)
            if (match := pattern.search(line))
        ]
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("open('/home/ada/data.bin')", True),
        ("--data /root/x", True),
        ("cd /tmp/build", True),
        ("/workspace", False),
        ("tmpfs: /tmp", False),
        ("https://example.com/home/ada", False),
        ("docs/work/notes", False),
    ],
)
def test_the_machine_path_pattern_itself(text: str, caught: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is caught
