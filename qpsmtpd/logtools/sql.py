# -*- test-case-name: tests.logtools.test_sql -*-
"""Sessions of log files in an SQLite database.

The tables have the names of the Perl qpsmtpd's ``log2sql``, so that reports need little change.
Each file goes in whole or not at all, and what was read of it is remembered, by its inode and by
what it begins with: a file may be read again when it has grown, or has been renamed.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from qpsmtpd.logtools import registry
from qpsmtpd.logtools.files import Splitter, read
from qpsmtpd.logtools.lines import parse
from qpsmtpd.logtools.registry import Plugin
from qpsmtpd.logtools.sessions import Finding, Outcome, Session, Sessions

__all__ = ["DatabaseError", "Loaded", "load"]

VERSION: Final = 1

#: SQLite's integers have a sign; some file systems use all 64 bits.
INODE_BITS: Final = 2**63 - 1

#: Octets that tell two files of one inode apart.
HEAD_SIZE: Final = 1024

_SCHEMA: Final = """
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,           -- octets that have been read, all complete lines
    head_size INTEGER NOT NULL,      -- what the file began with,
    head TEXT NOT NULL,              -- and its SHA-256
    name TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX log_inode ON log (inode);
CREATE TABLE os (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE plugin (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    abb3 TEXT NOT NULL,
    abb5 TEXT NOT NULL
);
CREATE TABLE plugin_aliases (
    plugin_id INTEGER NOT NULL REFERENCES plugin (id),
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    file_id INTEGER NOT NULL REFERENCES log (id),
    connect_start REAL,              -- seconds since 1970
    ip TEXT,
    qp_pid INTEGER,
    session TEXT,                    -- NULL in logs without ids of sessions
    result INTEGER NOT NULL,
    distance INTEGER,
    time REAL,                       -- seconds, from connection_time
    os_id INTEGER REFERENCES os (id),
    hostname TEXT,
    helo TEXT,
    mail_from TEXT,                  -- the first; '' is the null reverse-path
    rcpt_to TEXT,                    -- the first; recipient has all
    queued INTEGER NOT NULL          -- messages
);
CREATE UNIQUE INDEX message_session ON message (session);
CREATE INDEX message_pid ON message (qp_pid);
CREATE INDEX message_start ON message (connect_start);
CREATE INDEX message_ip ON message (ip);
CREATE TABLE recipient (
    msg_id INTEGER NOT NULL REFERENCES message (id),
    "transaction" INTEGER NOT NULL,  -- 1 for the first MAIL of a session
    mail_from TEXT NOT NULL,
    rcpt_to TEXT                     -- NULL where none was named
);
CREATE INDEX recipient_msg ON recipient (msg_id);
CREATE INDEX recipient_rcpt_to ON recipient (rcpt_to);
CREATE TABLE message_plugin (
    msg_id INTEGER NOT NULL REFERENCES message (id),
    plugin_id INTEGER NOT NULL REFERENCES plugin (id),
    result INTEGER NOT NULL,
    string TEXT NOT NULL,
    PRIMARY KEY (msg_id, plugin_id)
);
"""

#: Numbers of what plugins found.
FINDINGS: Final = {
    Finding.PASS: 3,
    Finding.POSITIVE: 2,
    Finding.SKIP: 1,
    Finding.ERROR: 0,
    Finding.OTHER: 0,
    Finding.NEGATIVE: -2,
    Finding.TOLERATED: -3,
    Finding.FAIL: -3,
}

#: Numbers of what became of sessions.
OUTCOMES: Final = {
    Outcome.QUEUED: 3,
    Outcome.NOTHING: 0,
    Outcome.TIMEOUT: -1,
    Outcome.REFUSED: -3,
}

#: Which of two results holds: the later one here, as in :attr:`Session.outcome`.
_PRECEDENCE: Final = (
    OUTCOMES[Outcome.NOTHING],
    OUTCOMES[Outcome.REFUSED],
    OUTCOMES[Outcome.TIMEOUT],
    OUTCOMES[Outcome.QUEUED],
)

#: The first id of plugins that are not in the registry.
FIRST_UNKNOWN: Final = 10_000


#: Texts of which the result says enough.
_NOTHING_MORE: Final = frozenset(
    {
        "skip, naughty",
        "skip, relay client",
        "skip, no match",
        "skip: unsigned",
        "skip, not a null sender",
        "pass",
        "pass, no record",
        "pass, Deliverable through vpopmail",
        "pass, clean",
    }
)
_NOTHING_MORE_BEGINS: Final = re.compile("fail. ?NAUGHTY|PTR: |TLS setup returning")


class DatabaseError(Exception):
    """The database cannot be used; it says which and why."""


@dataclass(frozen=True)
class Loaded:
    """What came of one file.

    :ivar lines: Lines that were not read before.
    :ivar sessions: Sessions that are new.
    """

    lines: int
    sessions: int


def load(database: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, Loaded]]:
    """Put what is new in files into a database, and make that if it is not there.

    :param paths: The log's files, from the oldest on.

    :returns: What came of each file, when that is in the database.

    :raises OSError: A file cannot be read.
    :raises DatabaseError: The database cannot be opened or written, or is one of something else.
    """
    try:
        with closing(_open(database)) as connection:
            for path in paths:
                with path.open("rb") as file:
                    connection.execute("BEGIN IMMEDIATE")
                    with connection:
                        loaded = _Loader(connection).load(path, file)
                yield path, loaded
    except sqlite3.Error as error:
        raise DatabaseError(f"{database}: {error}") from error


def _open(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=60, isolation_level=None)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            _prepare(connection, database)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, database: Path) -> None:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == VERSION:
        return
    if version or tables:
        raise DatabaseError(f"{database}: expected a database of log sql, or a new one")
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)
    for plugin in registry.PLUGINS:
        connection.execute("INSERT INTO plugin VALUES (?, ?, ?, ?)", plugin[:4])
        connection.executemany(
            "INSERT INTO plugin_aliases VALUES (?, ?)",
            [(plugin.id, alias) for alias in plugin.aliases],
        )
    connection.execute(f"PRAGMA user_version = {VERSION}")


class _Loader:
    """Puts one file into the database, within an open transaction of it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._plugins: dict[str, int] = {}
        self._new = 0
        self._file = 0

    def load(self, path: Path, file: BinaryIO) -> Loaded:
        self._file, offset = self._log_of(path, file)
        file.seek(offset)
        splitter, sessions, lines = Splitter(), Sessions(), 0
        for octets in read(file, splitter):
            lines += 1
            for session in sessions.feed(parse(octets)):
                self._save(session)
        for session in sessions.end():
            self._save(session)
        self._connection.execute(
            "UPDATE log SET size = ?, name = ? WHERE id = ?",
            (offset + splitter.consumed, str(path.absolute()), self._file),
        )
        return Loaded(lines, self._new)

    def _log_of(self, path: Path, file: BinaryIO) -> tuple[int, int]:
        """The id of a file, and what was read of it."""
        status = os.fstat(file.fileno())
        inode, size = status.st_ino & INODE_BITS, status.st_size
        known = self._connection.execute(
            "SELECT id, size, head_size, head FROM log WHERE inode = ?", (inode,)
        )
        for id, read_before, head_size, head in known.fetchall():
            if read_before <= size and _head(file, head_size) == head:
                return id, read_before
        head_size = min(size, HEAD_SIZE)
        added = self._connection.execute(
            "INSERT INTO log (inode, size, head_size, head, name) VALUES (?, 0, ?, ?, ?)",
            (inode, head_size, _head(file, head_size), str(path.absolute())),
        )
        return _id(added), 0

    def _save(self, session: Session) -> None:
        row = self._row_of(session)
        if row is None:
            if not session.has_client:
                return
            row = self._insert(session)
            self._new += 1
        else:
            self._update(row, session)
        self._save_recipients(row, session)
        for plugin, (finding, text) in session.findings.items():
            self._connection.execute(
                "INSERT INTO message_plugin VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET result = excluded.result, string = excluded.string WHERE result = 0",
                (row, self._plugin(plugin), FINDINGS[finding], _shortened(text)),
            )

    def _row_of(self, session: Session) -> int | None:
        """The row of a session that began in lines which were read before."""
        if session.session:
            query = "SELECT id FROM message WHERE session = ?"
            found = self._connection.execute(query, (session.session,)).fetchone()
            return found[0] if found else None
        if session.started:
            return None
        query = (
            "SELECT id FROM message WHERE qp_pid = ? AND session IS NULL ORDER BY id DESC LIMIT 1"
        )
        found = self._connection.execute(query, (_pid(session),)).fetchone()
        return found[0] if found else None

    def _insert(self, session: Session) -> int:
        added = self._connection.execute(
            "INSERT INTO message (file_id, connect_start, ip, qp_pid, session, result, distance,"
            " time, os_id, hostname, helo, mail_from, rcpt_to, queued)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._file,
                session.time,
                session.ip or None,
                _pid(session),
                session.session or None,
                OUTCOMES[session.outcome],
                *self._later(session),
            ),
        )
        return _id(added)

    def _update(self, row: int, session: Session) -> None:
        """Add what further lines told. What was known stays; the result is what both make."""
        query = "SELECT result FROM message WHERE id = ?"
        [before] = self._connection.execute(query, (row,)).fetchone()
        result = max(before, OUTCOMES[session.outcome], key=_PRECEDENCE.index)
        self._connection.execute(
            "UPDATE message SET ip = coalesce(ip, ?), result = ?,"
            " distance = coalesce(distance, ?), time = coalesce(time, ?),"
            " os_id = coalesce(os_id, ?), hostname = coalesce(hostname, ?),"
            " helo = coalesce(helo, ?), mail_from = coalesce(mail_from, ?),"
            " rcpt_to = coalesce(rcpt_to, ?), queued = queued + ? WHERE id = ?",
            (session.ip or None, result, *self._later(session), row),
        )

    def _later(self, session: Session) -> tuple[str | float | None, ...]:
        """What the columns from ``distance`` on get."""
        recipients = session.recipients
        return (
            int(session.distance) if session.distance else None,
            _number(session.seconds),
            self._system(session),
            session.hostname or None,
            session.helo or None,
            session.reverse_path,
            recipients[0] if recipients else None,
            session.queued,
        )

    def _save_recipients(self, row: int, session: Session) -> None:
        last = self._connection.execute(
            'SELECT "transaction", mail_from FROM recipient WHERE msg_id = ?'
            ' ORDER BY "transaction" DESC LIMIT 1',
            (row,),
        ).fetchone() or (0, "")
        number, reverse_path = last
        for each, recipients in session.transactions:
            if each is None:  # more recipients of what began before
                query = (
                    'DELETE FROM recipient WHERE msg_id = ? AND "transaction" = ?'
                    " AND rcpt_to IS NULL"
                )
                self._connection.execute(query, (row, number))
            else:
                number, reverse_path = number + 1, each
            named: Sequence[str | None] = recipients or [None]
            self._connection.executemany(
                "INSERT INTO recipient VALUES (?, ?, ?, ?)",
                [(row, number, reverse_path, recipient) for recipient in named],
            )

    def _plugin(self, plugin: Plugin) -> int:
        if plugin.id != registry.UNKNOWN:
            return plugin.id
        if plugin.name not in self._plugins:
            self._plugins[plugin.name] = self._unknown_plugin(plugin)
        return self._plugins[plugin.name]

    def _unknown_plugin(self, plugin: Plugin) -> int:
        query = "SELECT id FROM plugin WHERE name = ?"
        found = self._connection.execute(query, (plugin.name,)).fetchone()
        if found:
            return int(found[0])
        added = self._connection.execute(
            "INSERT INTO plugin VALUES ((SELECT max(?, max(id) + 1) FROM plugin), ?, ?, ?)",
            (FIRST_UNKNOWN, plugin.name, plugin.short[:3], plugin.longer[:5]),
        )
        return _id(added)

    def _system(self, session: Session) -> int | None:
        """The client's operating system, as far as ``ident/p0f`` knows."""
        finding = session.findings.get(registry.find("ident::p0f"))
        if finding is None or finding[0] in (Finding.SKIP, Finding.ERROR):
            return None
        name = finding[1].strip()
        self._connection.execute("INSERT OR IGNORE INTO os (name) VALUES (?)", (name,))
        return int(
            self._connection.execute("SELECT id FROM os WHERE name = ?", (name,)).fetchone()[0]
        )


def _shortened(text: str) -> str:
    """What a plugin said, if that is more than what its result says."""
    return "" if text in _NOTHING_MORE or _NOTHING_MORE_BEGINS.match(text) else text


def _head(file: BinaryIO, size: int) -> str:
    file.seek(0)
    return hashlib.sha256(file.read(size)).hexdigest()


def _id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _pid(session: Session) -> int | None:
    return int(session.pid) if session.pid else None


def _number(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
