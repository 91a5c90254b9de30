# -*- test-case-name: tests.smtp.test_machine,tests.smtp.test_machine_fuzz -*-
"""The server's side of SMTP without I/O: octets in, commands out; replies in, octets out.

The machine owns framing, the order of commands, pipelining and every limit that
needs no clock. It answers what no policy is needed for, and hands on the rest::

    machine = ServerMachine(limits)
    machine.reply(Reply(220, "mail.example ESMTP"))
    machine.receive(octets)               # from the client, cut anywhere
    event = machine.next_event()          # a command, content, or what is needed
    machine.reply(Reply(250, "OK"))       # answers the event last taken
    octets = machine.outgoing()           # for the client

An event is a command of :mod:`qpsmtpd.smtp.commands`, ``bytes`` of content,
:data:`HEADERS_END`, a :class:`ContentEnd`, an :class:`AuthLine`, or a :class:`Need`. Content
and ``HEADERS_END`` want no reply; everything else gets exactly one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias

from qpsmtpd.smtp.address import plain_path
from qpsmtpd.smtp.commands import (
    DATA,
    NO_PARAMETERS,
    PARSERS,
    QUIT,
    SHORT_LINE,
    Auth,
    Bdat,
    Command,
    Data,
    Ehlo,
    Helo,
    Help,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    Starttls,
    Unparsed,
    Unrecognized,
    Vrfy,
    parse_rcpt,
    plain_line,
)
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.framing import ContentCheck, dot_split, only_pairs
from qpsmtpd.smtp.limits import Limits
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.states import AFTER, ANYWHERE, State, out_of_sequence

__all__ = ["HEADERS_END", "AuthLine", "ContentEnd", "Event", "Need", "ServerMachine"]


class Need(Enum):
    """Why there is no event."""

    #: More octets of the client.
    DATA = "data"
    #: The reply to the event last taken.
    REPLY = "reply"
    #: The connection is to be closed when what is outgoing was sent.
    CLOSE = "close"


class _HeadersEnd(Enum):
    HEADERS_END = "headers end"


#: The empty line behind the header section has come; the body follows.
HEADERS_END: Final = _HeadersEnd.HEADERS_END


@dataclass(frozen=True, slots=True)
class ContentEnd:
    """The message is complete.

    :ivar refusal: The reply that the limits ask for; ``None`` if the message is within them.
    """

    refusal: Reply | None = None


@dataclass(frozen=True, slots=True)
class AuthLine:
    """The client's answer to a 334.

    :ivar octets: The line without CR LF; ``None`` if it was too long or held a bare CR or LF.
    """

    octets: bytes | None


Event: TypeAlias = Command | bytes | _HeadersEnd | ContentEnd | AuthLine | Need

_ACCEPTED: Final = ContentEnd()

# An enumeration's member costs as much to look up as a method call.
_NEED_DATA: Final = Need.DATA
_NEED_REPLY: Final = Need.REPLY
_NEED_CLOSE: Final = Need.CLOSE
_CONNECTED: Final = State.CONNECTED
_READY: Final = State.READY
_MAIL: Final = State.MAIL
_RCPT: Final = State.RCPT
_AFTER_CONNECTED: Final = AFTER[State.CONNECTED]
_AFTER_MAIL: Final = AFTER[State.MAIL]
_AFTER_RCPT: Final = AFTER[State.RCPT]

_LINE_TOO_LONG: Final = Reply(500, "Line too long", "5.5.2")
_BARE_NEWLINE: Final = Reply(500, "Bare CR or LF; end each line with CR LF", "5.5.2")
_TOO_MANY_ERRORS: Final = Reply(421, "Too many errors, closing connection", "4.7.0")
_TOO_MANY_UNKNOWN: Final = Reply(421, "Too many unrecognized commands, closing", "4.7.0")
_TOO_MANY_IDLE: Final = Reply(421, "Too many commands without mail, closing", "4.7.0")
_TOO_MANY_RECIPIENTS: Final = Reply(452, "Too many recipients", "4.5.3")
_TOO_BIG: Final = Reply(552, "Message size exceeds the limit", "5.3.4")
_NOT_OFFERED: Final = Reply(502, "Command not implemented", "5.5.1")
_BDAT_ONLY: Final = Reply(503, "BODY=BINARYMIME needs BDAT", "5.5.1")

_VERB_LIMIT: Final = 40

_new_tuple: Final = tuple.__new__  # a command at a third of the time of its constructor
_MOVE_MAIL: Final = frozenset({b"MAIL", b"RCPT"})


class ServerMachine:
    """One SMTP session's protocol state.

    :ivar state: Where the session stands, by the table of :mod:`qpsmtpd.smtp.states`.
    :ivar extensions: What is offered now; whoever answers EHLO sets it.
    :ivar recipients: Recipients of the open transaction that were accepted.
    :ivar said: What :meth:`outgoing` would give, in pieces.
    :ivar utf8: Whether the open transaction was begun with SMTPUTF8.
    :ivar binary: Whether it was begun with BODY=BINARYMIME.
    :ivar unparsed: Verbs, out of EHLO, HELO, MAIL, RCPT and AUTH, whose argument is handed
        over unread, as :class:`Unparsed`.
    :ivar announce_headers: Whether ``HEADERS_END`` is told.
    """

    __slots__ = (
        "_after",
        "_at_once",
        "_behind",
        "_buffer",
        "_check",
        "_chunk",
        "_close",
        "_discarding",
        "_errors",
        "_idle",
        "_last",
        "_pending",
        "_position",
        "_read",
        "_refused",
        "_unknown",
        "_verb",
        "_waiting",
        "announce_headers",
        "binary",
        "extensions",
        "limits",
        "recipients",
        "said",
        "state",
        "unparsed",
        "utf8",
    )

    def __init__(self, limits: Limits, extensions: Extensions = Extensions()) -> None:  # noqa: B008
        self.limits = limits
        self.extensions = extensions
        self.state = _CONNECTED
        self.recipients = 0
        self.utf8 = False
        self.binary = False
        self.unparsed: frozenset[bytes] = frozenset()
        self.announce_headers = False
        self._buffer = b""
        self._position = 0
        self.said: list[bytes] = []
        #: The event whose reply is outstanding. The first is the connection itself.
        self._waiting: object = _NEED_REPLY
        self._verb = b""
        self._after = _AFTER_CONNECTED
        #: Reads on: gives an event, or ``None`` when it has to be called again.
        self._read = command = ServerMachine._command
        #: Events that are to be given before that, and what is read when they are.
        self._pending: list[Event] = []
        self._behind = command
        self._check: ContentCheck | None = None
        self._chunk = 0
        self._last = False
        self._refused: Reply | None = None
        #: Octets of a command line that may be read by :meth:`_plain`.
        self._at_once = min(SHORT_LINE, limits.command_line)
        self._discarding = False
        self._close = False
        self._errors = 0
        self._unknown = 0
        self._idle = 0

    # The four verbs.

    def receive(self, data: bytes) -> None:
        """Take octets from the client; once the session is over, drop them."""
        if self._close:
            return
        if self._position == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._position :] + data
        self._position = 0

    def next_event(self) -> Event:
        """The next event; or ``Need.REPLY`` until the last one was answered."""
        if self._waiting is not None:
            return _NEED_REPLY
        while True:
            step = self._read(self)
            if step is not None:
                return step

    def reply(self, reply: Reply) -> None:
        """Answer the event last taken; its reply decides where the session goes.

        Too late for a session that was closed meanwhile, it is dropped.

        :raises RuntimeError: No event waits for a reply.
        """
        event = self._waiting
        self._waiting = None
        answered = _ANSWERED.get(type(event))
        if answered is not None:
            answered(self, event, reply)
            return
        self._say(reply)
        if reply.code < 400:
            self._enter(self._after.get(self._verb, self.state))

    def outgoing(self) -> bytes:
        """Octets for the client since last asked."""
        out = self.said
        if not out:
            return b""
        octets = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return octets

    # What else a driver may want.

    @property
    def pending(self) -> int:
        """Octets received and not yet taken."""
        return len(self._buffer) - self._position

    @property
    def receiving(self) -> bool:
        """Whether message content is being received."""
        read = self._read
        if read is ServerMachine._next_pending:
            read = self._behind
        return read is ServerMachine._content or read is ServerMachine._chunk_content

    def parsed(self, command: Command) -> Reply | None:
        """Say what an :class:`Unparsed` event meant; its reply is then that command's.

        :returns: The reply that a limit asks for, if one does.
        """
        if isinstance(command, Mail) and (refusal := self._begin(command)) is not None:
            return refusal
        self._waiting = command
        full = isinstance(command, Rcpt) and self._full
        return _TOO_MANY_RECIPIENTS if full else None

    def hold(self) -> None:
        """Give no event until :meth:`go_on`: somebody is not done with content."""
        self._waiting = HEADERS_END

    def go_on(self) -> None:
        """Undo :meth:`hold`."""
        if self._waiting is HEADERS_END:
            self._waiting = None

    def greet(self) -> None:
        """Forget what the client said about itself, because TLS begins (RFC 3207, 4.2).

        Whatever the client sent behind STARTTLS goes with it.
        """
        self._buffer = b""
        self._position = 0
        self.extensions = replace(self.extensions, starttls=False)
        self._enter(State.CONNECTED)

    def close(self, reply: Reply | None = None) -> None:
        """End the session: ``Need.CLOSE`` is the next and last event.

        :param reply: Said before the end, whether or not a reply is outstanding; 421
            may come at any time (RFC 5321, 3.8).
        """
        if reply is None:
            reply = self._refused  # a chunk's, which would have come when the chunk was over
        if reply is not None and not self._close:
            self._say(reply)
        self._waiting = None
        self._pending.clear()
        self._close = True
        self._read = ServerMachine._closed
        self._buffer = b""
        self._position = 0

    def _more(self) -> Event:
        """Ask for more octets. Of those that were taken nothing is kept meanwhile."""
        self._buffer = self._buffer[self._position :]
        self._position = 0
        return _NEED_DATA

    # Commands.

    def _command(self) -> Event | None:
        buffer = self._buffer
        start = self._position
        if start == len(buffer):
            self._buffer = b""
            self._position = 0
            return _NEED_DATA
        line = plain_line(buffer, start)
        if line is not None:
            end = line.end()
            if end - start <= self._at_once and not self.unparsed:
                command = self._plain(line)
                if command is not None:
                    self._position = end
                    self._waiting = command
                    return command
        newline = buffer.find(b"\n", start)
        if newline < 0:
            return self._partial_line(buffer, start)
        self._position = newline + 1
        if newline + 1 - start > self.limits.command_line:
            self._fail(_LINE_TOO_LONG)
            return None
        event = self._line(buffer[start : newline + 1])
        self._waiting = event
        return event

    def _plain(self, line: re.Match[bytes]) -> Command | None:
        """Read a plain command at once; ``None`` if it has to be read as any other is.

        Three such lines of a message take 5 us less with it (``python -m benchmarks messages``).
        """
        kind = line.lastindex
        after = self._after
        if kind == 1:
            if b"MAIL" in after:
                command = _new_tuple(Mail, (plain_path(line[1]), NO_PARAMETERS))
                self._begin(command)
                return command
        elif kind == 2:
            if b"RCPT" in after and not self._full:
                return _new_tuple(Rcpt, (plain_path(line[2]), NO_PARAMETERS))
        elif kind == 4:
            if not self._idle >= self.limits.idle_commands > 0:
                self._idle += 1
                self._verb = verb = line[3].upper()
                host = line[4].decode("utf-8", "replace")
                if verb == b"EHLO":
                    return _new_tuple(Ehlo, (host, ()))
                return _new_tuple(Helo, (host, ()))
        elif kind == 5:
            return QUIT
        elif b"DATA" in after and not self.binary:
            return DATA
        return None

    def _partial_line(self, buffer: bytes, start: int) -> Event | None:
        """Wait for the rest of a line; of one that is too long, keep nothing."""
        held = len(buffer) - start
        if held < self.limits.command_line:
            return self._more()
        self._position = len(buffer)
        self._read = ServerMachine._rest_of_line
        self._fail(_LINE_TOO_LONG)
        return None

    def _rest_of_line(self) -> Event | None:
        """Pass over what is left of a line that was too long."""
        newline = self._buffer.find(b"\n", self._position)
        if newline < 0:
            self._position = len(self._buffer)
            return self._more()
        self._position = newline + 1
        self._read = ServerMachine._command
        return None

    def _line(self, line: bytes) -> Command | None:
        """Read one line with its LF; ``None`` when the machine has answered it itself."""
        if not line.endswith(b"\r\n") or line.count(b"\r") != 1:
            self._fail(_BARE_NEWLINE)
            return None
        # Blanks before the CR LF are tolerated (RFC 5321, 4.1.1).
        verb, _, argument = line.rstrip(b" \t\r\n").partition(b" ")
        verb = verb.upper()
        parser = PARSERS.get(verb)
        if parser is None and verb != b"RCPT":
            return self._unrecognized(verb, argument)
        after = self._after
        if verb not in after and verb not in ANYWHERE:
            refusal = out_of_sequence(self.state, verb)
            if verb == b"BDAT":
                return self._refuse_chunk(argument, refusal)
            self._fail(refusal)
            return None
        self._verb = verb
        if verb in self.unparsed:
            unparsed = Unparsed(verb, argument.lstrip(b" "))
            return unparsed if verb in _MOVE_MAIL else self._idles(unparsed)
        command: Command | Reply
        if parser is None:
            if self._full:
                self._say(_TOO_MANY_RECIPIENTS)
                return None
            command = parse_rcpt(argument, self.extensions, self.utf8)
        else:
            command = parser(argument, self.extensions)
        if isinstance(command, Reply):
            self._fail(command)
            return None
        checked = _CHECKED.get(type(command))
        if checked is not None:
            return checked(self, command)
        return command

    def _unrecognized(self, verb: bytes, argument: bytes) -> Command | None:
        self._unknown += 1
        if self._unknown > self.limits.unknown_commands > 0:
            self.close(_TOO_MANY_UNKNOWN)
            return None
        return Unrecognized(
            verb[:_VERB_LIMIT].lower().decode("utf-8", "replace"),
            argument.decode("utf-8", "replace"),
        )

    @property
    def _full(self) -> bool:
        return self.recipients >= self.limits.recipients > 0

    def _idles(self, command: Command) -> Command | None:
        """Count a command that moves no mail."""
        self._idle += 1
        if self._idle > self.limits.idle_commands > 0:
            self.close(_TOO_MANY_IDLE)
            return None
        return command

    def _mail_checked(self, command: Mail) -> Command | None:
        refusal = self._begin(command)
        if refusal is None:
            return command
        self._fail(refusal)
        return None

    def _begin(self, command: Mail) -> Reply | None:
        """Note what a transaction's parameters mean for its commands; or say what forbids it."""
        if self.state is not _READY:
            self._enter(_READY)
        self.utf8 = self.binary = False  # a MAIL that was refused may have asked for them
        parameters = command.parameters
        if not parameters:
            return None
        size = parameters.get("SIZE")
        limit = self.limits.message_size
        if size is not None and int(size) > limit > 0:  # RFC 1870, 6.1
            return _TOO_BIG
        self.utf8 = "SMTPUTF8" in parameters
        self.binary = parameters.get("BODY") == "BINARYMIME"
        return None

    def _data_checked(self, command: Data) -> Command | None:
        if not self.binary:
            return command
        self._fail(_BDAT_ONLY)
        return None

    def _bdat_checked(self, command: Bdat) -> Command | None:
        if not self.extensions.chunking:
            return self._skip_chunk(command, _NOT_OFFERED)
        self._chunk = command.size
        self._last = command.last
        if self.state is State.CHUNKS:
            self._read = ServerMachine._chunk_content
            return None
        return Bdat(command.size, command.last, first=True)

    def _starttls_checked(self, command: Starttls) -> Command | None:
        if not self.extensions.starttls:
            self._fail(_NOT_OFFERED)
            return None
        return self._idles(command)

    def _fail(self, reply: Reply) -> None:
        """Answer a command that went wrong, without asking anybody."""
        self._errors += 1
        if self._errors > self.limits.errors > 0:
            self.close(_TOO_MANY_ERRORS)
        else:
            self._say(reply)

    def _say(self, reply: Reply) -> None:
        self.said.append(reply.octets)

    def _enter(self, state: State) -> None:
        self.state = state
        self._after = AFTER[state]
        if state is _READY or state is _CONNECTED:
            self.recipients = 0
            self.utf8 = self.binary = False
            self._check = None

    # Answers that do more than lead from one state to the next.

    def _answered_connection(self, event: object, reply: Reply) -> None:
        self._say(reply)

    # Replies to the three commands of every message: what is said is looked up without a call.

    def _answered_mail(self, event: object, reply: Reply) -> None:
        self.said.append(reply._octets or reply.octets)
        if reply._code < 400:
            self.state = _MAIL
            self._after = _AFTER_MAIL

    def _answered_rcpt(self, event: object, reply: Reply) -> None:
        self.said.append(reply._octets or reply.octets)
        if reply._code < 300:
            self.recipients += 1
            self.state = _RCPT
            self._after = _AFTER_RCPT

    def _answered_data(self, event: object, reply: Reply) -> None:
        self.said.append(reply._octets or reply.octets)
        if 300 <= reply._code < 400:
            self._read = ServerMachine._content
        else:
            self._enter(_READY)

    def _answered_bdat(self, event: object, reply: Reply) -> None:
        """Begin to read a message in chunks, or pass over one that nobody wants."""
        if reply.code < 400:
            self._check = ContentCheck(self.limits, self.binary)
            self._enter(State.CHUNKS)
        else:
            self._refused = reply
            self._enter(_READY)
        self._read = ServerMachine._chunk_content

    def _answered_content(self, event: object, reply: Reply) -> None:
        self.said.append(reply._octets or reply.octets)
        if reply._code < 300:
            self._idle = 0
        self._enter(_READY)

    def _answered_auth(self, event: object, reply: Reply) -> None:
        self._read = ServerMachine._auth_line if reply.intermediate else ServerMachine._command
        if reply.permanent:
            self._fail(reply)
        else:
            self._say(reply)

    def _answered_quit(self, event: object, reply: Reply) -> None:
        self.close(reply)

    def _answered_unrecognized(self, event: object, reply: Reply) -> None:
        self._say(reply)
        if reply.code < 400:
            self._unknown -= 1

    def _answered_unparsed(self, event: object, reply: Reply) -> None:
        self._fail(reply)

    def _answered_nothing(self, event: object, reply: Reply) -> None:
        if not self._close:
            raise RuntimeError("no event waits for a reply")

    def _answered_starttls(self, event: object, reply: Reply) -> None:
        self._say(reply)
        if reply.code < 300:
            self.greet()

    # Content.

    def _content(self) -> Event | None:
        buffer = self._buffer
        if self._position == len(buffer):
            return self._more()
        check = self._check
        fresh = check is None or (not check.size and check.refusal is None)
        content, self._position, ended = dot_split(buffer, self._position, fresh)
        if check is None:
            # Nearly every small message comes as a whole, and is over no limit. Without this the
            # messages of `python -m benchmarks messages` take another 2 us.
            if (
                ended
                and 0 < len(content) <= self.limits.harmless_size
                and not self.announce_headers
                and only_pairs(content)
            ):
                self._read = ServerMachine._accepted
                return content
            check = self._check = ContentCheck(self.limits)
        content = check.take(content, ended) if content else b""
        if ended:
            self._read = ServerMachine._command
            return self._deliver(check, content, True)
        return self._deliver(check, content, False) if content else self._more()

    def _chunk_content(self) -> Event | None:
        """Read octets of a BDAT chunk, whose number is known (RFC 3030, 2)."""
        available = len(self._buffer) - self._position
        if self._chunk and not available:
            return self._more()
        taken = min(self._chunk, available)
        content = self._buffer[self._position : self._position + taken]
        self._position += taken
        self._chunk -= taken
        if not self._chunk:
            self._read = ServerMachine._command
        if self._refused is not None:
            return self._pass_over(self._refused)
        check = self._check
        assert check is not None
        ended = self._last and not self._chunk
        content = check.take(content, ended)
        if self._chunk:
            return self._deliver(check, content, False) if content else self._more()
        # A refused message is over with its chunk; what follows of it is out of sequence.
        if ended or check.refusal is not None:
            return self._deliver(check, content, True)
        self._say(Reply(250, f"{check.size} octets received", "2.0.0"))
        return self._deliver(check, content, False) if content else None

    def _pass_over(self, refusal: Reply) -> Event | None:
        """Skip a chunk that was refused; its reply comes when it is over."""
        if self._chunk:
            return self._more()
        self._say(refusal)
        self._refused = None
        return None

    def _refuse_chunk(self, argument: bytes, refusal: Reply) -> Command | None:
        """Refuse a BDAT; its octets have to be passed over all the same."""
        command = PARSERS[b"BDAT"](argument, self.extensions)
        if type(command) is not Bdat:
            self._fail(refusal)
            return None
        return self._skip_chunk(command, refusal)

    def _skip_chunk(self, command: Bdat, refusal: Reply) -> Command | None:
        self._errors += 1
        self._chunk = command.size
        if self._errors > self.limits.errors > 0:
            self.close(_TOO_MANY_ERRORS)
            return None
        self._refused = refusal
        self._read = ServerMachine._chunk_content
        return None

    def _deliver(self, check: ContentCheck, content: bytes, ended: bool) -> Event | None:
        """Hand on content, and keep what follows it for the next calls."""
        events: list[Event] = [content] if content else []
        if self.announce_headers:
            if check.headers_end >= 0:
                end = check.headers_end
                parts: tuple[Event, ...] = (content[:end], HEADERS_END, content[end:])
                events = [part for part in parts if part != b""]
            elif ended and check.in_headers and check.refusal is None:
                events.append(HEADERS_END)
        if ended:
            events.append(_ACCEPTED if check.refusal is None else ContentEnd(check.refusal))
        if len(events) == 1 and not ended:
            return events[0]
        self._pending = events
        self._behind = self._read
        self._read = ServerMachine._next_pending
        return None

    def _next_pending(self) -> Event:
        """Give the events of content one after the other, and then go on reading."""
        event = self._pending.pop(0)
        if not self._pending:
            self._read = self._behind
        if event.__class__ is ContentEnd:
            self._waiting = event
        return event

    def _accepted(self) -> Event:
        """The end of a message that was read as a whole."""
        self._read = ServerMachine._command
        self._waiting = _ACCEPTED
        return _ACCEPTED

    def _closed(self) -> Event:
        return _NEED_CLOSE

    # Authentication.

    def _auth_line(self) -> Event | None:
        """Read the answer to a 334; of one that is too long, keep nothing."""
        buffer = self._buffer
        start = self._position
        newline = buffer.find(b"\n", start)
        limit = self.limits.auth_line
        if newline < 0:
            if self._discarding or len(buffer) - start >= limit:
                self._discarding = True
                self._position = len(buffer)
            return self._more()
        self._position = newline + 1
        line = buffer[start : newline + 1]
        short = not self._discarding and len(line) <= limit
        good = short and line.endswith(b"\r\n") and line.count(b"\r") == 1
        self._discarding = False
        event = AuthLine(line[:-2] if good else None)
        self._waiting = event
        return event


