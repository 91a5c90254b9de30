"""Chains behind Twisted's own SMTP server, and what was written for that server in chains."""

from __future__ import annotations

import base64
import hmac
import smtplib
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.cred.checkers import (
    AllowAnonymousAccess,
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import IRealm, Portal
from twisted.internet import ssl
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Cooperator
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.mail import smtp
from twisted.mail.imap4 import PLAINCredentials
from twisted.mail.interfaces import IMessageDelivery, IMessageDeliveryFactory, IMessageSMTP
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from qpsmtpd.chain import Chain
from qpsmtpd.interfaces import (
    IConnect,
    IContent,
    IData,
    IDataPost,
    IDisconnect,
    IEhlo,
    IMail,
    IQueue,
    IQueuePost,
    IRcpt,
    IResetTransaction,
)
from qpsmtpd.server import delivery as edges
from qpsmtpd.server.delivery import AVATAR, ChainDelivery, ChainRealm, MessageDelivery, PortalAuth
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.session import Session, Transaction
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.address import Address
from qpsmtpd.smtp.limits import BareNewlines, Limits
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.testing.cases import AcceptRecipients, ComponentTestCase, MemoryQueue
from qpsmtpd.testing.client import Conversation
from qpsmtpd.verdicts import DONE, OK, Verdict, accept, answer, defer, deny

SETTINGS = Settings(me="mail.example")
GONE = Failure(ConnectionDone())

#: A hook's answer, or what makes it.
Answers = dict[str, Any]


@implementer(IConnect, IEhlo, IMail, IRcpt, IData, IContent, IDataPost, IQueue)
class Says:
    """Answers each hook as told, and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []

    def _answer(self, hook: str, scope: Any, subject: Any = None) -> Any:
        self.asked.append((hook, subject))
        return self.answers.get(hook)

    def connect(self, session: Session) -> Any:
        return self._answer("connect", session, session.remote_ip)

    def ehlo(self, session: Session, host: str) -> Any:
        return self._answer("ehlo", session, host)

    def mail(self, transaction: Transaction, reverse_path: Address) -> Any:
        return self._answer("mail", transaction, str(reverse_path))

    def rcpt(self, transaction: Transaction, recipient: Address) -> Any:
        return self._answer("rcpt", transaction, str(recipient))

    def data(self, transaction: Transaction) -> Any:
        return self._answer("data", transaction)

    def content(self, transaction: Transaction, chunk: bytes) -> Any:
        return self._answer("content", transaction, chunk)

    def data_post(self, transaction: Transaction) -> Any:
        return self._answer("data_post", transaction)

    def queue(self, transaction: Transaction) -> Any:
        return self._answer("queue", transaction)

    @property
    def hooks(self) -> list[str]:
        return [hook for hook, _ in self.asked]


@implementer(IDisconnect, IResetTransaction, IQueuePost)
class Ends:
    """Remembers which things ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.sessions: list[Session] = []

    def disconnect(self, session: Session) -> None:
        self.ended.append("disconnect")
        self.sessions.append(session)

    def reset_transaction(self, transaction: Transaction) -> None:
        self.ended.append("reset_transaction")

    def queue_post(self, transaction: Transaction) -> None:
        self.ended.append("queue_post")


def _append(things: list[str], thing: str, _: object) -> None:
    things.append(thing)


class Stock:
    """Twisted's server with a chain behind it, in memory."""

    def __init__(
        self,
        *components: object,
        settings: Settings = SETTINGS,
        peer: Any = IPv4Address("TCP", "192.0.2.1", 40000),  # noqa: B008
    ) -> None:
        self.queue = MemoryQueue()
        chain = Chain([*components, AcceptRecipients(), self.queue])
        users = InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret")
        portal = Portal(ChainRealm(chain, settings), [AllowAnonymousAccess(), users])
        factory = smtp.SMTPFactory(portal)
        factory.protocol = partial(smtp.ESMTP, {b"PLAIN": PLAINCredentials})  # type: ignore[assignment]
        factory.domain = b"stock.example"
        self.protocol = factory.buildProtocol(None)
        self.protocol.timeout = None
        self.transport = StringTransport(peerAddress=peer)
        self.protocol.makeConnection(self.transport)
        self.transport.clear()

    def say(self, *lines: str) -> list[str]:
        """Send lines, and give what the server answers."""
        self.transport.clear()
        self.protocol.dataReceived("".join(line + "\r\n" for line in lines).encode("latin-1"))
        return self.heard

    @property
    def heard(self) -> list[str]:
        octets: bytes = self.transport.value()
        return octets.decode("latin-1").splitlines()

    def envelope(self, *recipients: str) -> list[str]:
        self.say("EHLO client.example")
        replies = self.say("MAIL FROM:<a@client.example>")
        for recipient in recipients or ("b@mail.example",):
            replies += self.say(f"RCPT TO:<{recipient}>")
        return replies

    def message(self, *content: str) -> list[str]:
        self.envelope()
        return self.say("DATA", *(content or ("Subject: a", "", "b")), ".")

    def lose(self) -> None:
        self.protocol.connectionLost(GONE)


class ChainDeliveryTests(SynchronousTestCase):
    def flush(self) -> None:
        """Twisted's server logs each refused message as an error."""
        self.assertEqual(len(self.flushLoggedErrors(smtp.SMTPServerError)), 1)

    def test_message(self) -> None:
        """A message goes through the chain once, for all its recipients."""
        says = Says()
        stock = Stock(says)
        stock.envelope("b@mail.example", "c@mail.example")
        replies = stock.say("DATA", "Subject: a", "", "..b", ".")
        self.assertEqual(replies, ["354 Continue", "250 2.0.0 Queued"])
        (queued,) = stock.queue.messages
        self.assertEqual(str(queued.reverse_path), "<a@client.example>")
        self.assertEqual(
            [str(each) for each in queued.recipients], ["<b@mail.example>", "<c@mail.example>"]
        )
        self.assertEqual(queued.content, b"Subject: a\r\n\r\n.b\r\n")
        self.assertEqual(
            says.asked,
            [
                ("connect", "192.0.2.1"),
                ("ehlo", "client.example"),
                ("mail", "<a@client.example>"),
                ("rcpt", "<b@mail.example>"),
                ("rcpt", "<c@mail.example>"),
                ("data", None),
                ("content", b"Subject: a\r\n\r\n.b\r\n"),
                ("data_post", None),
                ("queue", None),
            ],
        )

    def test_received(self) -> None:
        """The message gets one Received field, ours."""
        stock = Stock()
        stock.message()
        octets = stock.queue.messages[0].octets
        self.assertEqual(octets.count(b"Received:"), 1)
        self.assertIn(b"from Unknown (HELO client.example) (192.0.2.1)\r\n by mail.example", octets)
        self.assertIn(b" with ESMTP ", octets)

    def test_no_header_section(self) -> None:
        """A message without a header section keeps all of its text."""
        stock = Stock()
        stock.message("only text")
        self.assertEqual(stock.queue.messages[0].content, b"\r\nonly text\r\n")

    def test_refused_command(self) -> None:
        """A verdict's code, enhanced status code and text reach the client."""
        for hook, verdict, line in (
            ("mail", deny("no mail from you", "5.7.1"), "550 5.7.1 no mail from you"),
            ("mail", defer(), "450 4.7.1 <a@client.example>, temporarily denied"),
            ("rcpt", deny("nobody here", "5.1.1", code=553), "553 5.1.1 nobody here"),
            ("rcpt", defer("come back"), "450 4.7.1 come back"),
            ("ehlo", deny(), "550 5.7.1 client.example, not welcome here"),
            ("rcpt", answer(Reply(252, "who knows", "2.1.5")), "252 2.1.5 who knows"),
        ):
            replies = Stock(Says(**{hook: verdict})).envelope()
            self.assertIn(line, replies)

    def test_several_lines(self) -> None:
        """A text of several lines becomes a reply of several lines."""
        replies = Stock(Says(rcpt=deny("one\ntwo", "5.7.1"))).envelope()
        self.assertEqual(replies[-2:], ["550-5.7.1 one", "550 5.7.1 two"])

    def test_done(self) -> None:
        """A component that has replied itself is taken at its word."""

        @implementer(IRcpt)
        class Replies:
            def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict:
                transaction.session.reply(Reply(551, "elsewhere", "5.1.6"))
                return DONE

        self.assertEqual(Stock(Replies()).envelope()[-1], "551 5.1.6 elsewhere")

    def test_refused_data(self) -> None:
        """A refusal of DATA is said before the message is sent, and the transaction is over."""
        stock = Stock(Says(data=defer("not now", "4.2.0")), ends := Ends())
        stock.envelope("b@mail.example", "c@mail.example")
        self.assertEqual(stock.say("DATA"), ["451 4.2.0 not now"])
        self.assertEqual(ends.ended, ["reset_transaction"])
        self.assertEqual(stock.say("NOOP"), ["500 Command not implemented"])

    def test_refused_message(self) -> None:
        """A message is refused with the verdict's own code: what is temporary stays temporary."""
        for hook, verdict, line in (
            ("data_post", deny("a virus", "5.7.1"), "552 5.7.1 a virus"),
            ("data_post", defer("greylisted", "4.7.1"), "452 4.7.1 greylisted"),
            ("content", deny("a virus"), "554 5.7.1 a virus"),
            ("queue", defer("disk full", "4.3.1"), "452 4.3.1 disk full"),
        ):
            ends = Ends()
            stock = Stock(Says(**{hook: verdict}), ends)
            stock.envelope("b@mail.example", "c@mail.example")
            replies = stock.say("DATA", "Subject: a", "", "b", ".")
            self.assertEqual(replies, ["354 Continue", line])
            self.assertEqual(stock.queue.messages, [])
            self.assertEqual(ends.ended, ["reset_transaction"])
            self.assertEqual(len(self.flushLoggedErrors(smtp.SMTPServerError)), 2)
            self.assertEqual(stock.say("RSET"), ["250 I remember nothing."])

    def test_not_queued(self) -> None:
        """A message that no component takes comes back later."""
        chain = Chain([AcceptRecipients()])
        stock = Stock()
        stock.protocol.portal = Portal(ChainRealm(chain, SETTINGS), [AllowAnonymousAccess()])
        self.assertEqual(
            stock.message()[-1], "451 4.3.0 Queuing declined or disabled; try again later"
        )
        self.flush()

    def test_undecided_recipient(self) -> None:
        """A recipient that no component takes is refused for now."""
        stock = Stock()
        stock.protocol.portal = Portal(ChainRealm(Chain([]), SETTINGS), [AllowAnonymousAccess()])
        self.assertEqual(stock.envelope()[-1], "450 4.7.1 No plugin decided if relaying is allowed")

    def test_text_of_success(self) -> None:
        """What a queue says about a message it took reaches the client."""
        stock = Stock(Says(queue=accept("Queued as 17", "2.6.0")))
        self.assertEqual(stock.message()[-1], "250 2.6.0 Queued as 17")
        self.assertEqual(stock.message()[-1], "250 2.6.0 Queued as 17")

    def test_waiting(self) -> None:
        """A component may wait at any hook, and the client waits with it."""
        for hook, lines, verdict, line in (
            ("connect", ("MAIL FROM:<a@client.example>",), None, "250 Sender address accepted"),
            ("mail", ("MAIL FROM:<a@client.example>",), None, "250 Sender address accepted"),
            ("rcpt", ("RCPT TO:<b@mail.example>",), OK, "250 Recipient address accepted"),
            ("content", ("DATA", "a: b", "."), None, "250 2.0.0 Queued"),
            ("data", ("DATA", "a: b", "."), None, "250 2.0.0 Queued"),
            ("queue", ("DATA", "a: b", "."), accept("yes", "2.0.0"), "250 2.0.0 yes"),
        ):
            waiting: Deferred[Verdict | None] = Deferred()
            stock = Stock(Says(**{hook: waiting}))
            stock.say("EHLO client.example")
            if lines[0] != "MAIL FROM:<a@client.example>":
                stock.say("MAIL FROM:<a@client.example>")
                if lines[0] == "DATA":
                    stock.say("RCPT TO:<b@mail.example>")
            self.assertNotIn(line, stock.say(*lines), hook)
            waiting.callback(verdict)
            self.assertEqual(stock.heard[-1], line, hook)

    def test_waits_and_refuses(self) -> None:
        """A late refusal of DATA or of content refuses the message at its end."""
        for hook in ("data", "content"):
            waiting: Deferred[Verdict | None] = Deferred()
            stock = Stock(Says(**{hook: waiting}))
            stock.message()
            waiting.callback(defer("late", "4.7.1"))
            self.assertEqual(stock.heard, ["354 Continue", "451 4.7.1 late"])
            self.assertEqual(stock.queue.messages, [])
            self.flush()

    def test_one_at_a_time(self) -> None:
        """The next transaction does not begin before the message was decided about."""
        waiting: Deferred[Verdict | None] = Deferred()
        stock = Stock(says := Says(queue=waiting))
        stock.message()
        stock.say("MAIL FROM:<second@client.example>")
        self.assertEqual(says.hooks.count("mail"), 1)
        waiting.callback(None)
        self.assertEqual(stock.heard, ["250 2.0.0 Queued", "250 Sender address accepted"])
        self.assertEqual(says.hooks.count("mail"), 2)

    def test_welcome_is_not_evaded(self) -> None:
        """A second MAIL does not get by while it is still decided about the client."""
        waiting: Deferred[Verdict | None] = Deferred()
        stock = Stock(Says(connect=waiting))
        stock.say("EHLO client.example")
        self.assertEqual(stock.say("MAIL FROM:<a@client.example>", "MAIL FROM:<>"), [])
        waiting.callback(deny("go away"))
        self.assertEqual(stock.heard, ["554 5.7.1 go away"] * 2)

    def test_disconnect(self) -> None:
        """A refusal that should close the connection refuses all that follows."""
        stock = Stock(says := Says(rcpt=deny("enough", "5.7.1", disconnect=True)))
        self.assertEqual(stock.envelope()[-1], "550 5.7.1 enough")
        self.assertEqual(stock.say("RCPT TO:<c@mail.example>"), ["550 5.7.1 enough"])
        self.assertEqual(stock.say("RSET", "MAIL FROM:<>")[-1], "550 5.7.1 enough")
        self.assertEqual(says.hooks.count("rcpt"), 1)

    def test_greets_again(self) -> None:
        """A client that greets with another name is asked about again."""
        stock = Stock(says := Says())
        stock.envelope()
        stock.say("EHLO client.example", "MAIL FROM:<>")
        stock.say("HELO other.example", "MAIL FROM:<>")
        self.assertEqual(
            [subject for hook, subject in says.asked if hook == "ehlo"],
            ["client.example", "other.example"],
        )
        self.assertEqual(says.hooks.count("connect"), 1)

    def test_not_greeted(self) -> None:
        """Twisted's server lets a client begin without a greeting."""
        stock = Stock(says := Says())
        self.assertEqual(stock.say("MAIL FROM:<>"), ["250 Sender address accepted"])
        self.assertEqual(says.asked, [("connect", "192.0.2.1"), ("mail", "<>")])

    def test_no_address(self) -> None:
        """A client on a UNIX socket has no address."""
        stock = Stock(says := Says(), peer=UNIXAddress(b"/run/smtp"))
        stock.say("HELO client.example")
        stock.say("MAIL FROM:<>")
        self.assertEqual(says.asked[0], ("connect", ""))

    def test_malformed_address(self) -> None:
        """An address that Twisted takes and RFC 5321 does not is refused."""
        stock = Stock()
        (reply,) = stock.say("MAIL FROM:<a@client_.example>")
        self.assertTrue(reply.startswith("553 5.1.3 Not an address: "), reply)

    def test_limits(self) -> None:
        """Messages and recipients are limited by the settings."""
        limits = Limits(message_size=30, recipients=1)
        stock = Stock(settings=Settings(me="mail.example", limits=limits))
        replies = stock.envelope("b@mail.example", "c@mail.example")
        self.assertEqual(replies[-1], "452 4.5.3 Too many recipients")
        self.assertEqual(
            stock.say("DATA", "a: b", "", "x" * 30, "more", ".")[-1], "552 5.3.4 Message too big"
        )
        self.assertEqual(stock.message("a: b", "", "x" * 20)[-1], "250 2.0.0 Queued")

    def test_header_limit(self) -> None:
        """So is the header section; and in one that may be large, nothing can be hidden."""
        for limit in (1_200_000, 0):
            limits = Limits(header_size=limit)
            settings = Settings(me="mail.example", authserv_id="mail.example", limits=limits)
            stock = Stock(settings=settings)
            forged = "Authentication-Results: mail.example; spf=pass"
            stock.message(*["X: " + "x" * 900] * 1200, forged, "", "x")
            self.assertNotIn(b"spf=pass", stock.queue.messages[0].content)
        stock = Stock(settings=Settings(me="mail.example", limits=Limits(header_size=30)))
        stock.envelope("b@mail.example")
        replies = stock.say("DATA", "a: b", "c: " + "d" * 30, "", "x", ".")
        self.assertEqual(replies[-1], "552 5.3.4 Header section too big")
        self.assertEqual(stock.message("a: b", "", "x" * 30)[-1], "250 2.0.0 Queued")

    def test_bare_newlines(self) -> None:
        """A bare CR or LF is refused, replaced or kept, as the settings say."""
        for policy, reply, content in (
            (BareNewlines.REJECT, "550 5.6.0", None),
            (BareNewlines.REPLACE, "250", b"a: b\r\n\r\nx\r\ny\r\nz\r\n"),
            (BareNewlines.KEEP, "250", b"a: b\r\n\r\nx\ny\rz\r\n"),
        ):
            limits = Limits(bare_newlines=policy)
            stock = Stock(settings=Settings(me="mail.example", limits=limits))
            self.assertTrue(stock.message("a: b", "", "x\ny\rz")[-1].startswith(reply))
            self.assertEqual(
                [each.content for each in stock.queue.messages], [content] * bool(content)
            )

    def test_long_message(self) -> None:
        """A long message lies in a file, and the chain is shown each octet once as it comes."""
        stock = Stock(says := Says(), settings=Settings(me="mail.example", size_threshold=100_000))
        lines = [f"{number:060}" for number in range(5000)]
        stock.envelope()
        stock.say("DATA", "Subject: long", "", *lines)
        self.assertGreater(says.hooks.count("content"), 2)
        stock.say(".")
        self.assertEqual(stock.heard, ["250 2.0.0 Queued"])
        content = "\r\n".join(["Subject: long", "", *lines, ""]).encode()
        self.assertEqual(stock.queue.messages[0].content, content)
        chunks = [subject for hook, subject in says.asked if hook == "content"]
        self.assertEqual(b"".join(chunks), content)

    def test_long_message_and_slow_scanner(self) -> None:
        """What comes while a scanner thinks is shown to it later, each octet once."""
        waiting: Deferred[Verdict | None] = Deferred()
        stock = Stock(says := Says(content=waiting))
        lines = [f"{number:060}" for number in range(5000)]
        stock.message("Subject: long", "", *lines)
        self.assertEqual(says.hooks.count("content"), 1)
        says.answers.clear()
        waiting.callback(None)
        self.assertEqual(stock.heard[-1], "250 2.0.0 Queued")
        chunks = [subject for hook, subject in says.asked if hook == "content"]
        self.assertEqual(b"".join(chunks), "\r\n".join(["Subject: long", "", *lines, ""]).encode())

    def test_no_room(self) -> None:
        """A message that cannot be stored is refused for now."""
        stock = Stock(settings=Settings("mail.example", size_threshold=0, spool_dir="missing"))
        self.assertEqual(stock.message()[-1], "452 4.3.1 Insufficient system storage")
        self.flush()

    def test_faulty_component(self) -> None:
        """A component that fails costs this command a 451."""

        @implementer(IDataPost)
        class Faulty:
            def data_post(self, transaction: Transaction) -> Verdict:
                raise ZeroDivisionError

        stock = Stock(Faulty())
        self.assertEqual(stock.message()[-1], "451 4.3.0 Internal error, try again later")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.flush()

    def test_ends(self) -> None:
        """Each transaction and the session end once, and components are told."""
        stock = Stock(ends := Ends())
        stock.message()
        self.assertEqual(ends.ended, ["queue_post", "reset_transaction"])
        stock.envelope()
        stock.say("RSET")
        stock.say("MAIL FROM:<>")
        self.assertEqual(ends.ended[2:], ["reset_transaction"])
        stock.lose()
        self.assertEqual(ends.ended[3:], ["reset_transaction", "disconnect"])
        self.assertTrue(ends.sessions[0].ended)

    def test_gone_before_mail(self) -> None:
        """A client that never said MAIL was never a session."""
        stock = Stock(ends := Ends())
        stock.say("EHLO client.example")
        stock.lose()
        self.assertEqual(ends.ended, [])

    def test_gone_while_sending(self) -> None:
        """A message that was cut off is forgotten."""
        stock = Stock(ends := Ends())
        stock.envelope()
        stock.say("DATA", "Subject: a")
        stock.lose()
        self.assertEqual(ends.ended, ["reset_transaction", "disconnect"])
        self.assertEqual(stock.queue.messages, [])

    def test_gone_while_waiting(self) -> None:
        """What components wait for ends with the connection, at every hook."""
        for hook in ("connect", "mail", "rcpt", "data", "content", "data_post", "queue"):
            cancelled: list[str] = []
            waiting: Deferred[Verdict | None] = Deferred(partial(_append, cancelled, hook))
            stock = Stock(Says(**{hook: waiting}), ends := Ends())
            stock.message()
            stock.lose()
            self.assertEqual(cancelled, [hook])
            self.assertEqual(ends.ended[-1:], ["disconnect"], hook)
            self.assertLessEqual(ends.ended.count("reset_transaction"), 1)

    def test_authenticated(self) -> None:
        """Who has authenticated at Twisted's server may relay."""
        stock = Stock(ends := Ends())
        stock.say("EHLO client.example")
        response = base64.b64encode(b"\0alice\0secret").decode()
        self.assertEqual(stock.say(f"AUTH PLAIN {response}"), ["235 Authentication successful."])
        stock.say("MAIL FROM:<>")
        stock.lose()
        (session,) = ends.sessions
        self.assertEqual(session.auth_user, "alice")
        self.assertTrue(session.relay_client)

    def test_anonymous(self) -> None:
        """Who has not authenticated may not relay."""
        stock = Stock(ends := Ends())
        stock.say("MAIL FROM:<>")
        stock.lose()
        (session,) = ends.sessions
        self.assertIsNone(session.auth_user)
        self.assertFalse(session.relay_client)

    def test_without_portal(self) -> None:
        """A delivery serves a server without a portal; whoever made it ends it."""
        queue = MemoryQueue()
        delivery = ChainDelivery(Chain([AcceptRecipients(), queue, ends := Ends()]), SETTINGS)
        stock = Stock()
        stock.protocol.portal = None
        stock.protocol.delivery = delivery
        self.assertEqual(stock.message()[-1], "250 2.0.0 Queued")
        self.assertEqual(len(queue.messages), 1)
        delivery.end()
        delivery.end()
        self.assertEqual(ends.ended[2:], ["disconnect"])
        self.assertEqual(stock.say("MAIL FROM:<>"), ["421 4.4.2 The connection is gone"])

    def test_other_avatars(self) -> None:
        """The realm has nothing for protocols other than SMTP."""
        realm = ChainRealm(Chain([]))
        self.assertRaises(NotImplementedError, realm.requestAvatar, b"alice", None, IRealm)


class StockServerTests(TestCase):
    """Over real sockets."""

    async def listen(self, factory: Any) -> int:
        from twisted.internet import reactor

        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def stock(self, chain: Chain, *settings: Any) -> Any:
        """Twisted's server; the test waits for the ends of its connections."""
        factory = smtp.SMTPFactory(Portal(ChainRealm(chain, SETTINGS), [AllowAnonymousAccess()]))

        class Server(smtp.ESMTP):
            def connectionLost(server, reason: Failure = GONE) -> None:  # noqa: N805
                super().connectionLost(reason)
                self.ended.callback(None)

        self.ended: Deferred[None] = Deferred()
        factory.protocol = partial(Server, {}, *settings)  # type: ignore[assignment]
        return factory

    async def send(self, port: int, body: str, tls: bool = False) -> None:
        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example") as client:
                if tls:
                    client.starttls()
                to = ["b@mail.example", "c@mail.example"]
                client.sendmail("a@client.example", to, f"Subject: a\n\n{body}\n")

        await deferToThread(send)

    async def test_starttls(self) -> None:
        """A client that uses STARTTLS is seen to, and its message is traced with ESMTPS."""
        queue = MemoryQueue()
        certificate = ssl.KeyPair.generate(size=2048).selfSignedCert(1, CN=b"mail.example")
        chain = Chain([AcceptRecipients(), queue, ends := Ends()])
        port = await self.listen(self.stock(chain, certificate.options()))
        await self.send(port, ".b", tls=True)
        await self.ended
        (queued,) = queue.messages
        self.assertEqual(queued.content, b"Subject: a\r\n\r\n.b\r\n")
        self.assertIn(b" with ESMTPS ", queued.octets)
        self.assertEqual([each.local_part for each in queued.recipients], ["b", "c"])
        self.assertIsNotNone(ends.sessions[0].tls)

    async def test_both_ways(self) -> None:
        """A delivery is mounted in a chain, and that chain stands behind Twisted's server."""
        mailbox = Mailbox()
        port = await self.listen(self.stock(Chain([MessageDelivery(mailbox)])))
        await self.send(port, ".b")
        await self.ended
        self.assertEqual(len(mailbox.messages), 2)
        for message in mailbox.messages:
            self.assertEqual(message.lines[-3:], [b"Subject: a", b"", b".b"])

    async def test_our_server(self) -> None:
        """A long message reaches an application's delivery over our own server unchanged."""
        mailbox = Mailbox()
        factory = SMTPFactory([MessageDelivery(mailbox)], SETTINGS)
        port = await self.listen(factory)
        body = "\n".join(f"{number:060}" for number in range(20000))
        await self.send(port, body)
        await factory.stop(0)
        self.assertEqual(len(mailbox.messages), 2)
        for message in mailbox.messages:
            lines = message.lines[message.lines.index(b"") + 1 :]
            self.assertEqual(b"\n".join(lines).decode(), body)
            self.assertTrue(message.complete)


# Deliveries in chains.


@implementer(IMessageSMTP)
class Received:
    """A message of an application."""

    def __init__(self, user: Any, outcome: Callable[[], Any]) -> None:
        self.user = user
        self.lines: list[bytes] = []
        self.complete = False
        self.lost = 0
        self._outcome = outcome

    def lineReceived(self, line: bytes) -> None:
        self.lines.append(line)
        if line == b"X-Refuse: yes":
            raise smtp.SMTPServerError(554, b"5.6.0 no such field")

    def eomReceived(self) -> Any:
        self.complete = True
        return self._outcome()

    def connectionLost(self) -> None:
        self.lost += 1


@implementer(IMessageDelivery)
class Mailbox:
    """An application's delivery; answers as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.messages: list[Received] = []
        self.sender: Callable[[Any], Any] = lambda origin: origin
        self.recipient: Callable[[Any], Any] = lambda user: None
        self.outcome: Callable[[], Any] = lambda: succeed(None)
        self.header = b""

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return self.header

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        self.asked.append(("from", helo, str(origin)))
        return self.sender(origin)

    def validateTo(self, user: Any) -> Any:
        self.asked.append(("to", user.helo, str(user.orig), str(user.dest)))

        def make() -> Received:
            self.messages.append(Received(user, self.outcome))
            return self.messages[-1]

        waiting = self.recipient(user)
        return make if waiting is None else waiting.addCallback(lambda _: make)


@implementer(IMessageDeliveryFactory)
class Mailboxes:
    """Makes a delivery for each message."""

    def __init__(self) -> None:
        self.made: list[Mailbox] = []

    def getMessageDelivery(self) -> Mailbox:
        self.made.append(Mailbox())
        return self.made[-1]


def bad_sender(origin: Any) -> Any:
    raise smtp.SMTPBadSender(origin, 550, "no thanks")


def bad_recipient(user: Any) -> Any:
    raise smtp.SMTPBadRcpt(user, 450, "4.2.1 mailbox busy")


class MessageDeliveryTests(ComponentTestCase):
    completed = False
    settings = SETTINGS

    def setUp(self) -> None:
        self.mailbox = Mailbox()

    def test_message(self) -> None:
        """A delivery is asked as by Twisted's server, and gets the message line by line."""
        client = self.open(MessageDelivery(self.mailbox))
        reply = client.message("Subject: a\n\n.b\n", "a@client.example", "b@mail.example")
        self.assertReply(reply, 250, "2.0.0", "Queued")
        helo = (b"client.example", b"192.0.2.1")
        self.assertEqual(
            self.mailbox.asked,
            [
                ("from", helo, "a@client.example"),
                ("to", helo, "a@client.example", "b@mail.example"),
            ],
        )
        (message,) = self.mailbox.messages
        self.assertEqual(message.lines[-3:], [b"Subject: a", b"", b".b"])
        self.assertTrue(message.lines[0].startswith(b"Received: from "))
        self.assertTrue(message.complete)
        self.assertEqual(message.lost, 0)

    def test_received_header(self) -> None:
        """The delivery's own trace field comes first, as in Twisted's server."""
        self.mailbox.header = b"Received: by application.example"
        self.open(MessageDelivery(self.mailbox)).message()
        lines = self.mailbox.messages[0].lines
        self.assertEqual(lines[0], b"Received: by application.example")
        self.assertTrue(lines[1].startswith(b"Received: from "))

    def test_bounce(self) -> None:
        """The null reverse-path is the empty address."""
        self.open(MessageDelivery(self.mailbox)).message("a: b\n", "")
        self.assertEqual(self.mailbox.asked[0][2], "")
        self.assertEqual(len(self.mailbox.messages), 1)

    def test_factory(self) -> None:
        """A factory makes a delivery for each message."""
        mailboxes = Mailboxes()
        client = self.open(MessageDelivery(mailboxes))
        for _ in range(2):
            client.message("a: b\n", "a@client.example", "b@mail.example", "c@mail.example")
        self.assertEqual([len(each.messages) for each in mailboxes.made], [2, 2])

    def test_refused(self) -> None:
        """A delivery refuses a sender, a recipient, a message, with its own code and text."""
        self.mailbox.sender = bad_sender
        client = self.open(MessageDelivery(self.mailbox))
        self.assertReply(client.message(), 550, "5.7.1", "no thanks")
        self.mailbox.sender = lambda origin: origin
        self.mailbox.recipient = bad_recipient
        self.assertReply(client.message(), 450, "4.2.1", "mailbox busy")
        self.mailbox.recipient = lambda user: None
        self.mailbox.outcome = lambda: fail(smtp.SMTPServerError(452, "4.2.2 mailbox full"))
        self.assertReply(client.message(), 452, "4.2.2", "mailbox full")
        self.assertReply(client.message("X-Refuse: yes\n\n"), 554, "5.6.0", "no such field")
        self.assertEqual([each.lost for each in self.mailbox.messages], [0, 1])

    def test_fault(self) -> None:
        """A delivery that fails in any other way is logged, and the client comes back later."""
        self.mailbox.outcome = lambda: fail(ZeroDivisionError())
        client = self.open(MessageDelivery(self.mailbox))
        self.assertReply(client.message(), 451, "4.3.0")
        self.mailbox.sender = lambda origin: 1 // 0
        self.assertReply(client.message(), 451, "4.3.0")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_one_of_several_fails(self) -> None:
        """What is temporary for one recipient is for the message: it is not lost."""
        outcomes: list[Any] = [
            succeed(None),
            fail(smtp.SMTPServerError(550, "5.2.1 disabled")),
            fail(smtp.SMTPServerError(452, "4.2.2 full")),
        ]
        self.mailbox.outcome = lambda: outcomes.pop(0)
        client = self.open(MessageDelivery(self.mailbox))
        to = ("b@mail.example", "c@mail.example", "d@mail.example")
        self.assertReply(client.message("a: b\n", "a@client.example", *to), 452, "4.2.2", "full")

    def test_waiting(self) -> None:
        """A delivery may take its time for sender, recipient and message."""
        sender: Deferred[Any] = Deferred()
        recipient: Deferred[Any] = Deferred()
        outcome: Deferred[Any] = Deferred()
        self.mailbox.sender = lambda origin: sender
        self.mailbox.recipient = lambda user: recipient
        self.mailbox.outcome = lambda: outcome
        client = self.open(MessageDelivery(self.mailbox))
        client.greet()
        client.send("MAIL FROM:<a@client.example>", "RCPT TO:<b@mail.example>", "DATA")
        self.assertEqual(client.said, [])
        sender.callback(None)
        self.assertEqual([each.code for each in client.new_replies], [250])
        recipient.callback(None)
        self.assertEqual([each.code for each in client.new_replies], [250, 250, 354])
        client.send("a: b", ".")
        self.assertEqual(client.said, [])
        outcome.callback(None)
        self.assertReply(client.new_replies[0], 250, "2.0.0")

    def test_recipients_of_others(self) -> None:
        """A delivery is asked about sender and recipients that others accepted, too."""

        @implementer(IMail)
        class AcceptSenders:
            def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict:
                return OK

        chain = [AcceptSenders(), AcceptRecipients(), MessageDelivery(self.mailbox)]
        client = self.open(*chain)
        self.assertReply(client.message(), 250)
        self.assertEqual([each[0] for each in self.mailbox.asked], ["from", "to"])
        self.assertEqual(len(self.mailbox.messages), 1)
        self.mailbox.recipient = bad_recipient
        self.assertReply(client.message(), 450, "4.2.1")
        self.mailbox.sender = bad_sender
        self.assertReply(client.message(), 550, None, "no thanks")
        self.assertEqual(len(self.mailbox.messages), 1)

    def test_no_delivery(self) -> None:
        """Without a delivery, the next component is asked."""
        client = self.open(MessageDelivery(), AcceptRecipients(), self.queue)
        self.assertReply(client.message(), 250)
        self.assertEqual(len(self.queue.messages), 1)

    def test_not_ascii(self) -> None:
        """Twisted's addresses are ASCII; others are refused and not mangled."""
        client = self.open(MessageDelivery(self.mailbox))
        client.greet()
        reply = client.command("MAIL FROM:<\u00e4@client.example> SMTPUTF8")
        self.assertReply(reply, 553, "5.6.7")
        client.command("MAIL FROM:<a@client.example> SMTPUTF8")
        self.assertReply(client.command("RCPT TO:<\u00e4@mail.example>"), 553, "5.6.7")
        self.assertEqual(len(self.mailbox.asked), 1)

    def test_binary(self) -> None:
        """A message without lines (RFC 3030, 3) is refused: line by line it would be another."""
        client = self.open(MessageDelivery(self.mailbox))
        client.greet()
        reply = client.command("MAIL FROM:<a@client.example> BODY=BINARYMIME")
        self.assertReply(reply, 554, "5.6.1")
        self.assertReply(client.command("MAIL FROM:<a@client.example> BODY=8BITMIME"), 250)

    def test_who_is_asking(self) -> None:
        """A delivery can see from where and to where the client has connected."""
        self.open(MessageDelivery(self.mailbox)).message()
        transport = self.mailbox.messages[0].user.protocol.transport
        self.assertEqual(transport.getPeer().host, "192.0.2.1")
        self.assertEqual((transport.getHost().host, transport.getHost().port), ("192.0.2.25", 25))


class LongMessageTests(ComponentTestCase):
    """The reactor is not held up by a long message. Its turns are taken by hand here."""

    completed = False
    settings = SETTINGS

    def setUp(self) -> None:
        self.steps: list[Callable[[], None]] = []
        cooperator = Cooperator(lambda: lambda: True, self.schedule)
        self.patch(edges, "cooperate", cooperator.cooperate)
        self.mailbox = Mailbox()

    def schedule(self, step: Callable[[], None]) -> Any:
        self.steps.append(step)

        class Call:
            def cancel(call) -> None:  # noqa: N805
                self.steps.remove(step)

        return Call()

    def send(self) -> Conversation:
        client = self.open(MessageDelivery(self.mailbox))
        client.envelope()
        client.send("DATA")
        lines = [f"{number:060}" for number in range(10_000)]
        client.send("Subject: long", "", *lines, ".")
        return client

    def test_turns(self) -> None:
        """A long message is handed over in pieces, with turns for others in between."""
        client = self.send()
        (message,) = self.mailbox.messages
        turns = 0
        while self.steps:
            self.assertFalse(message.complete)
            self.assertTrue(client.waiting)
            before = len(message.lines)
            self.steps.pop(0)()
            self.assertLessEqual(len(message.lines) - before, 66_000 // 62)
            turns += 1
        self.assertGreater(turns, 9)
        self.assertTrue(message.complete)
        self.assertEqual(message.lines[-1], b"%060d" % 9999)
        self.assertReply(client.replies[-1], 250)

    def test_gone(self) -> None:
        """When the client goes, the rest is not handed over, and the message is discarded."""
        client = self.send()
        self.steps.pop(0)()
        client.lose()
        self.assertEqual(self.steps, [])
        (message,) = self.mailbox.messages
        self.assertEqual((message.complete, message.lost), (False, 1))


# Portals in chains.


@implementer(IRealm)
class Realm:
    """Gives users mailboxes, and remembers who is there."""

    def __init__(self) -> None:
        self.avatars: dict[bytes, Mailbox] = {}
        self.present: list[bytes] = []

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        self.present.append(avatarId)
        avatar = self.avatars.setdefault(avatarId, Mailbox())
        return IMessageDelivery, avatar, lambda: self.present.remove(avatarId)


@implementer(ICredentialsChecker)
class PasswordsOnly:
    """A checker that cannot judge digests, and takes its time."""

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815

    def __init__(self) -> None:
        self.cancelled = False
        self.waiting: Deferred[bytes | tuple[()]] = Deferred(self.cancel)

    def cancel(self, waiting: object) -> None:
        self.cancelled = True

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        return self.waiting


class PortalAuthTests(ComponentTestCase):
    settings = SETTINGS

    def setUp(self) -> None:
        self.realm = Realm()
        users = InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret")
        self.portal = Portal(self.realm, [users])

    def login(self, client: Conversation, password: str = "secret") -> Any:
        response = base64.b64encode(f"\0alice\0{password}".encode()).decode()
        return client.command(f"AUTH PLAIN {response}")

    def test_plain_and_login(self) -> None:
        """A password that the portal's checker knows is right, and no other is."""
        for password, code in (("secret", 235), ("wrong", 535)):
            client = self.open(PortalAuth(self.portal))
            client.greet()
            self.assertReply(self.login(client, password), code)
            self.assertEqual(client.session.relay_client, code == 235)
            client = self.open(PortalAuth(self.portal))
            client.greet()
            client.command("AUTH LOGIN YWxpY2U=")
            reply = client.command(base64.b64encode(password.encode()).decode())
            self.assertReply(reply, code)

    def test_cram_md5(self) -> None:
        """A digest is judged where the checker knows passwords in clear."""
        for password, code in ((b"secret", 235), (b"wrong", 535)):
            client = self.open(PortalAuth(self.portal))
            client.greet()
            challenge = base64.b64decode(client.command("AUTH CRAM-MD5").lines[0])
            digest = hmac.new(password, challenge, "md5").hexdigest()
            response = base64.b64encode(f"alice {digest}".encode()).decode()
            self.assertReply(client.command(response), code)

    def test_offer(self) -> None:
        """Only mechanisms that the portal can judge are offered."""
        offered = self.open(PortalAuth(self.portal)).greet().lines
        self.assertIn("AUTH PLAIN LOGIN CRAM-MD5", offered)
        portal = Portal(self.realm, [PasswordsOnly()])
        offered = self.open(PortalAuth(portal)).greet().lines
        self.assertIn("AUTH PLAIN LOGIN", offered)

    def test_others_know(self) -> None:
        """Whom the portal does not know, the next component may."""
        other = Portal(self.realm, [InMemoryUsernamePasswordDatabaseDontUse(alice=b"another")])
        client = self.open(PortalAuth(self.portal), PortalAuth(other))
        client.greet()
        self.assertReply(self.login(client, "another"), 235)

    def test_fault(self) -> None:
        """A checker that fails is no proof of anything, and the client comes back later."""
        checker = PasswordsOnly()
        client = self.open(PortalAuth(Portal(self.realm, [checker])))
        client.greet()
        client.send("AUTH PLAIN AGFsaWNlAHNlY3JldA==")
        self.assertEqual(client.said, [])
        checker.waiting.errback(ZeroDivisionError())
        self.assertReply(client.replies[-1], 451, "4.3.0")
        self.assertFalse(client.session.relay_client)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_gone(self) -> None:
        """A client that goes while it is judged is never logged in."""
        checker = PasswordsOnly()
        client = self.open(PortalAuth(Portal(self.realm, [checker])))
        client.greet()
        client.send("AUTH PLAIN AGFsaWNlAHNlY3JldA==")
        client.lose()
        self.assertTrue(checker.cancelled)
        self.assertEqual(self.realm.present, [])

    def test_avatar(self) -> None:
        """The avatar is a note of the session while it lasts, and then is logged out."""
        client = self.open(PortalAuth(self.portal))
        client.greet()
        self.login(client)
        self.assertIs(client.session.note(AVATAR), self.realm.avatars[b"alice"])
        self.assertEqual(self.realm.present, [b"alice"])
        client.lose()
        self.assertEqual(self.realm.present, [])

    def test_avatar_takes_mail(self) -> None:
        """Mail of a user goes through the user's own delivery, other mail does not."""
        everybody = Mailbox()
        chain = [PortalAuth(self.portal), MessageDelivery(everybody)]
        client = self.open(*chain)
        client.message("a: b\n")
        self.assertEqual(len(everybody.messages), 1)
        self.login(client)
        client.message("a: b\n")
        self.assertEqual(len(everybody.messages), 1)
        self.assertEqual(len(self.realm.avatars[b"alice"].messages), 1)
