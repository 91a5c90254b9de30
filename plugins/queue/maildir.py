# -*- test-case-name: tests.plugins.queue.test_maildir -*-
"""Store each message in a Maildir, or in one Maildir for each recipient.

::

    queue/maildir /var/spool/mail
    queue/maildir /var/spool/mail %d/%l 770
    queue/maildir ~/Maildir size_tag

The words are the folder, a pattern for folders below it, and the permissions of folders that
are made. In the pattern ``%l`` stands for the recipient's local part, ``%d`` for the domain and
``%u`` for both with ``@`` between them; octets other than letters, digits and ``- + _ . , @ =``
become ``_``. A recipient without a domain gets the one in ``me``. With permissions 770 files
get 660.

Without a pattern one file is written, and it begins with a ``Delivered-To`` for every recipient.
With one, there is a file for each folder; recipients whose addresses lead to the same folder share
it. ``Return-Path`` stands above ``Delivered-To`` (RFC 5321, 4.4). Lines end with LF, as is usual
in a Maildir.

The client is told ``250 2.0.0 Queued! <Message-Id>`` only when all files are on stable storage,
in all folders or in none; ``docs/explanation/durability.md`` has the details. When the disk is
full it is told ``452 4.3.1``, after any other error ``451 4.3.0``, and when too many messages
wait for the disk, ``451 4.3.2``; the log has the reason.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component, control_file, service
from qpsmtpd.configuration.values import (
    ConversionError,
    converter,
    integer,
    octal_mode,
    path,
    size,
    text,
)
from qpsmtpd.interfaces import ILifecycle, IQueue
from qpsmtpd.maildir import Chunks, MaildirWriter, QueueFull
from qpsmtpd.message import Message
from qpsmtpd.policy import report
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.spool import DISK_FULL
from qpsmtpd.verdicts import Verdict, accept, defer

NAME = "queue/maildir"

_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9+_.,@=-]")
_CODE: Final = re.compile("%([lud])")

#: What a reply can repeat of a field that the client wrote.
_MESSAGE_ID: Final = re.compile(
    rb"(?i)\r\nmessage-id:(?:\r\n(?=[ \t])|[ \t])*([!-~]{1,200})[ \t]*\r\n"
)

#: Octets of a message that are searched for it.
_SEARCHED: Final = 8192


@converter("a pattern with %l, %d or %u in it, as in %d/%l")
def pattern(text: str) -> str:
    """Take the names of folders below the Maildir's, with codes for parts of an address."""
    if not _CODE.search(text):
        raise ValueError(text)
    parts = text.strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ConversionError("a part of it is empty, . or ..")
    return "/".join(parts)


@implementer(IQueue, ILifecycle)
@component
class Maildir:
    """Hands messages to a :class:`~qpsmtpd.maildir.MaildirWriter` of its own."""

    folder: str = argument(path, positional=True, name="maildir", help="the Maildir, or its parent")
    pattern: str | None = argument(
        pattern, default=None, positional=True, help="folders below it, from %l, %d and %u"
    )
    mode: int = argument(
        octal_mode, default=0o700, positional=True, help="permissions of new folders, in octal"
    )
    size_tag: bool = argument(text, flag=True, help="put ,S=<octets> into the names of files")
    threads: int = argument(integer, default=1, help="threads that write; more for a slow disk")
    max_waiting: int = argument(integer, default=1000, help="messages that may wait for the disk")
    max_memory: int = argument(
        size, default=64 * 1024 * 1024, help="octets in memory that may wait for the disk"
    )
    me: str | None = control_file(
        "me", text, first=True, help="the domain of recipients that come without one"
    )
    reactor: IReactorThreads = service(IReactorThreads)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError("at least one thread writes")
        self._writer = MaildirWriter(
            self.reactor,
            threads=self.threads,
            mode=self.mode,
            size_tag=self.size_tag,
            max_deliveries=self.max_waiting,
            max_bytes=self.max_memory,
        )

    def start(self) -> None:
        """Nothing is opened before the first message."""

    def stop(self) -> Deferred[None]:
        return self._writer.stop()

    async def queue(self, transaction: Transaction) -> Verdict:
        message = transaction.message
        assert message is not None
        held = message.size if message.spool.in_memory else 0
        try:
            await self._writer.deliver_many(self._copies(transaction, message), size=held)
        except QueueFull as error:
            report(transaction, NAME, f"error, too much waits for the disk: {error}", 3)
            return defer("Too many messages at once, try again later", "4.3.2", code=451)
        except OSError as error:
            report(transaction, NAME, f"error, could not store a message: {error}", 3)
            if error.errno in DISK_FULL:
                return defer("Insufficient storage, try again later", "4.3.1", code=452)
            return defer("The message could not be stored, try again later", "4.3.0", code=451)
        report(transaction, NAME, "pass")
        return accept(_queued(message))

    def _copies(self, transaction: Transaction, message: Message) -> list[tuple[str, Chunks]]:
        """Folder and octets of each file, which a writer thread then reads."""
        folders: dict[str, list[Address]] = {}
        for recipient in transaction.recipients:
            folders.setdefault(self._folder(recipient), []).append(recipient)
        sender = transaction.reverse_path
        return [
            (folder, partial(_stored, _head(sender, recipients), message.chunks()))
            for folder, recipients in folders.items()
        ]

    def _folder(self, recipient: Address) -> str:
        if self.pattern is None:
            return self.folder
        local_part = _safe(recipient.local_part)
        domain = _safe(recipient.domain or self.me or socket.gethostname())
        values = {"l": local_part, "d": domain, "u": f"{local_part}@{domain}"}
        expanded = _CODE.sub(lambda code: values[code[1]], self.pattern)
        return os.path.join(self.folder, "/".join(map(_no_way_up, expanded.split("/"))))


def _safe(part: str) -> str:
    return _UNSAFE.sub(b"_", part.encode("utf-8")).decode("ascii")


def _no_way_up(name: str) -> str:
    # A quoted local part may be dots alone (RFC 5321, 4.1.2), which is no name of a folder.
    return name.replace(".", "_") if name in (".", "..") else name


def _head(sender: Address, recipients: list[Address]) -> bytes:
    lines = [f"Return-Path: {sender}\n"]
    lines += [f"Delivered-To: {recipient.mailbox}\n" for recipient in reversed(recipients)]
    return "".join(lines).encode("utf-8")


def _stored(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The octets of a file: trace fields, then the message with LF for CR LF."""
    yield head
    held = b""
    for chunk in chunks:
        if held:
            chunk = held + chunk
            held = b""
        if chunk.endswith(b"\r"):  # its LF may begin the next one
            chunk, held = chunk[:-1], b"\r"
        yield chunk.replace(b"\r\n", b"\n")
    yield held


def _queued(message: Message) -> str:
    """The text that tells the client which message it was.

    A search, since reading the header section for this one field takes several times as long,
    a fifth of all that a small message costs.
    """
    head = b"\r\n" + next(message.content_chunks(), b"")[:_SEARCHED]
    place = head.lower().find(b"\r\nmessage-id:")
    if place < 0 or -1 < head.find(b"\r\n\r\n") < place:
        return "Queued!"
    found = _MESSAGE_ID.match(head, place)
    return f"Queued! {found[1].decode('ascii')}" if found else "Queued!"


maker = PluginMaker(NAME, Maildir)
