"""The arrows between the packages: a module imports only what stands above it, and less where a row says so.

Checked on the syntax trees of whatever modules there are. Imports for type checking count as any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "cerememory"
MODULES = sorted(SOURCE.rglob("*.py"))

ABOVE_ACTORS = (
    "errors",
    "failpoints",
    "home",
    "protocol",
    "config",
    "domain",
    "storage",
    "telemetry",
    "providers",
)
# From the top down. A row names what it may import: a package with all its modules, or a single module.
# Whoever serves or shows memories reaches them through the engine or the client alone.
LAYERS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "failpoints": (),
    "home": ("errors",),
    "protocol": ("errors",),
    "config": ("errors", "protocol"),
    "domain": ("errors", "protocol"),
    "storage": ("errors", "failpoints", "protocol", "config", "domain"),
    "telemetry": ("errors", "config"),
    "providers": ("errors", "protocol", "config"),
    "actors": ABOVE_ACTORS,
    "http": (*ABOVE_ACTORS, "actors.engine"),
    "grpc": (*ABOVE_ACTORS, "actors.engine", "http"),
    "client": ("errors", "protocol"),
    "mcp": (
        "errors",
        "home",
        "protocol",
        "config",
        "domain",
        "telemetry",
        "actors.engine",
        "http.exchange",
        "client",
    ),
    "recorder": ("errors", "protocol", "domain", "client"),
    "cli": (*ABOVE_ACTORS, "actors.engine", "actors.assembly", "http", "grpc", "client", "mcp", "recorder"),
}
FIRST_ASYNC = "providers"
EVENT_LOOPS = {"trio", "anyio", "asyncio", "sniffio"}
ROOT_MODULES = {"__init__", "__main__"}


def layer_of(module: Path) -> str:
    """The package or the module directly below `cerememory` that `module` belongs to."""
    return module.relative_to(SOURCE).with_suffix("").parts[0]


def imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    """The full name of everything that is imported; `package` holds the parts of the importing package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{start}.{alias.name}" for alias in node.names)


def imports_of(module: Path) -> list[str]:
    package = ("cerememory", *module.relative_to(SOURCE).parent.parts)
    return list(imports(ast.parse(module.read_text(encoding="utf-8")), package))


def allowed(name: str, layer: str) -> bool:
    """Whether `layer` may import `name`, a full name below `cerememory`."""
    within = name.removeprefix("cerememory.")
    return within in ("cerememory", "__version__") or any(
        within == row or within.startswith(f"{row}.") for row in (*LAYERS[layer], layer)
    )


def label(module: Path) -> str:
    return str(module.relative_to(SOURCE))


LAYERED = [module for module in MODULES if layer_of(module) not in ROOT_MODULES]
PLAIN = [module for module in LAYERED if list(LAYERS).index(layer_of(module)) < list(LAYERS).index(FIRST_ASYNC)]


def test_every_package_has_a_layer() -> None:
    assert {layer_of(module) for module in LAYERED} <= LAYERS.keys()


def test_a_row_names_only_what_stands_above_it() -> None:
    order = list(LAYERS)
    for layer, rows in LAYERS.items():
        assert all(order.index(row.partition(".")[0]) < order.index(layer) for row in rows)


@pytest.mark.parametrize("module", LAYERED, ids=label)
def test_a_module_imports_only_what_its_layer_may(module: Path) -> None:
    ours = [name for name in imports_of(module) if name.split(".")[0] == "cerememory"]
    assert [name for name in ours if not allowed(name, layer_of(module))] == []


def test_the_package_itself_imports_none_of_its_modules() -> None:
    assert not [name for name in imports_of(SOURCE / "__init__.py") if name.startswith("cerememory")]


@pytest.mark.parametrize("module", PLAIN, ids=label)
def test_above_the_providers_nothing_is_async(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    nodes = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, nodes)] == []
    assert {name.split(".")[0] for name in imports_of(module)} & EVENT_LOOPS == set()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import cerememory.storage", ["cerememory.storage"]),
        ("import trio, os.path as p", ["trio", "os.path"]),
        ("from cerememory import storage as s", ["cerememory.storage"]),
        ("from cerememory.actors import engine", ["cerememory.actors.engine"]),
        ("from . import routes", ["cerememory.http.routes"]),
        ("from .routes import app", ["cerememory.http.routes.app"]),
        ("from .. import storage", ["cerememory.storage"]),
        ("from ..storage.lmdb import open_map", ["cerememory.storage.lmdb.open_map"]),
        ("def f():\n    from cerememory import cli", ["cerememory.cli"]),
    ],
)
def test_every_way_to_import_is_seen(source: str, names: list[str]) -> None:
    assert list(imports(ast.parse(source), ("cerememory", "http"))) == names


@pytest.mark.parametrize(
    ("name", "layer", "may"),
    [
        ("cerememory.errors.NoRoute", "protocol", True),
        ("cerememory.__version__", "storage", True),
        ("cerememory", "mcp", True),
        ("cerememory.protocol.codec", "protocol", True),
        ("cerememory.storage.lmdb", "domain", False),
        ("cerememory.domain.decay", "protocol", False),
        ("cerememory.domain.decay", "telemetry", False),
        ("cerememory.actors.engine.Engine", "http", True),
        ("cerememory.actors.engine", "mcp", True),
        ("cerememory.actors.engines", "http", False),
        ("cerememory.actors.writer", "http", False),
        ("cerememory.actors.Engine", "http", False),
        ("cerememory.actors", "grpc", False),
        ("cerememory.actors.engine", "client", False),
        ("cerememory.http.routes", "actors", False),
        ("cerememory.client.api", "recorder", True),
        ("cerememory.storage.lmdb", "recorder", False),
    ],
)
def test_a_layer_sees_what_its_row_names(name: str, layer: str, may: bool) -> None:
    assert allowed(name, layer) is may
