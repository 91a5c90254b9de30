"""The order of all hooks along a session, whatever its end."""

from __future__ import annotations

from base64 import b64encode

from twisted.internet.defer import Deferred
from twisted.logger import formatEvent

from qpsmtpd.chain import NoVerdictError
from qpsmtpd.interfaces import HOOKS
from qpsmtpd.services.logs import LogService
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.testing import ComponentTestCase, Conversation
from qpsmtpd.verdicts import DONE, OK, answer, defer, deny
from tests.recorder import Recorder

PLAIN = "AUTH PLAIN " + b64encode(b"\0user\0secret").decode()
LOGIN = "AUTH LOGIN " + b64encode(b"user").decode()

#: Hooks that are asked for settings; tests.configuration.test_lookup has them.
SETTINGS = {"config", "user_config"}

#: Hooks that speak of others, whenever those are asked.
BESIDE = {"logging", "deny", "ok"}

#: What is asked in a session, in order; each line with the client's command.
SESSION: list[tuple[str, list[str]]] = [
    ("", ["pre_connection", "connect"]),
    ("HELO client.example", ["helo_parse", "helo"]),
    ("EHLO client.example", ["ehlo_parse", "ehlo"]),
    ("AUTH CRAM-MD5", ["auth_parse"]),
    (b64encode(b"user 00").decode(), ["auth_cram_md5", "auth"]),
    (LOGIN, ["auth_parse"]),
    (b64encode(b"secret").decode(), ["auth_login", "auth"]),
    (PLAIN, ["auth_parse", "auth_plain", "auth"]),
    ("MAIL FROM:<a@client.example>", ["mail_parse", "mail_pre", "mail"]),
    ("RCPT TO:<b@mail.example>", ["rcpt_parse", "rcpt_pre", "rcpt"]),
    ("RCPT TO:<c@mail.example>", ["rcpt_parse", "rcpt_pre", "rcpt"]),
    ("DATA", ["data"]),
    (
        "Subject: test\r\n\r\nwords\r\n.",
        [
            *("content", "data_headers_end", "content"),
            *("data_post_headers", "received_line", "data_post"),
            *("queue_pre", "queue", "queue_post", "reset_transaction"),
        ],
    ),
    ("VRFY b", ["vrfy"]),
    ("NOOP", ["noop"]),
    ("HELP", ["help"]),
    ("XYZZY", ["unrecognized_command"]),
    ("RSET", []),
    ("MAIL FROM:<a@client.example>", ["mail_parse", "mail_pre", "mail"]),
    ("RSET", ["reset_transaction"]),
    ("QUIT", ["quit", "disconnect", "post_connection"]),
]


class OrderTests(ComponentTestCase):
    def test_whole_session(self) -> None:
        """Each command asks at its hooks, in this order, and at no others."""
        guesses = iter([deny(), deny(), OK])
        everywhere = [name for name in HOOKS if name not in BESIDE]
        recorder = Recorder(*everywhere, auth=lambda *_: next(guesses), rcpt=OK, queue=OK)
        conversation = self.open(recorder, auth_delay=0)
        self.assertEqual(recorder.asked.pop(0), "post_fork")
        for line, hooks in SESSION:
            if hooks[:1] != ["pre_connection"]:
                conversation.send(line)
            asked, recorder.asked = recorder.asked, []
            self.assertEqual(asked, hooks, line)
        self.assertTrue(conversation.closed)

    def test_all_hooks(self) -> None:
        """There is no hook that a session never comes to."""
        reached = {hook for _, hooks in SESSION for hook in hooks}
        self.assertEqual(reached, set(HOOKS) - SETTINGS - BESIDE - {"post_fork"})

    def test_beside(self) -> None:
        """What one component says is told to those at `deny` and `ok`, and then to the log."""
        listener = Recorder("deny", "ok", "logging")
        conversation = self.open(Recorder(mail=deny("no")), listener)
        service = LogService.of(conversation.factory.generation.chain, 6)
        service.start()
        self.addCleanup(service.stop)
        conversation.greet()
        conversation.command("MAIL FROM:<a@client.example>")
        self.assertEqual(listener.asked[:2], ["deny", "logging"])
        [(_, _, hook, verdict)] = listener.calls["deny"]
        self.assertEqual((hook, verdict), ("mail", deny("no")))
        logged = [formatEvent(event) for _, event in listener.calls["logging"]]
        self.assertIn("deny mail from <a@client.example> (no)", logged)

    def test_post_fork(self) -> None:
        """Who begins to serve is told before anybody connects."""
        recorder = Recorder("post_fork", "pre_connection")
        self.open(recorder)
        self.assertEqual(recorder.asked, ["post_fork", "pre_connection"])


