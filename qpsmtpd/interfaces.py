"""The contract between the engine and its components.

From top to bottom: what hooks are, the hooks in the order of a session, middleware,
and what else a component may be. A component declares with ``@implementer`` the
hooks it takes part in and is asked at no others::

    @implementer(IRcpt)
    class BadRcptTo:
        def rcpt(self, transaction, recipient):
            if recipient in self.refused:
                return deny(f"mail to {recipient} not accepted here", "5.7.1")
            return None

A hook's method is plain where it knows the answer, and ``async`` or gives a Deferred where
it has to wait. There are three sorts of hook:

*Decisions* are answered with a :class:`~qpsmtpd.verdicts.Verdict`. The first component that
does not decline (``None``) ends the asking.

*Questions* are answered with a value, whose type the hook names; ``None`` declines.

*Notices* tell every component that something happened. Their answer is ignored.

At a decision, an error is never a silent yes: a component that raises, that does not
answer in time or that answers with anything else is logged with its name and stands
for ``defer()`` (451 4.3.0), or is passed over where the configuration gave it ``on_fault
skip``. At a question it is passed over, but for ``config`` and ``user_config``, where whoever
asks for the setting gets the error.

A component may also say the reply itself: ``answer(Reply(...))``. The client hears just that, and
the session goes on by it: after a positive one to EHLO the client has greeted, after one to MAIL
a transaction is open, and after one to RCPT the message goes on without that recipient. After
a 421 the connection closes.

A session or transaction that a component holds stays what it is. When the client goes,
what components wait for on its behalf is cancelled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from zope.interface import Attribute, Interface
from zope.interface.interface import InterfaceClass

from qpsmtpd.services.interfaces import (
    IConfiguration,
    IResolver,
    IStore,
    ResolverError,
    StoreError,
)
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.smtp.commands import Ehlo, Helo, Mail, Parameters, Rcpt
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.sasl import Credentials
from qpsmtpd.verdicts import Verdict

__all__ = [
    "HOOKS",
    "Answer",
    "Call",
    "Hook",
    "IAuth",
    "IAuthCramMD5",
    "IAuthLogin",
    "IAuthParse",
    "IAuthPlain",
    "IConfig",
    "IConfiguration",
    "IConnect",
    "IContent",
    "IData",
    "IDataHeadersEnd",
    "IDataPost",
    "IDataPostHeaders",
    "IDeny",
    "IDisconnect",
    "IEhlo",
    "IEhloParse",
    "IHelo",
    "IHeloParse",
    "IHelp",
    "ILifecycle",
    "ILogging",
    "IMail",
    "IMailParse",
    "IMailPre",
    "IMiddleware",
    "INoop",
    "IOk",
    "IPluginMaker",
    "IPostConnection",
    "IPostFork",
    "IPreConnection",
    "IQueue",
    "IQueuePost",
    "IQueuePre",
    "IQuit",
    "IRcpt",
    "IRcptParse",
    "IRcptPre",
    "IReceivedLine",
    "IResetTransaction",
    "IResolver",
    "IStore",
    "IUnrecognizedCommand",
    "IUserConfig",
    "IVrfy",
    "Proceed",
    "ResolverError",
    "StoreError",
]

#: What a decision may be answered with.
Answer: TypeAlias = Verdict | Awaitable[Verdict | None] | None


# Before the session.


class IPostFork(Interface):
    """A process has begun to serve: once at start, in each worker."""

    def post_fork() -> Awaitable[None] | None:
        """Open what must not be shared between processes."""


class ILogging(Interface):
    """Something is to be logged."""

    def logging(level: int, event: dict[str, Any]) -> None:
        """Write one event. It must not wait, and must not log.

        :param level: 0 for an emergency to 7 for debugging.
        :param event: A ``twisted.logger`` event. Fields that mean something to the engine:
            ``session`` and ``transaction``, ``hook``, ``plugin``.
        """


class IConfig(Interface):
    """A setting is wanted.

    A component with this hook is started before all others. It is then asked, at the start and
    at each reload, for every control file of the engine and of the plugins but ``plugins``,
    ``plugin_dirs``, ``logging`` and ``loglevel``; the others are built with what it says. Its own
    control files are read from the folders. It runs as the user that the server serves as, and
    middleware does not stand around it then. A component that asks
    :class:`~qpsmtpd.services.interfaces.IConfiguration` for another name makes it asked for that.

    One that fails or does not answer stops the start, or keeps the old configuration in use.
    """

    def config(name: str) -> Sequence[str] | Awaitable[Sequence[str] | None] | None:
        """Answer for a control file.

        :param name: The file's name, such as ``rcpthosts``.

        :returns: Its lines; ``None`` leaves it to the file. No lines is an answer: there is no
            value, whatever the file says.
        """


class IUserConfig(Interface):
    """A setting is wanted on behalf of an address.

    Asked each time that a component asks
    :class:`~qpsmtpd.services.interfaces.IConfiguration` with an address.
    """

    def user_config(
        address: Address, name: str
    ) -> Sequence[str] | Awaitable[Sequence[str] | None] | None:
        """Answer for a control file on behalf of one address.

        :param address: Whose setting it is, as the client gave it: its local part can have any
            character.
        :param name: The file's name.

        :returns: Its lines, none for no value; ``None`` leaves it to ``config``, and then to the
            file.
        """


# The session.


class IPreConnection(Interface):
    """A client has connected; nothing was sent or looked up yet."""

    def pre_connection(session: Session) -> Answer:
        """Decide whether to talk to a client at all.

        :returns: ``deny`` answers 554 and closes, ``defer`` answers 421 and closes, as does a
            reply of the component's own; ``OK``, also when none answers, goes on to ``connect``.
        """


class IConnect(Interface):
    """The server is about to greet (RFC 5321, 3.1)."""

    def connect(session: Session) -> Answer:
        """Decide whether to greet a client.

        :returns: ``deny`` answers 554 and closes, ``defer`` answers 421 and closes; ``OK``, also
            when none answers, sends the greeting. ``OK`` keeps later components from being
            asked.
        """


class IEhloParse(Interface):
    """The client greets with EHLO; its argument is still text."""

    def ehlo_parse(session: Session, argument: str) -> Ehlo | Reply | None:
        """Read the argument in place of the built-in parser.

        :returns: The command; a ``Reply`` to refuse it; ``None`` for the built-in parser.
        """


class IEhlo(Interface):
    """The client greets with EHLO (RFC 5321, 4.1.1.1).

    ``session.hello`` still is what it was before. Keywords for the reply are added to
    ``session.capabilities``.
    """

    def ehlo(session: Session, host: str) -> Answer:
        """Decide whether to accept the greeting.

        :param host: What the client calls itself, unchecked.

        :returns: ``deny`` answers 550 and ``defer`` 450, and the client may greet again;
            ``OK``, also when none answers, accepts.
        """


class IHeloParse(Interface):
    """The client greets with HELO; its argument is still text."""

    def helo_parse(session: Session, argument: str) -> Helo | Reply | None:
        """Read the argument in place of the built-in parser; see :class:`IEhloParse`."""


class IHelo(Interface):
    """The client greets with HELO (RFC 5321, 4.1.1.1)."""

    def helo(session: Session, host: str) -> Answer:
        """Decide whether to accept the greeting; see :class:`IEhlo`."""


class IAuthParse(Interface):
    """The client gives AUTH; its argument is still text."""

    def auth_parse(session: Session, argument: str) -> str | Reply | None:
        """Rewrite the argument before it is read.

        :returns: The argument as it should have been; a ``Reply`` to refuse it; ``None`` to
            leave it.
        """


class IAuthPlain(Interface):
    """The client has given credentials with PLAIN (RFC 4616)."""

    def auth_plain(session: Session, credentials: Credentials) -> Answer:
        """Decide whether they are right; see :class:`IAuth`."""


class IAuthLogin(Interface):
    """The client has given credentials with LOGIN."""

    def auth_login(session: Session, credentials: Credentials) -> Answer:
        """Decide whether they are right; see :class:`IAuth`."""


class IAuthCramMD5(Interface):
    """The client has given credentials with CRAM-MD5 (RFC 2195)."""

    def auth_cram_md5(session: Session, credentials: Credentials) -> Answer:
        """Decide whether they are right; see :class:`IAuth`."""


class IAuth(Interface):
    """The client has given credentials, and no component of their mechanism's hook decided.

    A component with this hook makes the server offer PLAIN, LOGIN and CRAM-MD5, one with
    a mechanism's own hook makes it offer that mechanism.

    There is no hook for a success. From then on ``session.auth_user`` and
    ``session.auth_mechanism`` say who it was, and ``session.relay_client`` is true; a component at
    ``ok`` hears of it at once. After a failure ``session.auth_failed`` says who it was, and
    ``session.auth_failures`` how many there were.
    """

    def auth(session: Session, credentials: Credentials) -> Answer:
        """Decide whether credentials are right.

        :returns: ``OK`` answers 235, and the client may relay; ``deny``, also when none
            answers, 535; ``defer`` 454 (RFC 4954, 6). The text of a ``deny`` is for the log, and
            the client is told the same for every failure, so that it cannot find out which users
            there are; with a status or code of its own it is said as it is.
        """


class IMailParse(Interface):
    """The client gives MAIL; its argument is still text."""

    def mail_parse(session: Session, argument: str) -> Mail | Reply | None:
        """Read the argument in place of the built-in parser.

        :param argument: What stands behind ``MAIL`` and a space.

        :returns: The command; a ``Reply`` to refuse it; ``None`` for the built-in parser.
        """


class IMailPre(Interface):
    """The client gives MAIL; the path is separated from its parameters and still text."""

    def mail_pre(session: Session, path: str, parameters: Parameters) -> str | None:
        """Rewrite a reverse-path before it is read, brackets included.

        :param parameters: Keywords in upper case; unchecked.

        :returns: The path as it should have been, or ``None`` to leave it.
        """


class IMail(Interface):
    """A transaction begins (RFC 5321, 3.3)."""

    def mail(transaction: Transaction, reverse_path: Address) -> Answer:
        """Decide whether mail with a reverse-path is taken.

        :param transaction: Has no recipients yet.
        :param reverse_path: Where bounces go; ``NULL_PATH`` for a bounce.

        :returns: ``deny`` answers 550 and ``defer`` 450, and the transaction is over; ``OK``,
            also when none answers, goes on.
        """


class IRcptParse(Interface):
    """The client gives RCPT; its argument is still text."""

    def rcpt_parse(transaction: Transaction, argument: str) -> Rcpt | Reply | None:
        """Read the argument in place of the built-in parser; see :class:`IMailParse`."""


class IRcptPre(Interface):
    """The client gives RCPT; the path is separated from its parameters and still text."""

    def rcpt_pre(transaction: Transaction, path: str, parameters: Parameters) -> str | None:
        """Rewrite a forward-path before it is read; see :class:`IMailPre`."""


class IRcpt(Interface):
    """The client names a recipient (RFC 5321, 3.3).

    Asked once for each RCPT whose forward-path parsed, in the order the client sent
    them, and not at all for one that goes over a limit.
    """

    def rcpt(transaction: Transaction, recipient: Address) -> Answer:
        """Decide whether mail for one recipient is taken.

        :param transaction: Its recipients are those accepted so far.
        :param recipient: The forward-path. ``<Postmaster>`` comes without a domain
            (RFC 5321, 4.5.1).

        :returns: ``OK`` adds the recipient to the envelope; ``deny`` answers 550 and ``defer``
            450 for this recipient alone. When none answers, the client is told 450 and may
            try again.
        """


class IData(Interface):
    """The client wants to send the message, with DATA or the first BDAT."""

    def data(transaction: Transaction) -> Answer:
        """Decide whether to receive the message.

        :returns: ``deny`` answers 554 and ``defer`` 451, and the transaction is over; ``OK``,
            also when none answers, lets the client go on.
        """


class IContent(Interface):
    """The message arrives. This hook is ours; it is how a scanner works on a stream.

    Octets come as they will be stored, dot-stuffing undone, cut anywhere. What was refused
    by a limit does not come.
    """

    def content(transaction: Transaction, chunk: bytes) -> Answer:
        """Take more of the message.

        :returns: ``deny`` and ``defer`` refuse the message; the rest of it is not stored, and
            the client is told at the end of data. An awaitable holds the client back
            until it is done.
        """


class IDataHeadersEnd(Interface):
    """The header section is complete, and the body is still being sent."""

    def data_headers_end(transaction: Transaction) -> Answer:
        """Look at the header section early.

        :returns: ``deny`` and ``defer`` with ``disconnect`` answer 554 or 421 and close at
            once; without it they refuse the message at the end of data.
        """


class IDataPostHeaders(Interface):
    """A notice: the message is complete; trace fields are not added yet."""

    def data_post_headers(transaction: Transaction) -> Awaitable[None] | None:
        """Add or change header fields that content filters should see."""


class IReceivedLine(Interface):
    """The Received field is to be written (RFC 5321, 4.4)."""

    def received_line(
        transaction: Transaction, protocol: str, auth: str, tls: str
    ) -> str | Awaitable[str | None] | None:
        """Write the field's value in place of the default.

        :param protocol: ``SMTP``, ``ESMTP``, ``ESMTPSA``, ``UTF8SMTPS``, ``LMTP``, ... (RFC 3848;
            RFC 6531, 4.3).
        :param auth: ``(smtp-auth username U, mechanism M)`` or nothing.
        :param tls: ``(VERSION CIPHER encrypted)`` or nothing.

        :returns: The value, with newlines where it is folded.
        """


class IDataPost(Interface):
    """The message is complete (RFC 5321, 4.1.1.4)."""

    def data_post(transaction: Transaction) -> Answer:
        """Decide whether to take the message.

        The Received field is there. The Authentication-Results field is written afterwards, with
        what components add to it here; see :func:`qpsmtpd.policy.add_auth_result`.

        :returns: ``deny`` answers 552 and ``defer`` 452, and the transaction is over; ``OK``
            keeps later components from being asked, and the message goes to the queue.
        """


class IQueuePre(Interface):
    """The message is about to be queued."""

    def queue_pre(transaction: Transaction) -> Answer:
        """Decide whether to queue; the verdicts mean what they mean at ``queue``.

        :returns: ``OK``, also when none answers, goes on to ``queue``.
        """


class IQueue(Interface):
    """The message is to be queued, for good."""

    def queue(transaction: Transaction) -> Answer:
        """Take the message, so that it survives a crash.

        :returns: ``OK`` answers 250: the message is on stable storage or accepted by the
            next server. ``deny`` answers 552 and ``defer`` 452. When none answers, 451.
        """


class IQueuePost(Interface):
    """A notice: the message was queued, and the client was told."""

    def queue_post(transaction: Transaction) -> Awaitable[None] | None:
        """Do what has to follow a message that was taken."""


class IResetTransaction(Interface):
    """A notice: a transaction is over, whatever its end was."""

    def reset_transaction(transaction: Transaction) -> Awaitable[None] | None:
        """Forget a transaction. It is still as it was."""


class IVrfy(Interface):
    """The client asks about a user (RFC 5321, 3.5)."""

    def vrfy(session: Session, argument: str) -> Answer:
        """Say something about a user.

        :returns: ``OK`` answers 250, ``deny`` 554, ``defer`` 450; when none answers, 252.
        """


class INoop(Interface):
    """The client gives NOOP (RFC 5321, 4.1.1.9)."""

    def noop(session: Session, argument: str) -> Answer:
        """Answer NOOP.

        :returns: ``deny`` answers 500, ``defer`` 450; ``OK``, also when none answers, 250.
        """


class IHelp(Interface):
    """The client asks for help (RFC 5321, 4.1.1.8)."""

    def help(session: Session, argument: str) -> Answer:
        """Answer HELP.

        :returns: ``OK`` with a text answers 214 with it, ``deny`` 500, ``defer`` 450; when none
            answers, 214 with the server's own text.
        """


class IUnrecognizedCommand(Interface):
    """The client gives a command that SMTP does not know."""

    def unrecognized_command(session: Session, verb: str, argument: str) -> Answer:
        """Answer a command of one's own, or count.

        :param verb: In lower case.
        :param argument: The rest of the line.

        :returns: ``answer(Reply(...))`` answers it; ``deny`` answers 500, and 521 with
            ``disconnect``; when none answers, 500.
        """


class IQuit(Interface):
    """The client says goodbye (RFC 5321, 4.1.1.10)."""

    def quit(session: Session) -> Answer:
        """Say goodbye.

        :returns: A verdict's text stands in the 221; the connection closes whatever it is.
        """


class IDisconnect(Interface):
    """A notice: the session is over, by QUIT, by the server, or because the client went."""

    def disconnect(session: Session) -> Awaitable[None] | None:
        """Forget a session."""


class IPostConnection(Interface):
    """A notice: the last of a session."""

    def post_connection(session: Session) -> Awaitable[None] | None:
        """Forget a connection."""


class IDeny(Interface):
    """A notice: another component has refused."""

    def deny(scope: Session | Transaction, component: str, hook: str, verdict: Verdict) -> None:
        """Learn of a refusal.

        :param component: The name of the component that refused.
        """


class IOk(Interface):
    """A notice: another component was asked and did not refuse."""

    def ok(
        scope: Session | Transaction, component: str, hook: str, verdict: Verdict | None
    ) -> None:
        """Learn of an answer that is no refusal; ``None`` is a component that declined."""


class Hook(NamedTuple):
    """What the chain has to know of a hook.

    :ivar name: The hook's name, and its method's.
    :ivar interface: Its interface.
    :ivar answers: The types it may be answered with; none for a notice.
    """

    name: str
    interface: InterfaceClass
    answers: tuple[type, ...]

    @property
    def notice(self) -> bool:
        """Whether every component is told and no answer counts."""
        return not self.answers


_DECISION: Final = (Verdict,)

#: All hooks by name, in the order of a session.
HOOKS: Final[dict[str, Hook]] = {
    hook.name: hook
    for hook in (
        Hook("post_fork", IPostFork, ()),
        Hook("logging", ILogging, ()),
        Hook("config", IConfig, (list, tuple)),
        Hook("user_config", IUserConfig, (list, tuple)),
        Hook("pre_connection", IPreConnection, _DECISION),
        Hook("connect", IConnect, _DECISION),
        Hook("ehlo_parse", IEhloParse, (Ehlo, Reply)),
        Hook("ehlo", IEhlo, _DECISION),
        Hook("helo_parse", IHeloParse, (Helo, Reply)),
        Hook("helo", IHelo, _DECISION),
        Hook("auth_parse", IAuthParse, (str, Reply)),
        Hook("auth_plain", IAuthPlain, _DECISION),
        Hook("auth_login", IAuthLogin, _DECISION),
        Hook("auth_cram_md5", IAuthCramMD5, _DECISION),
        Hook("auth", IAuth, _DECISION),
        Hook("mail_parse", IMailParse, (Mail, Reply)),
        Hook("mail_pre", IMailPre, (str,)),
        Hook("mail", IMail, _DECISION),
        Hook("rcpt_parse", IRcptParse, (Rcpt, Reply)),
        Hook("rcpt_pre", IRcptPre, (str,)),
        Hook("rcpt", IRcpt, _DECISION),
        Hook("data", IData, _DECISION),
        Hook("content", IContent, _DECISION),
        Hook("data_headers_end", IDataHeadersEnd, _DECISION),
        Hook("data_post_headers", IDataPostHeaders, ()),
        Hook("received_line", IReceivedLine, (str,)),
        Hook("data_post", IDataPost, _DECISION),
        Hook("queue_pre", IQueuePre, _DECISION),
        Hook("queue", IQueue, _DECISION),
        Hook("queue_post", IQueuePost, ()),
        Hook("reset_transaction", IResetTransaction, ()),
        Hook("vrfy", IVrfy, _DECISION),
        Hook("noop", INoop, _DECISION),
        Hook("help", IHelp, _DECISION),
        Hook("unrecognized_command", IUnrecognizedCommand, _DECISION),
        Hook("quit", IQuit, _DECISION),
        Hook("disconnect", IDisconnect, ()),
        Hook("post_connection", IPostConnection, ()),
        Hook("deny", IDeny, ()),
        Hook("ok", IOk, ()),
    )
}


# Middleware.


class Call:
    """One question, on its way through the chain.

    :ivar hook: The hook's name.
    :ivar arguments: What its method receives. Middleware may set others; whatever
        stands after it in the chain receives those.
    """

    __slots__ = ("arguments", "hook")

    def __init__(self, hook: str, arguments: tuple[Any, ...]) -> None:
        self.hook = hook
        self.arguments = arguments

    @property
    def scope(self) -> Session | Transaction:
        """The session or transaction that is asked about."""
        scope: Session | Transaction = self.arguments[0]
        return scope

    def __repr__(self) -> str:
        return f"<Call {self.hook}>"


#: Asks everything that stands after a middleware in the chain.
Proceed: TypeAlias = Callable[[], Awaitable[Any]]


class IMiddleware(Interface):
    """A component that wraps the rest of the chain, as in WSGI."""

    hooks = Attribute(
        "Names of the hooks it wraps, as a collection; ``None`` for every hook at which"
        " a component stands after it."
    )

    def __call__(call: Call, proceed: Proceed) -> Awaitable[Any]:
        """Answer a question, with or without asking the rest of the chain.

        :param call: The question.
        :param proceed: ``await proceed()`` asks everything that stands after this component,
            and gives its answer: a verdict, a value, or ``None``. It may be called again
            to ask again, or not at all.

        :returns: The answer to give in place of the rest of the chain.
        """


# What else a component may be.


class ILifecycle(Interface):
    """A component that opens things when its configuration comes into use."""

    def start() -> Awaitable[None] | None:
        """Open what the component needs. An error stops the start of the server."""

    def stop() -> Awaitable[None] | None:
        """Close it; the last session of this configuration has ended."""


class IPluginMaker(Interface):
    """Makes components out of lines of the ``plugins`` file."""

    name = Attribute("The name that a line of the ``plugins`` file begins with.")
    component = Attribute("The component's class, with its settings declared as data.")

    def make(settings: dict[str, Any]) -> object:
        """Build a component.

        :param settings: Values of its arguments, control files and services, by name,
            checked against their declarations.
        """