_CHECKED: Final[dict[type, Callable[..., Command | None]]] = {
    Mail: ServerMachine._mail_checked,
    Data: ServerMachine._data_checked,
    Bdat: ServerMachine._bdat_checked,
    Starttls: ServerMachine._starttls_checked,
    Auth: ServerMachine._idles,
    Ehlo: ServerMachine._idles,
    Helo: ServerMachine._idles,
    Rset: ServerMachine._idles,
    Noop: ServerMachine._idles,
    Vrfy: ServerMachine._idles,
    Help: ServerMachine._idles,
}

_ANSWERED: Final[dict[type, Callable[[ServerMachine, object, Reply], None]]] = {
    Need: ServerMachine._answered_connection,
    Mail: ServerMachine._answered_mail,
    Rcpt: ServerMachine._answered_rcpt,
    Data: ServerMachine._answered_data,
    Bdat: ServerMachine._answered_bdat,
    ContentEnd: ServerMachine._answered_content,
    Auth: ServerMachine._answered_auth,
    AuthLine: ServerMachine._answered_auth,
    Quit: ServerMachine._answered_quit,
    Unrecognized: ServerMachine._answered_unrecognized,
    Starttls: ServerMachine._answered_starttls,
    Unparsed: ServerMachine._answered_unparsed,
    type(None): ServerMachine._answered_nothing,
}