class EndTests(ComponentTestCase):
    """What is told at each end of a session with an open transaction."""

    NOTICES = ("quit", "reset_transaction", "disconnect", "post_connection")

    def asked(self, recorder: Recorder, data: bool = False) -> Conversation:
        conversation = self.open(recorder)
        conversation.envelope()
        if data:
            conversation.send("DATA")
            conversation.send("Subject: half")
        recorder.asked.clear()
        return conversation

    def test_quit(self) -> None:
        """QUIT: the session ends first, with its transaction still to be seen."""
        seen = []
        recorder = Recorder(
            *self.NOTICES, disconnect=lambda session: seen.append(session.transaction)
        )
        conversation = self.asked(recorder)
        transaction = conversation.transaction
        conversation.send("QUIT")
        self.assertEqual(
            recorder.asked, ["quit", "disconnect", "reset_transaction", "post_connection"]
        )
        self.assertEqual(seen, [transaction])

    def test_client_goes(self) -> None:
        """The client goes without a word: the transaction ends first; in a message, too."""
        for data in (False, True):
            recorder = Recorder(*self.NOTICES, "data_post", "queue")
            self.asked(recorder, data).lose()
            self.assertEqual(recorder.asked, ["reset_transaction", "disconnect", "post_connection"])

    def test_disconnecting_verdict(self) -> None:
        """A verdict that closes: reply, then as after QUIT."""
        recorder = Recorder(*self.NOTICES, noop=deny(disconnect=True))
        conversation = self.asked(recorder)
        self.assertReply(conversation.command("NOOP"), 500)
        self.assertEqual(
            recorder.asked, ["noop", "disconnect", "reset_transaction", "post_connection"]
        )

    def test_time_is_up(self) -> None:
        """A client that says nothing any more: as after QUIT, with a reply that ends in CR LF."""
        recorder = Recorder(*self.NOTICES)
        conversation = self.asked(recorder)
        self.clock.advance(301)
        self.assertReply(conversation.replies[-1], 421, "4.4.2")
        self.assertTrue(conversation.closed)
        self.assertEqual(recorder.asked, ["disconnect", "reset_transaction", "post_connection"])

    def test_waits_for_authentication(self) -> None:
        """Nor may it be silent in the middle of AUTH."""
        recorder = Recorder(*self.NOTICES, auth=OK)
        conversation = self.open(recorder)
        conversation.greet()
        conversation.send("AUTH LOGIN")
        self.clock.advance(301)
        self.assertReply(conversation.replies[-1], 421, "4.4.2")
        self.assertEqual(recorder.asked, ["disconnect", "post_connection"])

    def test_turned_away(self) -> None:
        """A client that `pre_connection` or `connect` refuses has an end like any other."""
        for hook in ("pre_connection", "connect"):
            for verdict in (deny(), answer(Reply(421, "not now"))):
                recorder = Recorder(*self.NOTICES, **{hook: verdict})
                self.assertTrue(self.open(recorder).closed)
                self.assertEqual(recorder.asked, [hook, "disconnect", "post_connection"])

    def test_server_stops(self) -> None:
        """The server stops: as after QUIT."""
        recorder = Recorder(*self.NOTICES)
        conversation = self.asked(recorder)
        stopped = Deferred.fromCoroutine(conversation.factory.stop())
        self.successResultOf(stopped)
        self.assertEqual(recorder.asked, ["disconnect", "reset_transaction", "post_connection"])


class OneReplyTests(ComponentTestCase):
    """Whatever components say, each command has one reply."""

    def replies(self, recorder: Recorder, *lines: str) -> list[int]:
        """The codes of the replies to lines, the last of which is NOOP."""
        conversation = self.open(recorder)
        conversation.new_replies.clear()
        for line in (*lines, "NOOP"):
            conversation.send(line)
        return [reply.code for reply in conversation.replies[1:]]

    def test_greeting(self) -> None:
        """A greeting that is refused, or that a component answers, is answered once."""
        for verb in ("EHLO", "HELO"):
            for verdict, code in (
                (deny(), 550),
                (defer(), 450),
                (deny("no"), 550),
                (answer(Reply(250, "hi")), 250),
                (DONE, 451),
            ):
                recorder = Recorder(**{verb.lower(): verdict})
                self.assertEqual(self.replies(recorder, f"{verb} a.example"), [code, 250])

    def test_unrecognized(self) -> None:
        """So is a command that nobody knows, with a text or without."""
        for verdict in (deny(), deny("no"), None, OK):
            recorder = Recorder(unrecognized_command=verdict)
            self.assertEqual(self.replies(recorder, "XYZZY"), [500, 250])

    def test_message(self) -> None:
        """So is a message, and its transaction is over whatever happened."""
        for hook in ("data_post", "queue_pre", "queue", "queue_post"):
            for verdict in (None, OK, DONE, deny(), defer(), 0, 1, 910, "text"):
                recorder = Recorder("queue_post", **{hook: verdict})
                conversation = self.open(recorder)
                reply = conversation.message()
                self.flushLoggedErrors(NoVerdictError)
                self.assertIn(reply.code, (250, 451, 452, 552), (hook, verdict))
                self.assertIsNone(conversation.transaction, (hook, verdict))
                conversation.send("NOOP")
                self.assertEqual([each.code for each in conversation.new_replies], [250])

    def test_arguments(self) -> None:
        """What stands behind a command is told to those that are asked about it."""
        hooks = ("vrfy", "noop", "help", "unrecognized_command")
        recorder = Recorder(*hooks)
        conversation = self.open(recorder)
        for line in ("VRFY a b", "NOOP a b", "HELP a b", "XYZZY a b"):
            conversation.command(line)
        said = [recorder.calls[hook][0][1:] for hook in hooks]
        self.assertEqual(said, [("a b",), ("a b",), ("a b",), ("xyzzy", "a b")])

    def test_asked_once(self) -> None:
        """Without a component that queues, too, each is asked once."""
        recorder = Recorder("connect", "ehlo", "mail", "rcpt", rcpt=OK)
        conversation = self.open(recorder, alone=True)
        conversation.envelope()
        self.assertEqual(recorder.asked, ["connect", "ehlo", "mail", "rcpt"])

    def test_others_go_on(self) -> None:
        """A client about which a component waits holds up nobody, before the greeting neither."""
        for hook in ("pre_connection", "connect"):
            waits: Deferred[None] = Deferred()
            answers = iter([waits, None])
            conversation = self.open(Recorder(**{hook: lambda *_, a=answers: next(a)}))
            other = self.join(conversation)
            self.assertReply(other.command("NOOP"), 250)
            self.assertEqual(conversation.replies, [])
            waits.callback(None)
            self.assertEqual([reply.code for reply in conversation.replies], [220])
