"""Lines of logs, in all forms that they come in."""

import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.logtools.lines import Line, parse, printable, time_of


class ParseTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """With any stamp or none, a line is number, session, hook, plugin and text."""
        rest = "(rcpt) rcpt_ok: pass: yes"
        parts = ("rcpt", "rcpt_ok", "pass: yes")
        for stamp in (
            "@4000000065610d1a00000000",
            "2026-11-25_21:27:45.12345",
            "2026-11-25T21:27:45.12345",
            "2026-11-25T21:27:45+0100",
            "",
        ):
            before = f"{stamp} " if stamp else ""
            self.assertEqual(
                parse(f"{before}2412 {rest}".encode()), Line(stamp, "2412", "", *parts)
            )
            self.assertEqual(
                parse(f"{before}2412000031 [65610d1a-96c-1f] {rest}".encode()),
                Line(stamp, "2412000031", "65610d1a-96c-1f", *parts),
            )
        for stamp in (
            "Wed Nov 25 21:27:45 2026",
            "2026-11-25T21:27:45",
            "2026-11-25 21:27:45 x",
            "1795642065",
            "25/11",
        ):
            self.assertEqual(
                parse(f"{stamp} mx-1.example[2412000031]: {rest}".encode()),
                Line(stamp, "2412000031", "", *parts),
            )

    def test_parts(self) -> None:
        """What a line does not have stays empty; what is no plugin's is all text."""
        for line, parts in {
            "2412 queue::maildir: done": ("2412", "", "queue::maildir", "done"),
            "2412 (mail) running plugin: x: y": ("2412", "mail", "", "running plugin: x: y"),
            "2412 dispatching MAIL FROM:<a@b>": ("2412", "", "", "dispatching MAIL FROM:<a@b>"),
            "2412 250-x: y": ("2412", "", "", "250-x: y"),
            "2412 Too many connections: 5": ("2412", "", "", "Too many connections: 5"),
            "Traceback (most recent call last):": (
                *("", "", ""),
                "Traceback (most recent call last):",
            ),
            "": ("", "", "", ""),
        }.items():
            found = parse(line.encode())
            self.assertEqual((found.pid, found.hook, found.plugin, found.text), parts)

    def test_other_order(self) -> None:
        """The forms of logging/adaptive and logging/connection_id are understood, too."""
        parts = ("rcpt", "rcpt_ok", "pass")
        for line, begin in {
            "2412 rcpt_ok plugin (rcpt): pass": ("", "2412", ""),
            "2412 `rcpt_ok plugin (rcpt): pass": ("", "2412", ""),
            "65610d1a-96c-1f.2 rcpt_ok plugin (rcpt): pass": ("", "", "65610d1a-96c-1f"),
            "??? rcpt_ok plugin (rcpt): pass": ("", "", ""),
        }.items():
            self.assertEqual(parse(line.encode()), Line(*begin, *parts))

    def test_json(self) -> None:
        """Lines of logging/json have the same parts; what only looks like one is text."""
        line = (
            '{"time": "2026-11-25T21:30:00.5Z", "level": 6, "severity": "info", "pid": 2412,'
            ' "session": "65610d1a-96c-1f", "plugin": "rcpt_ok", "hook": "rcpt", "text": "pass"}'
        )
        found = Line(
            *("2026-11-25T21:30:00.5Z", "2412", "65610d1a-96c-1f", "rcpt", "rcpt_ok", "pass")
        )
        self.assertEqual(parse(line.encode()), found)
        self.assertEqual(parse(f"@4000000065610d1a00000000 {line}".encode()), found)
        self.assertEqual(time_of(found.stamp), 1795642200.5)
        hostile = parse(b'{"pid": "x", "time": null, "text": "\\ud800"}')
        self.assertEqual(hostile, Line("", "", "", "", "", r"\ud800"))
        for text in ('{"text": 1}', '{"pid": 2412}', "{", "[" * 10_000, '{"a":' * 10_000):
            self.assertEqual(parse(text.encode()).text, text)

    def test_forged(self) -> None:
        """What a client sends is text, whatever it looks like."""
        for command in (
            "(rcpt) rcpt_ok: pass",
            "plugin (rcpt): pass",
            "x host[99]: (rcpt) rcpt_ok: pass",
            "[65610d1a-96c-1f] (rcpt) rcpt_ok: pass",
        ):
            found = parse(f"2412 dispatching {command}".encode())
            self.assertEqual(found, Line("", "2412", "", "", "", f"dispatching {command}"))

    def test_forked_queue(self) -> None:
        """A queue plugin of the Perl qpsmtpd says for which process it works; others do not."""
        found = parse(b"4022 (queue) queue::qmail_2dqueue: (for 4021 ) Queuing")
        self.assertEqual((found.pid, found.text), ("4021", "Queuing"))
        self.assertEqual(parse(b"4022 (rcpt) rcpt_ok: (for 4021) x").pid, "4022")

    @given(st.binary(max_size=200))
    def test_anything(self, line: bytes) -> None:
        """No line fails, and none can command a terminal when it is shown."""
        self.assertTrue(printable(parse(line).whole).isprintable())

    @given(st.text(max_size=60))
    def test_any_stamp(self, stamp: str) -> None:
        """No time stamp fails."""
        time_of(stamp)
        time_of(f"0001-01-01T00:00:00+{stamp}")

    @given(st.text(st.characters(categories=["L", "N", "P"]), max_size=50))
    def test_nothing_lost(self, text: str) -> None:
        """The whole line is there again, but for its stamp."""
        for head in ("2412 ", "2412 (rcpt) rcpt_ok: ", "2412 [65610d1a-96c-1f] "):
            line = f"{head}dispatching {text}"
            self.assertEqual(parse(f"@4000000065610d1a00000000 {line}".encode()).whole, line)


class TimeTests(SynchronousTestCase):
    def test_known(self) -> None:
        """Stamps of multilog, svlogd and logging/file are times."""
        self.assertEqual(time_of("@4000000065610d1a1dcd6500"), 0x65610D1A - 10 + 0.5)
        self.assertEqual(time_of("1970-01-02_00:00:01.50000"), 86401.5)
        self.assertEqual(time_of("1970-01-02T00:00:01+01:00"), 86401 - 3600)

    def test_local(self) -> None:
        """The stamp of logging/file is local time."""
        for when in (86401, 1_795_642_065):
            stamp = time.strftime("%a %b %d %T %Y", time.localtime(when))
            self.assertEqual(time_of(stamp), when)

    def test_unknown(self) -> None:
        """Others are none, and absurd ones, too."""
        for stamp in ("", "today", "@" + "f" * 24, "9999-99-99T00:00:00", "@4000"):
            self.assertIsNone(time_of(stamp))


class PrintableTests(SynchronousTestCase):
    def test_escapes(self) -> None:
        """Escape sequences, control characters and marks that turn text around are escaped."""
        self.assertEqual(
            printable("a\x1b[2J\x07\t\x9b\u202e\ud800é"), r"a\x1b[2J\x07\t\x9b\u202e\ud800é"
        )
