"""Tests of queue/maildir."""

import errno
import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorThreads
from twisted.logger import capturedLogs

from qpsmtpd import logs
from qpsmtpd.interfaces import ILifecycle, IQueue
from qpsmtpd.maildir import QueueFull
from qpsmtpd.message import Message
from qpsmtpd.plugins.queue.maildir import Maildir, pattern
from qpsmtpd.session import Transaction
from qpsmtpd.spool import Spool
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import accept, defer

MESSAGE = "Message-Id: <1@client.example>\nSubject: hi\n\none\n.two\n"


class MaildirTests(ComponentTestCase):
    def setUp(self) -> None:
        self.root = os.path.abspath(self.mktemp())

    def plugin(self, template: str | None = None, **settings: Any) -> Maildir:
        made = Maildir(
            folder=self.root,
            pattern=None if template is None else pattern(template),
            me="mail.example",
            reactor=IReactorThreads(reactor),
            **settings,
        )
        self.addCleanup(made.stop)
        return made

    def sent(self, *recipients: str, message: str = MESSAGE) -> Transaction:
        return self.transaction("a@client.example", *recipients, message=message)

    def files(self, folder: str = "") -> list[bytes]:
        new = os.path.join(self.root, folder, "new")
        found = []
        for name in sorted(os.listdir(new)):
            with open(os.path.join(new, name), "rb") as file:
                found.append(file.read())
        return found

    async def queue_at(self, component: Maildir, transaction: Transaction) -> Any:
        return await self.asking(component, "queue", transaction)

    async def test_one_folder(self) -> None:
        """Without a pattern there is one file, with LF, the sender and all recipients on top."""
        transaction = self.sent("b@mail.example", "C@mail.example")
        verdict = await self.queue_at(self.plugin(), transaction)
        self.assertEqual(verdict, accept("Queued! <1@client.example>"))
        self.assertEqual(
            self.files(),
            [
                b"Return-Path: <a@client.example>\n"
                b"Delivered-To: C@mail.example\n"
                b"Delivered-To: b@mail.example\n"
                b"Message-Id: <1@client.example>\nSubject: hi\n\none\n.two\n"
            ],
        )

    async def test_folder_for_each(self) -> None:
        """With a pattern each recipient has a file that names no other."""
        transaction = self.sent("b@mail.example", "C@Other.example", "postmaster")
        await self.queue_at(self.plugin("%d/%l"), transaction)
        for folder, recipient in (
            ("mail.example/b", b"b@mail.example"),
            ("Other.example/C", b"C@Other.example"),
            ("mail.example/postmaster", b"postmaster"),
        ):
            [octets] = self.files(folder)
            self.assertEqual(octets.count(b"Delivered-To:"), 1)
            self.assertIn(b"Delivered-To: " + recipient + b"\n", octets)

    async def test_folder_shared(self) -> None:
        """Recipients whose addresses lead to the same folder share a file."""
        transaction = self.sent("b@mail.example", "c@mail.example", "b@other.example")
        await self.queue_at(self.plugin("%d"), transaction)
        [octets] = self.files("mail.example")
        self.assertIn(b"Delivered-To: c@mail.example\nDelivered-To: b@mail.example\n", octets)
        self.assertEqual(len(self.files("other.example")), 1)

    async def test_strange_addresses(self) -> None:
        """No address leads out of its folder."""
        for recipient, folder in (
            ('"../../x"@mail.example', "mail.example/.._.._x"),
            ('".."@mail.example', "mail.example/__"),
            ('"."@mail.example', "mail.example/_"),
            ('"a b/c"@mail.example', "mail.example/a_b_c"),
            ("jörg@mail.example", "mail.example/j__rg"),
            ("a+b=c@[192.0.2.1]", "_192.0.2.1_/a+b=c"),
        ):
            await self.queue_at(self.plugin("%d/%l"), self.sent(recipient))
            self.assertEqual(len(self.files(folder)), 1, recipient)

    async def test_whole_address(self) -> None:
        """%u stands for the whole address, wherever it is in the pattern."""
        await self.queue_at(self.plugin("/users/%u-in/"), self.sent("b@mail.example"))
        self.assertEqual(len(self.files("users/b@mail.example-in")), 1)

    async def test_mode(self) -> None:
        """Folders get the permissions given, and files those of them that files have."""
        await self.queue_at(self.plugin("%l", mode=0o770), self.sent("b@mail.example"))
        self.assertEqual(os.stat(os.path.join(self.root, "b", "new")).st_mode & 0o777, 0o770)
        with os.scandir(os.path.join(self.root, "b", "new")) as entries:
            [file] = entries
        self.assertEqual(file.stat().st_mode & 0o777, 0o660)

    async def test_size_tag(self) -> None:
        """The size of a file can stand in its name."""
        await self.queue_at(self.plugin(size_tag=True), self.sent("b@mail.example"))
        [name] = os.listdir(os.path.join(self.root, "new"))
        self.assertTrue(name.endswith(f",S={len(self.files()[0])}"), name)

    async def test_bounce(self) -> None:
        """A bounce has the null path on top."""
        transaction = self.transaction("", "b@mail.example", message="Subject: x\n\n")
        verdict = await self.queue_at(self.plugin(), transaction)
        self.assertEqual(verdict, accept("Queued!"))
        self.assertTrue(self.files()[0].startswith(b"Return-Path: <>\nDelivered-To: b@"))

    async def test_message_id(self) -> None:
        """The reply names the message, however its field is written, but not from the body."""
        for message, text in (
            ("A: 1\nMESSAGE-ID:\n <1@x.example>\nB: 2\n\n", "Queued! <1@x.example>"),
            ("message-id:<1@x.example> \n\n", "Queued! <1@x.example>"),
            ("A: 1\n\nMessage-Id: <1@x.example>\n", "Queued!"),
            ("\nMessage-Id: <1@x.example>\n", "Queued!"),
            ("Message-Id:\nB: 2\n\n", "Queued!"),
        ):
            transaction = self.sent("b@mail.example", message=message)
            self.assertEqual(await self.queue_at(self.plugin(), transaction), accept(text), message)

    async def test_message_id_of_a_stranger(self) -> None:
        """What stands in Message-Id is repeated only if it fits into a reply."""
        for value in ("<a b>", "<" + "x" * 300 + ">"):
            transaction = self.sent("b@mail.example", message=f"Message-Id: {value}\n\n")
            self.assertEqual(await self.queue_at(self.plugin(), transaction), accept("Queued!"))

    async def test_line_ends(self) -> None:
        """CR LF becomes LF wherever the message was cut; a bare CR stays."""
        octets = b"A: 1\r\n\r\nx\ry\r\r\n\r\nz\r"
        for at_once in (1, 2, 3, 7, 100):
            transaction = self.transaction("", "b@mail.example")
            # A threshold that leaves chunks as they are written.
            transaction.message = Message(Spool(1000, None))
            for start in range(0, len(octets), at_once):
                transaction.message.spool.write(octets[start : start + at_once])
            await self.queue_at(self.plugin(f"{at_once}-%l"), transaction)
            [stored] = self.files(f"{at_once}-b")
            self.assertTrue(stored.endswith(b"\nA: 1\n\nx\ry\r\n\nz\r"), at_once)

    async def test_large(self) -> None:
        """A message that lies in a file is stored like any other, with changed fields."""
        body = b"line of text\r\n" * 50_000
        transaction = self.transaction("", "b@mail.example", "c@mail.example")
        transaction.message = Message(Spool(1000, None))
        transaction.message.spool.write(b"Subject: big\r\n\r\n" + body)
        transaction.message.prepend("X-Seen", "yes")
        await self.queue_at(self.plugin("%l"), transaction)
        for folder in ("b", "c"):
            [stored] = self.files(folder)
            head, _, rest = stored.partition(b"\n\n")
            self.assertTrue(head.endswith(b"\nX-Seen: yes\nSubject: big"), head)
            self.assertEqual(rest, body.replace(b"\r\n", b"\n"))

    async def test_all_or_none(self) -> None:
        """When one folder cannot be written, no recipient gets the message."""
        os.makedirs(self.root)
        with open(os.path.join(self.root, "c"), "w"):
            pass
        transaction = self.sent("b@mail.example", "c@mail.example")
        with capturedLogs() as events:
            verdict = await self.queue_at(self.plugin("%l"), transaction)
        self.assertEqual(
            verdict, defer("The message could not be stored, try again later", "4.3.0", code=451)
        )
        self.assertEqual(self.files("b"), [])
        [event] = [event for event in events if event.get("session") == transaction.session.id]
        self.assertTrue(event["text"].startswith("error, could not store a message: "), event)
        self.assertEqual((event["plugin"], event["severity"]), ("queue/maildir", 3))

    async def test_log(self) -> None:
        """The log tools learn that a message was stored."""
        self.patch(logs.threshold, "level", 6)
        transaction = self.sent("b@mail.example")
        with capturedLogs() as events:
            await self.queue_at(self.plugin(), transaction)
        [event] = [event for event in events if event.get("plugin") == "queue/maildir"]
        self.assertEqual((event["text"], event["severity"]), ("pass", 6))

    async def test_errors(self) -> None:
        """A full disk, another error and too much at once each have their reply."""

        class Broken:
            error: Exception

            def deliver_many(self, *arguments: object, **more: object) -> Deferred[list[str]]:
                return fail(self.error)

        component = self.plugin()
        broken = Broken()
        self.patch(component, "_writer", broken)
        for error, code, status in (
            (OSError(errno.ENOSPC, "full"), 452, "4.3.1"),
            (OSError(errno.EDQUOT, "quota"), 452, "4.3.1"),
            (OSError(errno.EIO, "broken"), 451, "4.3.0"),
            (QueueFull("1000 deliveries are waiting"), 451, "4.3.2"),
        ):
            broken.error = error
            with capturedLogs() as events:
                verdict = await self.queue_at(component, self.sent("b@mail.example"))
            self.assertEqual((verdict.code, verdict.status), (code, status))
            self.assertEqual(len(events), 1)
            self.assertTrue(events[0]["text"].endswith(f": {error}"), events)

    async def test_limit(self) -> None:
        """Beyond the limit of messages that wait, clients are told to come back."""
        component = self.plugin(max_waiting=1)
        first = self.queue_at(component, self.sent("b@mail.example"))
        waiting = Deferred.fromCoroutine(first)
        second = await self.queue_at(component, self.sent("c@mail.example"))
        self.assertEqual((second.code, second.status), (451, "4.3.2"))
        self.assertEqual((await waiting).text, "Queued! <1@client.example>")

    async def test_stop(self) -> None:
        """The end waits for messages on their way; later ones are deferred."""
        component = self.plugin()
        waiting = Deferred.fromCoroutine(self.queue_at(component, self.sent("b@mail.example")))
        await component.stop()
        self.assertTrue(waiting.called)
        self.assertEqual(len(self.files()), 1)
        late = await self.queue_at(component, self.sent("b@mail.example"))
        self.assertEqual(late.code, 451)

    async def test_client_goes(self) -> None:
        """A message whose client goes while it is stored is stored whole or not at all."""
        component = self.plugin()
        await self.queue_at(component, self.sent("b@mail.example"))
        whole = self.files()
        transaction = self.sent("b@mail.example")
        waiting = Deferred.fromCoroutine(component.queue(transaction))
        waiting.cancel()
        transaction.end()
        self.failureResultOf(waiting, CancelledError)
        await component.stop()
        self.assertIn(self.files(), (whole, whole * 2))
        self.assertEqual(os.listdir(os.path.join(self.root, "tmp")), [])

    async def test_conversation(self) -> None:
        """The client hears of success when the message is stored."""
        await self.converse(
            [self.plugin()],
            """
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<a@client.example>
            S: 250 ...
            C: RCPT TO:<b@mail.example>
            S: 250 ...
            C: DATA
            S: 354 ...
            C: Message-Id: <2@client.example>
            C:
            C: ..
            C: .
            S: 250 2.0.0 Queued! <2@client.example>
            """,
            octets=False,
        )
        [stored] = self.files()
        self.assertIn(b"\nReceived: from ", stored)
        self.assertTrue(stored.endswith(b"\n\n.\n"))

    def test_patterns(self) -> None:
        """A pattern that gives everybody the same folder, or leads elsewhere, is an error."""
        for wrong in ("inbox", "%x", "../%l", "%d//%l", "./%l"):
            with self.assertRaisesRegex(ValueError, "expected a pattern with %l, %d or %u"):
                pattern(wrong)
        with self.assertRaisesRegex(ValueError, "at least one thread"):
            self.plugin(threads=0)

    def test_interfaces(self) -> None:
        """It queues, and has an end that is waited for."""
        component = self.plugin()
        self.assertTrue(IQueue.providedBy(component))
        self.assertTrue(ILifecycle.providedBy(component))
