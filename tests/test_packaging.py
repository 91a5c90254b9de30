"""The distribution: what a wheel brings is found and works, far away from the checkout."""

import atexit
import functools
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd import __version__
from qpsmtpd.configuration import discovery
from tests.server.processes import run

CHECKOUT = Path(__file__).resolve().parent.parent

#: What a distribution is made of.
SOURCES = (
    "qpsmtpd",
    "plugins",
    "config",
    "twisted",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "docs/qpsmtpd.8",
)

PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input"]


@functools.cache
def built() -> Path:
    """Build the wheel and install it, once: ``wheel/*.whl`` and ``target/`` in a folder."""
    folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-packaging-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (CHECKOUT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
            shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=ignored)
        else:
            (source / name).parent.mkdir(exist_ok=True)
            shutil.copy(CHECKOUT / name, source / name)
    wheel = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "wheel"]
    run([sys.executable, *PIP, *wheel, "./source"], folder)
    [found] = (folder / "wheel").iterdir()
    install = ["install", "--no-deps", "--no-index", "--target", "target"]
    run([sys.executable, *PIP, *install, str(found)], folder)
    (folder / "empty").mkdir()
    return folder


class PackagingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = built()

    def python(self, *arguments: str, status: int = 0) -> str:
        """Run Python with what was installed, and with the dependencies, from an empty folder.

        ``-S`` leaves out the checkout, which the virtual environment has on its path.
        """
        packages = [path for path in sys.path if path.endswith("site-packages")]
        path = os.pathsep.join([str(self.folder / "target"), *packages])
        environ = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "QMAIL": "/nowhere"}
        command = [sys.executable, "-S", *arguments]
        return run(command, self.folder / "empty", environ, status)

    def test_files(self) -> None:
        """The wheel has the package with plugins and sample, and does not hide Twisted."""
        [wheel] = (self.folder / "wheel").iterdir()
        names = set(zipfile.ZipFile(wheel).namelist())
        self.assertTrue(wheel.name.startswith(f"qpsmtpd-{__version__}-py3-none-any"), wheel.name)
        for name in ("py.typed", "config/plugins", "config/rcpthosts", "plugins/__init__.py"):
            self.assertIn(f"qpsmtpd/{name}", names)
        self.assertIn("twisted/plugins/qpsmtpd_tap.py", names)
        self.assertNotIn("twisted/__init__.py", names)
        self.assertNotIn("twisted/plugins/__init__.py", names)
        tops = {name.split("/")[0] for name in names}
        self.assertEqual(
            {top for top in tops if not top.endswith((".dist-info", ".data"))},
            {"qpsmtpd", "twisted"},
        )

    def test_manual(self) -> None:
        """The manual page is installed where ``man`` looks for it."""
        page = self.folder / "target" / "share" / "man" / "man8" / "qpsmtpd.8"
        self.assertEqual(page.read_text(), (CHECKOUT / "docs" / "qpsmtpd.8").read_text())

    def test_commands(self) -> None:
        """The installed commands are there, with the names of the Perl programs, and run."""
        for name, said in (
            ("qpsmtpd", "hash-password"),
            ("qpsmtpd-forkserver", "--limit-connections"),
            ("qpsmtpd-prefork", "--idle-children"),
        ):
            script = self.folder / "target" / "bin" / name
            self.assertIn(said, self.python(str(script), "--help"))

    def test_every_module(self) -> None:
        """Every module of the checkout is in the wheel."""
        [wheel] = (self.folder / "wheel").iterdir()
        names = set(zipfile.ZipFile(wheel).namelist())
        for top, package in (("qpsmtpd", "qpsmtpd"), ("plugins", "qpsmtpd/plugins")):
            source = self.folder / "source" / top
            modules = {
                f"{package}/{path.relative_to(source)}"
                for path in source.rglob("*.py")
                if "plugins" not in path.relative_to(source).parts
            }
            self.assertEqual(modules - names, set())

    def test_installed_is_used(self) -> None:
        """What the other tests run is what was installed, not the checkout."""
        said = self.python("-c", "import qpsmtpd; print(qpsmtpd.__file__)")
        self.assertEqual(Path(said.strip()), self.folder / "target" / "qpsmtpd" / "__init__.py")

    def test_twistd(self) -> None:
        """``twistd --help`` lists the server, and its help has its options."""
        twistd = "from twisted.scripts.twistd import run; run()"
        self.assertRegex(self.python("-c", twistd, "--help"), r"\n +qpsmtpd +An SMTP server ")
        self.assertIn("--listen", self.python("-c", twistd, "qpsmtpd", "--help"))

    def test_plugins(self) -> None:
        """All bundled plugins are found."""
        said = self.python("-m", "qpsmtpd", "plugins")
        listed = [line for line in said.splitlines() if line and not line.startswith(" ")]
        self.assertEqual(
            [name.replace("-", "_") for name in listed],
            [name.replace("-", "_") for name in discovery.names()],
        )

    def test_sample(self) -> None:
        """From an empty folder the sample configuration is found, and can be used."""
        said = self.python("-m", "qpsmtpd", "check")
        config = self.folder / "target" / "qpsmtpd" / "config"
        self.assertIn(f"read {config / 'plugins'}\n", said)
        self.assertIn("uses queue/maildir\n", said)
        self.assertTrue(said.endswith("The configuration can be used.\n"))
        self.assertEqual(list((self.folder / "empty").iterdir()), [])
