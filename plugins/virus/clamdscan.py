# -*- test-case-name: tests.plugins.virus.test_clamdscan -*-
"""Let a running clamd look for viruses in each message.

::

    virus/clamdscan clamd_socket /run/clamav/clamd.ctl
    virus/clamdscan clamd_socket scan1.example:3310 clamd_socket scan2.example:3310 max_size 10240

A message goes to clamd while it arrives (INSTREAM), on a connection of its own, and a client sends
no faster than clamd takes it. So clamd needs no access to files, the server no memory for
the message, and the verdict is there soon after its end.

======================  =================================================================
``clamd_socket``        a path, ``host:port``, or an endpoint such as ``unix:/run/clamd``;
                        given several times, the next one is tried when one cannot be
                        reached
``clamd_port``          a port on ``clamd_host``, in place of ``clamd_socket``
``deny_viruses``        ``no`` takes infected messages, and marks them
``defer_on_error``      ``no`` takes messages that could not be scanned. The Perl qpsmtpd
                        did so unless told otherwise; this one asks the client to come back
``max_size``            in KiB; larger messages are not scanned. 0 scans all of them
``scan_all``            ``no`` leaves out messages that are not multipart. A virus needs no
                        multipart
``timeout``             seconds that clamd may be silent
======================  =================================================================

Without a socket and a port, ``/var/run/clamav/clamd.ctl`` and then ``127.0.0.1:3310`` are tried.
Keep clamd's ``StreamMaxLength`` at ``max_size`` or above: what it finds too long is not scanned,
and the log says so.

==================  =====================================================================
infected            552 5.7.1 Virus found: NAME, and karma -1; or, with ``deny_viruses
                    no``, the fields ``X-Virus-Found: Yes`` and ``X-Virus-Details: NAME``
clean               the fields ``X-Virus-Checked: by ClamAV 1.4.1 on mail.example`` and
                    ``X-Virus-Found: No``
not scanned for an  451 4.3.0 Unable to scan for viruses, try again later
error
==================  =====================================================================

A session that is to be rejected anyway (note ``naughty``) is not scanned. Mail of relay clients is.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    UserError,
)
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from qpsmtpd.component import PluginMaker, argument, component, control_file, service, state
from qpsmtpd.configuration.values import converter, integer, seconds, text, yes_no
from qpsmtpd.interfaces import IContent, IData, IDataHeadersEnd, IDataPost
from qpsmtpd.policy import adjust_karma, naughty, report
from qpsmtpd.scope import Work
from qpsmtpd.session import Transaction
from qpsmtpd.verdicts import Verdict, defer, deny

NAME: Final = "virus/clamdscan"

#: Seconds until another socket is tried.
CONNECT_TIME: Final = 10.0

#: Octets of an answer; clamd's are short.
ANSWER_LIMIT: Final = 4096

DEFAULT_SOCKETS: Final = ("unix:/var/run/clamav/clamd.ctl", "tcp:127.0.0.1:3310")

_MULTIPART: Final = re.compile(r"multipart/.*boundary\s*=", re.IGNORECASE | re.DOTALL)
_VERSION: Final = re.compile(r"ClamAV [\w .+~-]{1,80}")


@converter("a path, host:port, or an endpoint such as unix:/run/clamav/clamd.ctl")
def scanner(given: str) -> str:
    """Take where clamd listens; gives Twisted's description of an endpoint."""
    if given.startswith("/"):
        return f"unix:{quoteStringArgument(given)}"
    if given.startswith(("unix:", "tcp:", "tls:")):
        return given
    host, _, port = given.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit():
        raise ValueError(given)
    return f"tcp:{quoteStringArgument(host)}:{port}"


class ScannerError(Exception):
    """clamd did not scan; the text says why."""


