"""Logs in an SQLite database."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.logtools import sql
from qpsmtpd.logtools.sessions import Session
from qpsmtpd.logtools.sql import DatabaseError, Loaded, load
from tests.logtools.logs import PERL, REFUSED, TAKEN

STAMP = "@4000000065610d1a00000000 "


class LoadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "current"
        self.database = self.folder / "log.sqlite"

    def load(self, *paths: Path) -> list[Loaded]:
        return [loaded for _, loaded in load(self.database, paths or [self.path])]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()

    def everything(self) -> list[Any]:
        """All that is in the database but what is known of files."""
        tables = ("message", "recipient", "message_plugin", "plugin", "plugin_aliases", "os")
        return [self.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]

    def test_sessions(self) -> None:
        """Sessions, with times, addresses of both families, and what became of them."""
        text = TAKEN + REFUSED
        self.path.write_text("".join(f"{STAMP}{line}\n" for line in text.splitlines()))
        self.assertEqual(self.load(), [Loaded(len(text.splitlines()), 2)])
        self.assertEqual(
            self.rows(
                "SELECT datetime(connect_start, 'unixepoch'), ip, qp_pid, result, time, hostname,"
                " helo, mail_from, rcpt_to, queued FROM message"
            ),
            [
                (
                    "2023-11-24 20:52:32",
                    *("192.0.2.7", 2412000031, 3, 1.25, "mail.example.org", "mail.example.org"),
                    *("a@example.org", "b@example.com", 1),
                ),
                (
                    "2023-11-24 20:52:32",
                    *("2001:db8::7", 2412000032, -3, None, "Unknown", "friend"),
                    *("", "x@example.net", 0),
                ),
            ],
        )
        self.assertEqual(
            self.rows("SELECT * FROM recipient"),
            [
                (1, 1, "a@example.org", "b@example.com"),
                (1, 1, "a@example.org", "c@example.com"),
                (2, 1, "", "x@example.net"),
            ],
        )
        self.assertEqual(
            self.rows(
                "SELECT plugin.name, result, string FROM message_plugin"
                " JOIN plugin ON plugin.id = plugin_id WHERE msg_id = 2 ORDER BY plugin.id"
            ),
            [
                ("helo", -3, "fail, tolerated: not a full name"),
                ("badmailfrom", 1, "skip: null sender"),
                ("rcpt_ok", -3, "fail: example.net is not here"),
            ],
        )

    def test_perl(self) -> None:
        """Logs of the Perl qpsmtpd, with distances, systems and older names of plugins."""
        self.path.write_text(PERL)
        self.assertEqual(self.load(), [Loaded(len(PERL.splitlines()), 2)])
        self.assertEqual(
            self.rows(
                "SELECT ip, qp_pid, session, result, distance, os.name FROM message"
                " LEFT JOIN os ON os.id = os_id"
            ),
            [
                ("192.0.2.8", 4021, None, 3, 1200, "Linux 3.x"),
                ("192.0.2.9", 4021, None, -1, None, None),
            ],
        )
        self.assertEqual(
            self.rows(
                "SELECT result, string FROM message_plugin JOIN plugin_aliases USING (plugin_id)"
                " WHERE name = 'check_badmailfrom'"
            ),
            [(3, "")],
        )
        self.assertEqual(
            self.rows("SELECT result, string FROM message_plugin WHERE msg_id = 2"), [(-3, "")]
        )

    def test_same_client(self) -> None:
        """A client that comes again to the same process, and says nothing, is there twice."""
        line = "4021 Connection from Unknown [192.0.2.1]\n"
        for known in (0, 1):
            self.path.write_text(f"4020 {known}\n" + line * 2)
            self.assertEqual(self.load(), [Loaded(3, 2)])

    def test_again(self) -> None:
        """Once more adds nothing."""
        for text in (TAKEN + REFUSED, PERL):
            self.path.write_text(text)
            self.load()
            before = self.everything()
            self.assertEqual(self.load(), [Loaded(0, 0)])
            self.assertEqual(self.everything(), before)

    def test_grows(self) -> None:
        """However a log grows and is rotated in between, the tables are the same in the end."""
        for text in (TAKEN + REFUSED, PERL):
            self.path.write_text(text)
            self.load()
            # Rows of a session have the file that it began in: all are the first here.
            whole = self.everything()
            lines = text.splitlines(keepends=True)
            for at in range(1, len(lines)):
                self.compare(lines, at, whole, rotated=at % 2 == 0)
            self.database.unlink()

    def compare(self, lines: list[str], at: int, whole: list[Any], *, rotated: bool) -> None:
        self.database.unlink()
        self.path.unlink()
        self.path.write_text("".join(lines[:at]) + lines[at][:5])  # the last line has no end yet
        self.load()
        with self.path.open("a") as file:
            file.write(lines[at][5:])
            if not rotated:
                file.write("".join(lines[at + 1 :]))
        if rotated:
            old = self.folder / "@400000006561.s"
            self.path.rename(old)
            self.path.write_text("".join(lines[at + 1 :]))
            self.load(old, self.path)
            old.unlink()
        else:
            self.load()
        got = self.everything()
        # In which file a session began is different, and nothing else.
        got[0] = [(row[0], 1, *row[2:]) for row in got[0]]
        self.assertEqual(got, whole, at)

    def test_renamed(self) -> None:
        """The former ``current`` is known under its new name."""
        self.path.write_text(TAKEN)
        self.load()
        old = self.folder / "@400000006561.s"
        self.path.rename(old)
        self.path.write_text(REFUSED)
        self.assertEqual(self.load(old, self.path), [Loaded(0, 0), Loaded(10, 1)])
        self.assertEqual(
            [Path(name).name for [name] in self.rows("SELECT name FROM log ORDER BY id")],
            [old.name, "current"],
        )

    def test_inode_again(self) -> None:
        """Another file with the inode of an older one is another file."""
        self.path.write_text(TAKEN)
        self.load()
        inode = self.path.stat().st_ino
        self.path.write_text(REFUSED + "2412 x\n" * 500)  # longer, in place
        self.assertEqual(self.path.stat().st_ino, inode)
        self.assertEqual(self.load(), [Loaded(510, 1)])

    def test_atomic(self) -> None:
        """A file goes in whole or not at all."""
        self.path.write_text(TAKEN + REFUSED)
        self.load()
        before = self.everything()
        self.path.unlink()
        self.path.write_text(TAKEN.replace("2412000031", "77") + REFUSED.replace("2412", "78"))
        save = sql._Loader._save

        def fail(loader: sql._Loader, session: Session) -> None:
            if session.helo == "friend":
                raise ZeroDivisionError
            save(loader, session)

        self.patch(sql._Loader, "_save", fail)
        self.assertRaises(ZeroDivisionError, self.load)
        self.assertEqual(self.everything(), before)
        self.patch(sql._Loader, "_save", save)
        self.load()
        self.assertEqual(len(self.rows("SELECT * FROM message")), 4)

    def test_session_ids(self) -> None:
        """Lines with ids of sessions make one row for each id."""
        text = TAKEN.replace("2412000031 ", "2412000031 [65610d1a-96c-1f] ")
        self.path.write_text(text)
        self.load()
        self.assertEqual(self.rows("SELECT session, queued FROM message"), [("65610d1a-96c-1f", 1)])

    def test_unknown_plugins(self) -> None:
        """A plugin that is not in the registry gets an id of its own, once."""
        self.path.write_text(TAKEN.replace("rcpt_ok", "our_rules"))
        self.load()
        with self.path.open("a") as file:
            file.write(REFUSED.replace("rcpt_ok", "our_rules").replace("helo:", "other:"))
        self.load()
        self.assertEqual(
            self.rows("SELECT * FROM plugin WHERE id >= 10000 ORDER BY id"),
            [(10000, "our_rules", "our", "our_r"), (10001, "other", "oth", "other")],
        )
        self.assertEqual(
            self.rows("SELECT count(*) FROM message_plugin WHERE plugin_id = 10000"), [(2,)]
        )

    def test_not_ours(self) -> None:
        """A database of something else, or no database, is left alone, and that is said."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("CREATE TABLE other (x)")
        self.path.write_text(TAKEN)
        error = self.assertRaises(DatabaseError, self.load)
        self.assertEqual(
            str(error), f"{self.database}: expected a database of log sql, or a new one"
        )
        self.assertEqual(self.rows("SELECT name FROM sqlite_master"), [("other",)])
        self.database.write_bytes(b"no database, but long enough to look at" * 100)
        error = self.assertRaises(DatabaseError, self.load)
        self.assertEqual(str(error), f"{self.database}: file is not a database")
        self.database = self.folder / "nowhere" / "log.sqlite"
        error = self.assertRaises(DatabaseError, self.load)
        self.assertIn("unable to open database file", str(error))
