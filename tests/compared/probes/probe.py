"""A component that answers a hook as the client's words say; the file ``perl`` is its twin."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from zope.interface import implementer

from qpsmtpd import interfaces
from qpsmtpd.component import PluginMaker, component
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.sasl import Credentials
from qpsmtpd.verdicts import Verdict, accept, answer, defer, deny

_REFUSALS: Final[dict[str, Callable[[str], Verdict]]] = {
    "deny": deny,
    "denysoft": defer,
    "deny-disconnect": lambda text: deny(text, disconnect=True),
    "denysoft-disconnect": lambda text: defer(text, disconnect=True),
}

_TEXTS: Final = {"said": "said by the probe", "lines": "first\nsecond", "blank": "first\n\nthird"}

#: The last part of the address of a client that wants a verdict before it has said anything.
_BY_NUMBER: Final = (
    "ok",
    "declined",
    "done",
    "deny",
    "denysoft",
    "deny-disconnect",
    "denysoft-disconnect",
    "deny-said",
    "deny-lines",
)


def verdict(hook: str, done: int, *words: str | None) -> Verdict | None:
    """Find the verdict that a word of the client asks for.

    :param done: The code of the reply where the verdict says that the plugin has answered.
    """
    for word in words:
        if word and (found := re.match(rf"([a-z-]+)\.{hook}(?:\.|$)", word)):
            return named(found[1], done)
    return None


def named(name: str, done: int) -> Verdict | None:
    """Give the verdict of a name."""
    text = ""
    base, _, last = name.rpartition("-")
    if last in _TEXTS:
        name, text = base, _TEXTS[last]
    if name == "declined":
        return None
    if name == "done":
        return answer(Reply(done, "done by the probe"))
    return accept(text) if name == "ok" else _REFUSALS[name](text)


def numbered(folder: int, ip: str, done: int) -> Verdict | None:
    """Give the verdict that an address asks for."""
    found = re.fullmatch(rf"127\.0\.{folder}\.(\d+)", ip)
    return named(_BY_NUMBER[int(found[1]) - 1], done) if found else None


def sender(transaction: Transaction) -> str | None:
    """What stands before the ``@`` of a reverse-path."""
    path = transaction.reverse_path
    return None if path is None else path.local_part


@implementer(
    interfaces.IPreConnection,
    interfaces.IConnect,
    interfaces.IHelo,
    interfaces.IEhlo,
    interfaces.IAuth,
    interfaces.IMail,
    interfaces.IRcpt,
    interfaces.IData,
    interfaces.IDataHeadersEnd,
    interfaces.IDataPost,
    interfaces.IQueuePre,
    interfaces.IQueue,
    interfaces.IVrfy,
    interfaces.INoop,
    interfaces.IQuit,
    interfaces.IUnrecognizedCommand,
    interfaces.IHelp,
)
@component
class Probe:
    """Says what it is asked to say."""

    def pre_connection(self, session: Session) -> Verdict | None:
        return numbered(3, session.remote_ip, 220)

    def connect(self, session: Session) -> Verdict | None:
        return numbered(2, session.remote_ip, 220)

    def helo(self, session: Session, host: str) -> Verdict | None:
        return verdict("helo", 250, host)

    def ehlo(self, session: Session, host: str) -> Verdict | None:
        return verdict("ehlo", 250, host)

    def auth(self, session: Session, credentials: Credentials) -> Verdict | None:
        return verdict("auth", 235, credentials.user)

    def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        return verdict("mail", 250, reverse_path.local_part)

    def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        return verdict("rcpt", 250, recipient.local_part)

    def data(self, transaction: Transaction) -> Verdict | None:
        return verdict("data", 250, sender(transaction))

    def data_headers_end(self, transaction: Transaction) -> Verdict | None:
        return verdict("headers", 250, sender(transaction))

    def data_post(self, transaction: Transaction) -> Verdict | None:
        return verdict("post", 250, sender(transaction))

    def queue_pre(self, transaction: Transaction) -> Verdict | None:
        return verdict("pre", 250, sender(transaction))

    def queue(self, transaction: Transaction) -> Verdict | None:
        return verdict("queue", 250, sender(transaction))

    def vrfy(self, session: Session, argument: str) -> Verdict | None:
        return verdict("vrfy", 250, session.hello_host)

    def noop(self, session: Session, argument: str) -> Verdict | None:
        return verdict("noop", 250, session.hello_host)

    def quit(self, session: Session) -> Verdict | None:
        return verdict("quit", 221, session.hello_host)

    def unrecognized_command(self, session: Session, verb: str, argument: str) -> Verdict | None:
        return verdict("unknown", 250, session.hello_host)

    def help(self, session: Session, argument: str) -> Verdict | None:
        if argument.startswith("mark"):
            return accept(argument)
        return verdict("help", 214, session.hello_host)


maker = PluginMaker("probe", Probe)
