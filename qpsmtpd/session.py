# -*- test-case-name: tests.test_session -*-
"""Sessions and mail transactions, as components see them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from qpsmtpd.message import Message
from qpsmtpd.notes import Notes
from qpsmtpd.scope import Scope
from qpsmtpd.smtp.address import Address
from qpsmtpd.smtp.commands import Parameters
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.trace import Decision

__all__ = ["TRACE_LIMIT", "Session", "TLSState", "Transaction"]

#: Decisions that a session or a transaction remembers.
TRACE_LIMIT: Final = 1000

_numbers: Final = itertools.count(1)

#: The process, which costs a system call to ask for.
_process = os.getpid()


def _forked() -> None:
    global _process
    _process = os.getpid()


os.register_at_fork(after_in_child=_forked)

_NO_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType({})


class TLSState(NamedTuple):
    """How a session is encrypted.

    :ivar version: ``TLSv1.3``
    :ivar cipher: ``TLS_AES_256_GCM_SHA384``
    """

    version: str
    cipher: str

    @classmethod
    def of(cls, connection: Any) -> TLSState:
        """The state of a pyOpenSSL connection whose handshake is done."""
        return cls(
            connection.get_protocol_version_name(), connection.get_cipher_name() or "unknown"
        )


class _Noted(Scope):
    """A scope with notes and a trace, neither of which costs anything until used."""

    __slots__ = ("noted", "started", "trace")

    def __init__(self, started: float) -> None:
        self.ended = False
        self._work = None
        #: The notes where there are some. :meth:`note` is the plain way to look for one.
        self.noted: Notes | None = None
        #: Seconds since the epoch.
        self.started = started
        #: What components decided lately, in order; ``None`` for nothing yet.
        self.trace: list[Decision] | None = None

    @property
    def notes(self) -> Notes:
        """What components tell each other; see :class:`qpsmtpd.notes.Notes`."""
        if self.noted is None:
            self.noted = Notes()
        return self.noted

    def note(self, name: str) -> object:
        """A note without making room for notes where there are none."""
        return None if self.noted is None else self.noted.get(name)

    def record(self, decision: Decision) -> None:
        """Add to the trace; the oldest go when there are too many."""
        trace = self.trace
        if trace is None:
            self.trace = [decision]
            return
        trace.append(decision)
        if len(trace) > TRACE_LIMIT:  # refused recipients have no end
            del trace[: TRACE_LIMIT // 2]


class Session(_Noted):
    """One client's dialogue with the server (RFC 5321, 3.1).

    :ivar remote_ip: The client's address; empty for a UNIX socket.
    :ivar remote_port: The client's port.
    :ivar local_ip: The address it connected to.
    :ivar local_port: The port it connected to.
    :ivar remote_host: The client's name by DNS, which leads back to its address; or ``None`` if
        it has none or nobody asked.
    :ivar remote_info: The client's user by the ident protocol, if anybody asked.
    :ivar hello: ``"helo"``, ``"ehlo"`` or ``""`` before the client has greeted.
    :ivar hello_host: The name that the client greeted with.
    :ivar capabilities: Keywords for the EHLO reply; components add theirs at ``ehlo``.
    :ivar tls: How the session is encrypted; ``None`` while it is not.
    :ivar tls_context: What STARTTLS is answered with; STARTTLS is offered once it is set.
    :ivar tls_implicit: Whether the client begins with TLS, before the greeting (RFC 8314, 3.3);
        what sets it, and ``tls_context``, sets it at ``pre_connection``.
    :ivar relay_client: Whether the client may send to any domain.
    :ivar auth_user: Who has authenticated; ``None`` for nobody.
    :ivar auth_mechanism: With which mechanism, in upper case.
    :ivar auth_failed: Mechanism and user of the last authentication that failed; ``None`` for
        none.
    :ivar auth_failures: How many have failed.
    :ivar transaction: The open mail transaction, if there is one.
    :ivar connections: Open connections from this address, this one included.
    :ivar environment: What a super-server such as tcpserver has set for this client; empty
        where the server accepts connections itself.
    """

    __slots__ = (
        "_id",
        "_number",
        "_replied",
        "_transactions",
        "auth_failed",
        "auth_failures",
        "auth_mechanism",
        "auth_user",
        "capabilities",
        "connections",
        "environment",
        "hello",
        "hello_host",
        "local_ip",
        "local_port",
        "relay_client",
        "remote_host",
        "remote_info",
        "remote_ip",
        "remote_port",
        "tls",
        "tls_context",
        "tls_implicit",
        "transaction",
    )

    def __init__(
        self,
        remote_ip: str = "",
        remote_port: int = 0,
        local_ip: str = "",
        local_port: int = 0,
        started: float | None = None,
    ) -> None:
        super().__init__(time.time() if started is None else started)
        self.remote_ip = remote_ip
        self.remote_port = remote_port
        self.local_ip = local_ip
        self.local_port = local_port
        self.remote_host: str | None = None
        self.remote_info: str | None = None
        self.hello = ""
        self.hello_host = ""
        self.capabilities: tuple[str, ...] = ()
        self.tls: TLSState | None = None
        self.tls_context: object | None = None
        self.tls_implicit = False
        self.relay_client = False
        self.auth_user: str | None = None
        self.auth_mechanism: str | None = None
        self.auth_failed: tuple[str, str] | None = None
        self.auth_failures = 0
        self.transaction: Transaction | None = None
        self.connections = 1
        self.environment = _NO_ENVIRONMENT
        self._number = next(_numbers)
        self._id: str | None = None
        self._transactions = 0
        self._replied: Reply | None = None

    @property
    def id(self) -> str:
        """A name for logs that no other session has: time, process and number."""
        if self._id is None:
            self._id = f"{int(self.started):x}-{_process:x}-{self._number:x}"
        return self._id

    @property
    def remote_name(self) -> str:
        """What the client is called: its name or ``Unknown``, with its user before it if known."""
        name = self.remote_host or "Unknown"
        return f"{self.remote_info}@{name}" if self.remote_info else name

    def reply(self, reply: Reply) -> None:
        """Answer the command at hand; the component then returns ``DONE``."""
        self._replied = reply

    def take_reply(self) -> Reply | None:
        """What :meth:`reply` was given since this was last asked."""
        replied = self._replied
        self._replied = None
        return replied


class Transaction(_Noted):
    """A mail transaction: from MAIL to the end of data (RFC 5321, 3.3).

    :ivar session: The session it belongs to.
    :ivar reverse_path: Where bounces go; ``NULL_PATH`` for a bounce itself.
    :ivar parameters: The parameters of MAIL, keywords in upper case.
    :ivar recipients: Those accepted so far, in order.
    :ivar recipient_parameters: The parameters of RCPT, for recipients that came with
        some; set while ``rcpt`` is asked.
    :ivar message: The message; ``None`` before DATA.
    """

    __slots__ = (
        "_number",
        "message",
        "parameters",
        "recipient_parameters",
        "recipients",
        "reverse_path",
        "session",
    )

    def __init__(self, session: Session, reverse_path: Address, parameters: Parameters) -> None:
        self.ended = False
        self._work = None
        self.noted = None
        self.trace = None
        self.started = time.time()
        self.session = session
        self.reverse_path = reverse_path
        self.parameters = parameters
        self.recipients: list[Address] = []
        self.recipient_parameters: dict[Address, Parameters] | None = None
        self.message: Message | None = None
        session._transactions = self._number = session._transactions + 1

    @property
    def id(self) -> str:
        """The session's id and the number of the transaction in it."""
        return f"{self.session.id}.{self._number}"

    def end(self) -> None:
        """End the transaction: its work is cancelled and its message released."""
        self.ended = True
        if self._work is not None:
            super().end()
        if self.message is not None:
            self.message.close()
