"""Tests of logging/json."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from twisted.logger import Logger

from qpsmtpd import policy
from qpsmtpd.plugins.logging.json import Json, JsonFile
from qpsmtpd.verdicts import OK
from tests.plugins.logging.listening import ListeningTestCase
from tests.recorder import Recorder

log = Logger()


class Tester(Recorder):
    def rcpt(self, transaction: Any, recipient: Any) -> Any:
        policy.report(transaction, "ident/p0f:3", "pass\n{x}")
        return OK


class JsonTests(ListeningTestCase):
    def objects(self, text: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in text.splitlines()]

    def test_event(self) -> None:
        """An event is an object, with whose it is and who said it."""
        with self.listening(Json, Tester(rcpt=OK)) as chain:
            conversation = self.open(chain)
            conversation.envelope()
            session = conversation.session.id
        [found] = [each for each in self.objects(self.stream.getvalue()) if "plugin" in each]
        when = found.pop("time")
        self.assertTrue(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", when), when)
        self.assertEqual(
            found,
            {
                "level": 6,
                "severity": "info",
                "pid": os.getpid(),
                "session": session,
                "transaction": f"{session}.1",
                "plugin": "ident::p0f_3a3",
                "hook": "rcpt",
                "text": "pass\\n{x}",
            },
        )

    def test_fields(self) -> None:
        """What else is in an event comes along, as JSON can have it, and without secrets."""

        class Odd:
            def __str__(self) -> str:
                return "AUTH PLAIN AHVzZXIAc2VjcmV0"

        with self.listening(Json):
            log.error(
                "{ip} {odd}", ip="192.0.2.1", odd=Odd(), count=3, password="x", rate=float("nan")
            )
        [found] = self.objects(self.stream.getvalue())
        self.assertEqual(
            found["fields"],
            {
                "ip": "192.0.2.1",
                "odd": "AUTH PLAIN [removed]",
                "count": 3,
                "password": "[removed]",
                "rate": "nan",
            },
        )
        self.assertEqual((found["level"], found["severity"]), (3, "error"))

    def test_failure(self) -> None:
        """A traceback is part of its event, so that an event stays one line."""
        with self.listening(Json):
            try:
                raise KeyError("x")
            except KeyError:
                log.failure("alas")
        [found] = self.objects(self.stream.getvalue())
        self.assertEqual(found["text"], "alas")
        self.assertIn("KeyError", "".join(found["traceback"]))
        self.flushLoggedErrors(KeyError)

    def test_level(self) -> None:
        """What is less severe than the level is left out."""
        with self.listening(lambda: Json(loglevel=4)):
            log.warn("one")
            log.info("two")
        self.assertEqual([each["text"] for each in self.objects(self.stream.getvalue())], ["one"])

    def test_file(self) -> None:
        """A file is appended to, and made anew when it was moved away."""
        path = self.mktemp()
        for text in ("one", "two"):
            with self.listening(lambda: Json(path=path)):
                log.warn(text)
        with open(path, encoding="utf-8") as file:
            self.assertEqual([each["text"] for each in self.objects(file.read())], ["one", "two"])
        written = JsonFile(path)
        self.addCleanup(written.close)
        written.write(["{}"])
        os.rename(path, path + ".old")
        written.write(["[]"])
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "[]\n")

    def test_no_file(self) -> None:
        """A file that cannot be opened is told on standard error, once."""
        file = JsonFile(os.path.join(self.mktemp(), "x"))
        for _ in range(2):
            self.assertRaises(OSError, file.write, ["{}"])
        [told] = self.stream.getvalue().splitlines()
        self.assertIn("cannot be opened: No such file or directory", told)
