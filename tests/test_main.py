"""``python -m qpsmtpd``: its commands, what they say, and how they end."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from qpsmtpd import __version__
from qpsmtpd.__main__ import main
from qpsmtpd.configuration import discovery, perl
from qpsmtpd.passwords import verify
from tests.configuration.folders import FolderTestCase
from tests.server.processes import LIMIT, PYTHON


class MainTestCase(FolderTestCase):
    """Runs commands in this process."""

    def run_main(self, *words: str, stdin: str = "") -> tuple[int, str, str]:
        """Run a command.

        :returns: Its exit status, what it said, and what it said of errors.
        """
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdin", io.StringIO(stdin))
        with redirect_stdout(out), redirect_stderr(err):
            status = main(words)
        return status, self.plain(Exception(out.getvalue())), self.plain(Exception(err.getvalue()))


class CommandLineTests(MainTestCase):
    def assert_exits(self, words: Sequence[str], status: int, said: str) -> None:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            caught = self.assertRaises(SystemExit, main, words)
        self.assertEqual(caught.code, status)
        self.assertIn(said, out.getvalue())

    def test_version(self) -> None:
        """It says its version."""
        self.assert_exits(["--version"], 0, f"qpsmtpd {__version__}")

    def test_wrong(self) -> None:
        """A command line that means nothing ends with 2."""
        self.assert_exits([], 2, "usage: python -m qpsmtpd")
        self.assert_exits(["fly"], 2, "invalid choice: 'fly'")


class CheckTests(MainTestCase):
    def test_good(self) -> None:
        """A configuration that can be used: what was read, what is used, and 0."""
        self.configure(
            {
                "plugins": "rcpt_ok\nqueue/discard\n",
                "me": "mail.example\n",
                "rcpthosts": "a.example",
            }
        )
        status, out, err = self.run_main("check", "--config", self.at("config"))
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(
            set(out.splitlines()),
            {
                "read TOP/config/me",
                "read TOP/config/plugins",
                "read TOP/config/rcpthosts",
                "uses rcpt_ok",
                "uses queue/discard",
                "The configuration can be used.",
            },
        )

    def test_without_effect(self) -> None:
        """A line that has no effect is named, and the configuration can be used."""
        self.patch(perl, "PLUGINS", {"not_there": perl.Task.MESSAGE})
        self.configure({"plugins": "rcpt_ok\nnot_there\n"})
        status, out, err = self.run_main("check", "--config", self.at("config"))
        self.assertEqual(status, 0)
        self.assertIn("The configuration can be used.", out)
        self.assertIn('TOP/config/plugins:2: "not_there": has no effect', err)

    def test_disagreements(self) -> None:
        """Where qmail-smtpd and the Perl qpsmtpd disagree, it says which way we go."""
        self.configure({"plugins": "rcpt_ok\n", "me": "mail.example\n"})
        status, _, err = self.run_main("check", "--config", self.at("config"))
        self.assertEqual(status, 0)
        self.assertIn("rcpthosts is missing or empty: mail is taken for the name in me alone", err)

    def test_bad(self) -> None:
        """A configuration that cannot be used: all that is wrong with it, and 1."""
        self.configure({"plugins": "rcpt_ok\nnowhere\nrcpt_ok 1\n", "databytes": "much\n"})
        status, out, err = self.run_main("check", "-c", self.at("config"))
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(
            [line.split(": expected")[0] for line in err.splitlines()],
            [
                'TOP/config/databytes:1: "much"',
                'TOP/config/plugins:2: "nowhere"',
                'TOP/config/plugins:3: "1"',
            ],
        )

    def test_no_folder(self) -> None:
        """A folder that is not there ends with 1."""
        status, _, err = self.run_main("check", "-c", self.at("gone"))
        self.assertEqual((status, err), (1, '"TOP/gone": expected a folder with control files\n'))


class PluginsTests(MainTestCase):
    def test_all(self) -> None:
        """All plugins are listed in short."""
        status, out, err = self.run_main("plugins", "-c", self.at("config"))
        self.assertEqual((status, err), (0, ""))
        listed = [line for line in out.splitlines() if line and not line.startswith(" ")]
        self.assertEqual(
            [name.replace("-", "_") for name in listed],
            [name.replace("-", "_") for name in discovery.names()],
        )
        self.assertNotIn("argument on_fault", out)

    def test_named(self) -> None:
        """A plugin that is named is told with its manual."""
        status, out, _ = self.run_main("plugins", "rcpt_ok", "queue/discard", "-c", self.top)
        self.assertEqual(status, 0)
        self.assertIn("\n    argument on_fault <tempfail or skip>: ", out)
        self.assertIn("This is the check that keeps the server from being an open relay.", out)
        self.assertIn("\nqueue/discard\n", out)

    def test_broken(self) -> None:
        """A plugin that cannot be imported is named, the others are listed, and it ends with 1."""
        self.write("more/broken.py", "1 / 0\n")
        self.write("more/needs.py", "import nowhere_to_be_found\n")
        self.write("config/plugin_dirs", self.at("more") + "\n")
        status, out, err = self.run_main("plugins", "-c", self.at("config"))
        self.assertEqual(status, 1)
        self.assertEqual(
            err.splitlines(),
            [
                "broken: plugin broken cannot be imported: ZeroDivisionError('division by zero')",
                "needs: plugin needs needs the Python module nowhere_to_be_found, "
                "which is not installed",
            ],
        )
        self.assertIn("rcpt_ok\n", out)

    def test_unknown(self) -> None:
        """A plugin that is not there ends with 1."""
        status, out, err = self.run_main("plugins", "nowhere", "-c", self.top)
        self.assertEqual((status, out), (1, ""))
        self.assertTrue(err.startswith("nowhere: plugin nowhere not found in "), err)

    def test_bad_folder(self) -> None:
        """A ``plugin_dirs`` that cannot be read is told with file and line."""
        self.write("config/plugin_dirs", "$include gone\n")
        status, _, err = self.run_main("plugins", "-c", self.at("config"))
        self.assertEqual(status, 1)
        self.assertTrue(err.startswith('TOP/config/plugin_dirs:1: "$include gone"'), err)

    def test_reader_goes(self) -> None:
        """Who has read enough, as ``head`` has, is no reason for a traceback."""
        # The pipe is closed before the first word, and holds less than what is said.
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as gone:
            done = subprocess.run(
                [*PYTHON, "-m", "qpsmtpd", "plugins"],
                stdin=subprocess.DEVNULL,
                stdout=gone,
                stderr=subprocess.PIPE,
                text=True,
                timeout=LIMIT,
            )
        self.assertEqual(done.stderr, "")
        self.assertEqual(done.returncode, 1)


class TapTests(MainTestCase):
    def test_bad_option(self) -> None:
        """Options that twistd would refuse are refused here, and no file is written."""
        status, _, err = self.run_main("tap", "-o", self.at("x.tap"), "--", "--workers", "0")
        self.assertEqual((status, err), (2, "--workers: expected 1 or more\n"))
        self.assertFalse(os.path.exists(self.at("x.tap")))

    def test_bad_configuration(self) -> None:
        """A configuration that cannot be used ends with 1, and no file is written."""
        self.write("config/plugins", "nowhere\n")
        output = self.at("x.tap")
        status, _, err = self.run_main("tap", "-o", output, "--", "-c", self.at("config"))
        self.assertEqual(status, 1)
        self.assertIn('TOP/config/plugins:1: "nowhere"', err)
        self.assertFalse(os.path.exists(output))

    def test_cannot_write(self) -> None:
        """A file that cannot be written ends with 1 and says why."""
        self.write("config/plugins", "")
        output = self.at("gone/x.tap")
        status, _, err = self.run_main("tap", "-o", output, "--", "-c", self.at("config"))
        self.assertEqual(status, 1)
        self.assertEqual(err, "TOP/gone/x.tap: No such file or directory\n")


class HashPasswordTests(MainTestCase):
    def test_from_a_pipe(self) -> None:
        """The hash of the first line is written, and fits the password."""
        status, out, _ = self.run_main("hash-password", stdin="a secret\nand more\n")
        self.assertEqual(status, 0)
        self.assertNotIn("secret", out)
        self.assertTrue(verify(b"a secret", out.strip()))
        self.assertFalse(verify(b"a secret\n", out.strip()))

    def test_nothing(self) -> None:
        """No password is not hashed."""
        for nothing in ("", "\n"):
            status, out, err = self.run_main("hash-password", stdin=nothing)
            self.assertEqual((status, out, err), (1, "", "No password was given.\n"))