@implementer(IData, IContent, IDataPost)
@component
class ClamdScan:
    """Sends each message to clamd as it arrives, and asks for its verdict at the end."""

    clamd_socket: tuple[str, ...] = argument(
        scanner, many=True, default=(), help="where clamd listens; several are tried in order"
    )
    clamd_port: int = argument(integer, default=0, help="a TCP port, in place of clamd_socket")
    clamd_host: str = argument(text, default="localhost", help="the host of clamd_port")
    clamd_user: str = argument(text, default="", help="ignored; old lines may have it")
    deny_viruses: bool = argument(yes_no, default=True, help="no takes and marks infected mail")
    defer_on_error: bool = argument(yes_no, default=True, help="no takes what was not scanned")
    max_size: int = argument(integer, default=1024, help="KiB of the largest message to scan")
    scan_all: bool = argument(yes_no, default=True, help="no scans multipart messages only")
    timeout: float = argument(seconds, default=60.0, help="seconds that clamd may be silent")
    me: str = control_file("me", text, first=True, default=socket.gethostname(), help="our name")
    reactor: Any = service(IReactorTime)
    _scanners: tuple[str, ...] = state(tuple)
    _version: str = state(str)

    def __post_init__(self) -> None:
        self._scanners = self.clamd_socket or DEFAULT_SOCKETS
        if self.clamd_port:
            self._scanners = (scanner(f"{self.clamd_host}:{self.clamd_port}"),)
        for description in self._scanners:
            clientFromString(self.reactor, description)  # a wrong one is found at start
        if not self.scan_all:
            alsoProvides(self, IDataHeadersEnd)

    # Hooks.

    def data(self, transaction: Transaction) -> None:
        if self.scan_all:
            self._begin(transaction)

    def data_headers_end(self, transaction: Transaction) -> None:
        message = transaction.message
        assert message is not None
        if not _MULTIPART.search(message.headers.get("Content-Type") or ""):
            report(transaction, NAME, "skip, not multipart", 5)
            return
        scan = self._begin(transaction)
        if scan is not None:
            for chunk in message.content_chunks():
                scan.send(chunk)

    def content(self, transaction: Transaction, chunk: bytes) -> Deferred[None] | None:
        scan = transaction.note(NAME)
        if not isinstance(scan, _Scan) or scan.over:
            return None
        if self._too_big(scan.size + len(chunk)):
            report(transaction, NAME, f"skip, too big (over {self.max_size} KiB)")
            scan.skipped = True
            scan.end()
            return None
        scan.send(chunk)
        return None if scan.room else Deferred.fromCoroutine(self._room(scan))

    async def data_post(self, transaction: Transaction) -> Verdict | None:
        scan = transaction.note(NAME)
        if not isinstance(scan, _Scan) or scan.skipped:
            return None
        try:
            return await self._judged(transaction, await self._answer(scan))
        except ScannerError as error:
            return self._failed(transaction, str(error))
        finally:
            scan.end()

    # What becomes of answers.

    async def _judged(self, transaction: Transaction, answer: str) -> Verdict | None:
        message = transaction.message
        assert message is not None
        if answer.endswith(" FOUND"):
            name = _printable(answer.removesuffix(" FOUND").partition(": ")[2])
            report(transaction, NAME, f"fail, found virus {name}", 5)
            adjust_karma(transaction, NAME, -1)
            if self.deny_viruses:
                return deny(f"Virus found: {name}", "5.7.1")
            message.prepend("X-Virus-Details", name)
            message.prepend("X-Virus-Found", "Yes")
        elif answer.endswith(": OK"):
            report(transaction, NAME, "pass, clean")
            version = await self._known_version()
            message.prepend("X-Virus-Found", "No")
            message.prepend("X-Virus-Checked", f"by {version} on {self.me}")
        elif "size limit exceeded" in answer:
            report(transaction, NAME, "skip, too big for clamd; see its StreamMaxLength", 4)
        else:
            raise ScannerError(_printable(answer) or "an empty answer")
        return None

    def _failed(self, transaction: Transaction, problem: str) -> Verdict | None:
        report(transaction, NAME, f"error, {problem}", 3)
        self._version = ""  # another one may come up in its place
        if self.defer_on_error:
            return defer("Unable to scan for viruses, try again later", "4.3.0", code=451)
        return None

    # Scanning.

    def _begin(self, transaction: Transaction) -> _Scan | None:
        if naughty(transaction):
            report(transaction, NAME, "skip, naughty")
            return None
        if self._too_big(int(transaction.parameters.get("SIZE") or 0)):
            report(transaction, NAME, f"skip, too big (over {self.max_size} KiB)")
            return None
        scan = _Scan()
        transaction.notes[NAME] = scan
        # What begins here ends with the transaction, whatever its end is.
        scan.work = transaction.start(self._scanned(scan, transaction))
        return scan

    def _too_big(self, size: int) -> bool:
        return 0 < self.max_size * 1024 < size

    async def _scanned(self, scan: _Scan, transaction: Transaction) -> str:
        """Hand on a message and give clamd's answer; the connection is closed in any case."""
        try:
            exchange = await self._connected(scan, transaction)
            try:
                scan.connected(exchange)
                return await exchange.answer
            finally:
                exchange.close()
        finally:
            scan.ended()

    async def _connected(self, scan: _Scan, transaction: Transaction) -> _Exchange:
        problems = []
        for description in self._scanners:
            try:
                return await self._connect(description, b"zINSTREAM\0", scan)
            except (ConnectError, ConnectingCancelledError, UserError, OSError) as error:
                if scan.over or transaction.ended:
                    raise CancelledError from error
                problems.append(f"{description}: {_printable(str(error))}")
            except TimeoutError:
                problems.append(f"{description}: no connection in {CONNECT_TIME:g} s")
        raise ScannerError("; ".join(problems))

    async def _connect(self, description: str, command: bytes, scan: _Scan | None) -> _Exchange:
        endpoint = clientFromString(self.reactor, description)
        connecting = endpoint.connect(_Exchanges(command, scan))
        exchange: _Exchange = await connecting.addTimeout(CONNECT_TIME, self.reactor)
        return exchange

    async def _room(self, scan: _Scan) -> None:
        """Wait until clamd takes more, and hold the client back meanwhile."""
        try:
            await scan.wait_for_room().addTimeout(self.timeout, self.reactor)
        except TimeoutError:
            scan.problem = f"took nothing in {self.timeout:g} s"
            scan.end()

    async def _answer(self, scan: _Scan) -> str:
        if scan.problem:
            raise ScannerError(scan.problem)
        scan.send(b"")
        assert scan.work is not None
        waiting = Deferred.fromCoroutine(_result(scan.work))
        try:
            return await waiting.addTimeout(self.timeout, self.reactor)
        except TimeoutError:
            raise ScannerError(f"no answer in {self.timeout:g} s") from None

    async def _known_version(self) -> str:
        """What clamd calls itself; asked once, and after each error."""
        if not self._version:
            self._version = await self._asked_version() or ""
        return self._version or "ClamAV"

    async def _asked_version(self) -> str | None:
        for description in self._scanners:
            try:
                exchange = await self._connect(description, b"zVERSION\0", None)
            except (ConnectError, ConnectingCancelledError, UserError, OSError, TimeoutError):
                continue
            try:
                answer = await exchange.answer.addTimeout(CONNECT_TIME, self.reactor)
            except (ScannerError, TimeoutError):
                continue
            finally:
                exchange.close()
            version = answer.partition("/")[0]
            return version if _VERSION.fullmatch(version) else None
        return None


