"""The order of modules: docs/explanation/architecture.md has it, and the source keeps to it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "explanation" / "architecture.md"


def table(page: str) -> dict[str, list[str]]:
    """The layers of the page's table, from the bottom up, each with its modules in order."""
    [text] = re.findall(r"^\| layer \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", page, re.MULTILINE)
    layers = {}
    for line in text.splitlines():
        _, layer, modules, _ = line.split("|")
        layers[layer.strip()] = [full_name(each) for each in re.findall(r"`([^`]+)`", modules)]
    return layers


def full_name(module: str) -> str:
    return module if module == "qpsmtpd" else f"qpsmtpd.{module}"


def source() -> dict[str, Path]:
    """The modules of the framework and of the bundled plugins, with their files."""
    files = [*CHECKOUT.glob("qpsmtpd/**/*.py"), *CHECKOUT.glob("plugins/**/*.py")]
    found = {}
    for path in files:
        parts = list(path.relative_to(CHECKOUT).with_suffix("").parts)
        if parts[0] == "plugins":
            parts.insert(0, "qpsmtpd")
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


@dataclass(frozen=True)
class Import:
    """An import statement's aim, and where it stands."""

    target: str
    line: int
    in_function: bool = False
    for_types: bool = False


class Imports(ast.NodeVisitor):
    """Gathers the imports of a module."""

    def __init__(self, modules: dict[str, Path]) -> None:
        self.found: list[Import] = []
        self._modules = modules
        self._functions = 0
        self._types = False

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.module is not None and not node.level, "imports are absolute"
        for alias in node.names:
            # What is imported from a package may be a module of it.
            name = f"{node.module}.{alias.name}"
            whole = name in self._modules or name == "twisted.internet.reactor"
            self._add(name if whole else node.module, node.lineno)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast calls it

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        outside, self._types = self._types, True
        for statement in node.body:
            self.visit(statement)
        self._types = outside
        for statement in node.orelse:
            self.visit(statement)

    def _add(self, target: str, line: int) -> None:
        self.found.append(Import(target, line, self._functions > 0, self._types))


def imports(text: str, modules: dict[str, Path]) -> list[Import]:
    visitor = Imports(modules)
    visitor.visit(ast.parse(text))
    return visitor.found


class LayerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.layers = table(PAGE.read_text())
        self.order = [module for modules in self.layers.values() for module in modules]
        self.layer_of = {
            module: layer for layer, modules in self.layers.items() for module in modules
        }
        self.source = source()
        self.imports = {
            module: imports(path.read_text(), self.source) for module, path in self.source.items()
        }

    def framework(self) -> Iterator[tuple[str, Import]]:
        for module, found in self.imports.items():
            if not module.startswith("qpsmtpd.plugins."):
                yield from ((module, each) for each in found)

    def place(self, module: str, each: Import) -> str:
        return f"{self.source[module].relative_to(CHECKOUT)}:{each.line} imports {each.target}"

    def test_every_module_has_a_place(self) -> None:
        """The page's table has every module of the framework once, and no other."""
        modules = [each for each in self.source if not each.startswith("qpsmtpd.plugins.")]
        self.assertEqual(sorted(self.order), sorted(modules))

    def test_imports_point_up_the_table(self) -> None:
        """A module imports only what stands before it in the table."""
        place = {module: number for number, module in enumerate(self.order)}
        wrong = [
            self.place(module, each)
            for module, each in self.framework()
            if each.target in place
            and place[each.target] >= place[module]
            and not (each.for_types and self.layer_of[each.target] == self.layer_of[module])
        ]
        self.assertEqual(wrong, [])

    def test_nothing_imports_a_plugin(self) -> None:
        """Plugins are loaded by name: no statement of the framework imports one."""
        wrong = [
            self.place(module, each)
            for module, each in self.framework()
            if each.target.startswith("qpsmtpd.plugins.")
        ]
        self.assertEqual(wrong, [])

    def test_plugins_stand_beside_the_server(self) -> None:
        """A plugin imports nothing of the server, the command line or the test kit."""
        forbidden = [*self.layers["server"], *self.layers["command line"], *self.layers["test kit"]]
        wrong = [
            self.place(module, each)
            for module, found in self.imports.items()
            for each in found
            if module.startswith("qpsmtpd.plugins.") and each.target in forbidden
        ]
        self.assertEqual(wrong, [])

    def test_protocol_needs_the_standard_library_alone(self) -> None:
        """What is in smtp/ imports the standard library, and smtp/."""
        wrong = [
            self.place(module, each)
            for module, each in self.framework()
            if module.startswith("qpsmtpd.smtp")
            and not each.target.startswith("qpsmtpd.smtp")
            and each.target.partition(".")[0] not in sys.stdlib_module_names
        ]
        self.assertEqual(wrong, [])

    def test_reactor(self) -> None:
        """The global reactor is imported inside functions only, of services and what uses them."""
        above = ("services", "server", "command line", "test kit")
        wrong = [
            self.place(module, each)
            for module, found in self.imports.items()
            for each in found
            if each.target == "twisted.internet.reactor"
            and not (each.in_function and self.layer_of.get(module) in above)
        ]
        self.assertEqual(wrong, [])

    def test_importing_installs_no_reactor(self) -> None:
        """Importing everything, plugins included, leaves the choice of a reactor open.

        Only ``server.delivery`` cannot: it adapts ``twisted.mail.smtp``, which imports the reactor.
        """
        without = ("qpsmtpd.__main__", "qpsmtpd.server.delivery")
        modules = [name for name in self.source if name not in without]
        program = (
            "import importlib, sys\n"
            "for name in sys.argv[1:]:\n"
            "    importlib.import_module(name)\n"
            "    if 'twisted.internet.reactor' in sys.modules:\n"
            "        sys.exit(name)\n"
        )
        self.run_python(program, *sorted(modules))

    def test_protocol_loads_no_twisted(self) -> None:
        """The protocol machine runs where Twisted is not even loaded."""
        program = (
            "import qpsmtpd.smtp.machine, sys\n"
            "sys.exit(', '.join({'twisted', 'zope.interface'} & set(sys.modules)) or None)\n"
        )
        self.run_python(program)

    def run_python(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual((done.returncode, done.stderr.strip()), (0, ""))


class ImportsTests(SynchronousTestCase):
    """What the tests above rest on."""

    def found(self, text: str) -> list[Import]:
        return imports(text, {"qpsmtpd.smtp.reply": Path(), "qpsmtpd.smtp": Path()})

    def test_modules(self) -> None:
        """What is imported from a package is the module, where there is one of the name."""
        found = self.found("import a.b\nfrom qpsmtpd.smtp import reply\nfrom a import b\n")
        self.assertEqual([each.target for each in found], ["a.b", "qpsmtpd.smtp.reply", "a"])

    def test_places(self) -> None:
        """An import knows whether it runs, and whether that is when a function is called."""
        found = self.found(
            "if TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
            "def f():\n    import c\nfrom twisted.internet import reactor\n"
        )
        self.assertEqual(
            found,
            [
                Import("a", 2, for_types=True),
                Import("b", 4),
                Import("c", 6, in_function=True),
                Import("twisted.internet.reactor", 7),
            ],
        )

    def test_table(self) -> None:
        """Layers and modules come in the page's order."""
        page = "x\n\n| layer | m |\n|---|---|\n| a | `smtp` `z` |\n| b | `qpsmtpd` |\n\ny\n"
        self.assertEqual(table(page), {"a": ["qpsmtpd.smtp", "qpsmtpd.z"], "b": ["qpsmtpd"]})
