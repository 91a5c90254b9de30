"""The engine's settings, from the control files that operators have."""

import os
import socket
from collections.abc import Mapping

from qpsmtpd.configuration.errors import ConfigurationErrors
from qpsmtpd.configuration.reference import ENGINE_FILES
from qpsmtpd.configuration.settings import read_settings
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.limits import BareNewlines, Limits
from tests.configuration.folders import FolderTestCase


class SettingsTests(FolderTestCase):
    def read(self, texts: Mapping[str, str], **environ: str) -> Settings:
        return read_settings(self.configure(texts), environ)

    def errors(self, texts: Mapping[str, str], **environ: str) -> list[str]:
        caught = self.assertRaises(ConfigurationErrors, self.read, texts, **environ)
        return self.plain(caught).splitlines()

    def test_nothing_said(self) -> None:
        """Without control files the defaults hold, and the server has the host's name."""
        settings = self.read({})
        limits = Limits(command_time=1200, content_time=1200)
        self.assertEqual(settings, Settings(authserv_id=socket.gethostname(), limits=limits))
        self.assertEqual(settings.me, socket.gethostname())

    def test_each_file(self) -> None:
        """Each control file of the engine sets what it is for."""
        settings = self.read(
            {
                "me": "mail.example\n",
                "smtpgreeting": "mail.example speaks ESMTP\n",
                "spool_dir": "/spool/of/ours\n",
                "size_threshold": "10k\n",
                "tls_before_auth": "1\n",
                "databytes": "5M\n",
                "timeoutsmtpd": "100\n",
                "timeout": "200\n",
            }
        )
        self.assertEqual(settings.me, "mail.example")
        self.assertEqual(settings.greeting, "mail.example speaks ESMTP")
        self.assertEqual(settings.spool_dir, "/spool/of/ours")
        self.assertEqual(settings.size_threshold, 10 * 1024)
        self.assertTrue(settings.tls_before_auth)
        self.assertEqual(settings.limits.message_size, 5 * 1024 * 1024)
        self.assertEqual(settings.limits.command_time, 100)
        self.assertEqual(settings.limits.content_time, 100)

    def test_name_in_authentication_results(self) -> None:
        """It is the server's unless it has one of its own; `none` is none."""
        self.assertEqual(self.read({"me": "mail.example\n"}).authserv_id, "mail.example")
        files = {"me": "mail.example\n", "me-auth-results": "example.org\n"}
        self.assertEqual(self.read(files).authserv_id, "example.org")
        self.assertIsNone(self.read(files | {"me-auth-results": "none\n"}).authserv_id)

    def test_zero_timeouts(self) -> None:
        """0 says nothing: ``timeoutsmtpd`` leaves it to ``timeout``, and both to the default."""
        for texts, expected in (
            ({"timeoutsmtpd": "0", "timeout": "7"}, 7),
            ({"timeoutsmtpd": "5", "timeout": "7"}, 5),
            ({"timeoutsmtpd": "0", "timeout": "0"}, 1200),
            ({}, 1200),
        ):
            self.configure({"timeoutsmtpd": "", "timeout": ""})
            limits = self.read(texts).limits
            self.assertEqual((limits.command_time, limits.content_time), (expected, expected))

    def test_own_folder(self) -> None:
        """Without ``spool_dir``, messages lie in ``~/tmp`` if that is there and the user's own."""
        self.write("home/tmp/empty", "")
        self.write("log/tmp/empty", "")
        self.patch(os, "geteuid", lambda: 0)
        self.assertIsNone(self.read({}, HOME=self.at("home")).spool_dir)
        os.chown(self.at("home/tmp"), 4321, -1)
        os.chown(self.at("log/tmp"), 4321, -1)
        self.patch(os, "geteuid", lambda: 4321)
        home, log = self.at("home"), self.at("log")
        self.assertEqual(self.read({}, HOME=home, LOGDIR=log).spool_dir, self.at("home/tmp"))
        self.assertEqual(self.read({}, LOGDIR=log).spool_dir, self.at("log/tmp"))
        self.assertIsNone(self.read({}, HOME=self.top).spool_dir)
        self.assertIsNone(self.read({}).spool_dir)
        self.assertEqual(self.read({"spool_dir": "/other"}, HOME=home).spool_dir, "/other")
        self.patch(os, "geteuid", lambda: 1234)
        os.unlink(self.at("config/spool_dir"))
        self.assertIsNone(self.read({}, HOME=home).spool_dir)

    def test_spool_perms(self) -> None:
        """The folder's mode is octal, and the user's alone unless somebody says otherwise."""
        self.assertEqual(self.read({}).spool_perms, 0o700)
        self.assertEqual(self.read({"spool_perms": "0750"}).spool_perms, 0o750)
        [said] = self.errors({"spool_perms": "rwx"})
        self.assertIn("expected an octal file mode", said)

    def test_localiphost(self) -> None:
        """A domain, or that in ``me``."""
        self.assertIsNone(self.read({}).localiphost)
        self.assertEqual(self.read({"localiphost": "Mx.example."}).localiphost, "mx.example")

    def test_timeout(self) -> None:
        """``timeout`` counts where ``timeoutsmtpd`` says nothing; ``limits`` before both."""
        self.assertEqual(self.read({"timeout": "2m"}).limits.command_time, 120)
        self.assertEqual(self.read({"timeout": "2m"}).limits.content_time, 120)
        settings = self.read({"timeout": "2m", "limits": "content_time 30"})
        self.assertEqual(settings.limits.command_time, 120)
        self.assertEqual(settings.limits.content_time, 30)

    def test_databytes_of_environment(self) -> None:
        """``DATABYTES`` in the environment wins over the file, as in qmail-smtpd."""
        texts = {"databytes": "5000"}
        self.assertEqual(self.read(texts, DATABYTES="7000").limits.message_size, 7000)
        self.assertEqual(self.read(texts, DATABYTES="0").limits.message_size, 0)
        self.assertEqual(self.read(texts, DATABYTES="").limits.message_size, 5000)

    def test_bad_databytes_of_environment(self) -> None:
        """A ``DATABYTES`` that is no size is an error, not a server without a limit."""
        [said] = self.errors({}, DATABYTES="\N{SUPERSCRIPT TWO}")
        self.assertTrue(said.startswith('"DATABYTES=\N{SUPERSCRIPT TWO}": expected a number'), said)

    def test_limits(self) -> None:
        """Every limit can be set by its name, separated by any white space."""
        numbers = [
            "command_line 4k",
            "auth_line 20000",
            "text_line\t2000",
            "header_size   64k",
            "recipients 7",
            "errors 8",
            "unknown_commands 9",
            "idle_commands 10",
            "bare_newlines replace",
            "command_time 1m",
            "content_time 50",
            "message_time 1h",
            "session_time 1d",
            "component_time 0.5",
            "connections 11",
            "connections_per_address 12",
        ]
        settings = self.read({"limits": "\n".join(numbers), "databytes": "0"})
        self.assertEqual(
            settings.limits,
            Limits(
                command_line=4096,
                auth_line=20000,
                text_line=2000,
                header_size=65536,
                message_size=0,
                recipients=7,
                errors=8,
                unknown_commands=9,
                idle_commands=10,
                bare_newlines=BareNewlines.REPLACE,
                command_time=60,
                content_time=50,
                message_time=3600,
                session_time=86400,
                component_time=0.5,
            ),
        )
        self.assertEqual((settings.connections, settings.connections_per_address), (11, 12))

    def test_extensions(self) -> None:
        """Extensions are offered and withheld by keyword, in any case of letters."""
        extensions = self.read({"extensions": "dsn\n-PIPELINING\n-Chunking\n8BITMIME\n"}).extensions
        self.assertTrue(extensions.dsn)
        self.assertTrue(extensions.eightbitmime)
        self.assertFalse(extensions.pipelining)
        self.assertFalse(extensions.chunking)

    def test_all_errors(self) -> None:
        """All that is wrong is told at once, each with its file and line."""
        errors = self.errors(
            {
                "databytes": "\nmuch\n",
                "timeoutsmtpd": "soon\n",
                "size_threshold": "-1\n",
                "tls_before_auth": "perhaps\n",
                "spool_dir": "~nobody-of-this-name/x\n",
                "extensions": "DSN\nFOO\n",
                "limits": "recipients many\nconnections -1\nrecipients\nfoo 1\ncommand_line 0\n",
            }
        )
        self.assertEqual(
            [error.split(": expected ")[0] for error in errors],
            [
                'TOP/config/limits:1: "recipients many"',
                'TOP/config/limits:2: "connections -1"',
                'TOP/config/limits:3: "recipients"',
                'TOP/config/limits:4: "foo 1"',
                'TOP/config/limits:5: "command_line 0"',
                'TOP/config/databytes:2: "much"',
                'TOP/config/timeoutsmtpd:1: "soon"',
                'TOP/config/size_threshold:1: "-1"',
                'TOP/config/extensions:2: "FOO"',
                'TOP/config/spool_dir:1: "~nobody-of-this-name/x"',
                'TOP/config/tls_before_auth:1: "perhaps"',
            ],
        )
        self.assertIn(
            "expected the name of a limit: auth_delay, auth_failures, auth_line, ", errors[3]
        )
        self.assertIn("expected one of PIPELINING, 8BITMIME, ", errors[8])

    def test_unreadable_file(self) -> None:
        """A file that cannot be read is an error among the others."""
        self.write("config/me", "")
        with open(self.at("config/me"), "wb") as file:
            file.write(b"\xff\n")
        errors = self.errors({"databytes": "x"})
        self.assertEqual(len(errors), 2)
        self.assertIn('TOP/config/me:1: "\\xff": expected UTF-8', errors)

    def test_files_are_described(self) -> None:
        """Every file that is read here is in the list of engine files, with what it means."""
        files = self.configure({})
        asked: list[str] = []
        path = files.path

        def asking(name: str) -> str | None:
            asked.append(name)
            return path(name)

        self.patch(files, "path", asking)
        read_settings(files, {})
        self.assertEqual(set(asked) - set(ENGINE_FILES), set())
        self.assertEqual(
            set(ENGINE_FILES) - set(asked),
            {"plugins", "plugin_dirs", "logging", "loglevel", "store"},
        )