async def _result(work: Work[str]) -> str:
    return await work


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:400]


class _Scan:
    """One message on its way to clamd.

    :ivar size: Octets of it so far.
    :ivar over: Whether nothing more is sent; there may be an answer already.
    :ivar skipped: Whether no answer is wanted.
    :ivar problem: Why it was given up, if clamd is to blame.
    :ivar work: Gives the answer.
    """

    __slots__ = ("_exchange", "_kept", "_waiting", "over", "problem", "size", "skipped", "work")

    def __init__(self) -> None:
        self.size = 0
        self.over = False
        self.skipped = False
        self.problem = ""
        self.work: Work[str] | None = None
        self._exchange: _Exchange | None = None
        self._kept: list[bytes] = []
        self._waiting: Deferred[None] | None = None

    @property
    def room(self) -> bool:
        """Whether more can be sent at once."""
        return self.over or (self._exchange is not None and not self._exchange.paused)

    def send(self, chunk: bytes) -> None:
        """Send octets, or keep them until there is a connection; none at all is the end."""
        if self.over:
            return
        self.size += len(chunk)
        frame = struct.pack("!I", len(chunk)) + chunk
        if self._exchange is None:
            self._kept.append(frame)
        else:
            self._exchange.write(frame)

    def wait_for_room(self) -> Deferred[None]:
        """Wait until more can be sent, or nothing more is wanted."""
        self._waiting = Deferred()
        return self._waiting

    def make_room(self) -> None:
        """Let the client go on."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def connected(self, exchange: _Exchange) -> None:
        """Send what was kept."""
        self._exchange = exchange
        kept, self._kept = self._kept, []
        exchange.write(b"".join(kept))
        if self.room:
            self.make_room()

    def ended(self) -> None:
        """The connection has ended, or there is none."""
        self.over = True
        self._exchange = None
        self._kept.clear()
        self.make_room()

    def end(self) -> None:
        """Give the scan up, or close the connection after it."""
        self.over = True
        if self.work is not None:
            self.work.cancel()


@implementer(IPushProducer)
class _Exchange(Protocol):
    """One command of clamd's protocol and its answer.

    :ivar answer: Fires with the answer, without its NUL.
    :ivar paused: Whether clamd is slower than we are.
    """

    def __init__(self, command: bytes, scan: _Scan | None) -> None:
        self.answer: Deferred[str] = Deferred()
        self.paused = False
        self._command = command
        self._scan = scan
        self._heard = b""

    def write(self, octets: bytes) -> None:
        if octets and self.transport is not None:
            self.transport.write(octets)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionMade(self) -> None:  # noqa: N802
        assert self.transport is not None
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]
        self.transport.write(self._command)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._heard += data
        answer, end, _ = self._heard.partition(b"\0")
        if end or len(answer) > ANSWER_LIMIT:
            self._answered(answer.decode("utf-8", "replace").strip())

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if not self.answer.called:
            error = reason.value if reason.check(ConnectionClosed) else reason.getErrorMessage()
            self.answer.errback(ScannerError(f"clamd closed the connection: {error}"))

    def _answered(self, answer: str) -> None:
        if not self.answer.called:
            self.answer.callback(answer)

    def pauseProducing(self) -> None:  # noqa: N802
        self.paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        self.paused = False
        if self._scan is not None:
            self._scan.make_room()

    def stopProducing(self) -> None:  # noqa: N802
        self.paused = False


class _Exchanges(Factory):
    """Makes one exchange, without a word in the log."""

    noisy = False

    def __init__(self, command: bytes, scan: _Scan | None) -> None:
        self._made = _Exchange(command, scan)

    def buildProtocol(self, addr: object) -> _Exchange:  # noqa: N802
        return self._made


maker = PluginMaker(NAME, ClamdScan)
