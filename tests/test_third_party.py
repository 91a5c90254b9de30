"""A plugin in a distribution of somebody else: built, installed, tested and found by name."""

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parent.parent
EXAMPLE = CHECKOUT / "docs" / "examples" / "qpsmtpd-null-mx"


@functools.cache
def installed() -> Path:
    """Install the example, once, into the folder ``target`` beside a copy of its source."""
    folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-third-party-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(EXAMPLE, folder / "source")
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps"]
    run(folder, *pip, "--no-build-isolation", "--target", "target", "./source")
    return folder


def run(folder: Path, *arguments: str, status: int = 0) -> str:
    """Run Python with the installed example on its path; give what it says."""
    path = os.pathsep.join([str(folder / "target"), str(CHECKOUT)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    if done.returncode != status:
        raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class ThirdPartyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = installed()
        self.target = self.folder / "target"

    def python(self, *arguments: str, status: int = 0) -> str:
        return run(self.folder, *arguments, status=status)

    def test_files(self) -> None:
        """The distribution brings its module and nothing that would hide the project's own."""
        found = {
            str(path.relative_to(self.target))
            for path in self.target.rglob("*.py")
            if "dist-info" not in str(path)
        }
        self.assertEqual(found, {"qpsmtpd/plugins/null_mx.py"})

    def test_its_tests(self) -> None:
        """Its own tests pass, with the public test kit."""
        said = self.python("-m", "twisted.trial", "source/tests/test_null_mx.py")
        self.assertIn("PASSED (successes=4)", said)

    def test_listed(self) -> None:
        """It is listed among the plugins, with its manual and its settings."""
        said = self.python("-m", "qpsmtpd", "plugins", "null_mx")
        for words in ("RFC 7505", "hooks: mail", "argument reject", "file null_mx_exempt"):
            self.assertIn(words, said)

    def test_configured(self) -> None:
        """A line of the plugins file loads it by its name, and its arguments are checked."""
        config = self.folder / "config"
        config.mkdir()
        plugins = config / "plugins"
        (config / "null_mx_exempt").write_text("exempt.example\n")
        plugins.write_text("null_mx reject 0\nrcpt_ok\n")
        said = self.python("-m", "qpsmtpd", "check", "--config", str(config))
        self.assertIn("uses null_mx", said)
        plugins.write_text("rcpt_ok\nnull_mx reject perhaps\n")
        said = self.python("-m", "qpsmtpd", "check", "--config", str(config), status=1)
        self.assertIn(f"{plugins}:2", said)

    def test_bundled_plugins_stay(self) -> None:
        """The bundled plugins are found beside it, whichever comes first on the path."""
        for name in ("badmailfrom", "queue/maildir"):
            self.assertIn(f"{name}\n", self.python("-m", "qpsmtpd", "plugins", name))


class HowToTests(SynchronousTestCase):
    """``docs/how-to/write-a-plugin.md``, done as it says."""

    def test_page(self) -> None:
        """Files that are written and commands that are typed as on the page do what it says."""
        page = (CHECKOUT / "docs" / "how-to" / "write-a-plugin.md").read_text()
        blocks = list(re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
        self.assertEqual(len(blocks), page.count("```") // 2)
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        said = ""
        for block in blocks:
            kind, text = block.groups()
            if kind == "sh":
                said = self.shell(folder, text)
            elif kind == "text":
                for line in text.splitlines():
                    self.assertIn(line, said)
            else:
                [name] = re.findall(r"`([^`\n]+)`:\n\n$", page[: block.start()])
                (folder / name).write_text(text)
        for name in ("pyproject.toml", "src/qpsmtpd/plugins/null_mx.py", "tests/test_null_mx.py"):
            self.assertEqual((folder / name).read_text(), (EXAMPLE / name).read_text())

    def shell(self, folder: Path, commands: str) -> str:
        """Type commands; give what they say."""
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=folder,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        self.assertEqual(done.returncode, 0, f"{commands}{done.stdout}")
        return done.stdout
