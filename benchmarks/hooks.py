"""What a chain costs: hooks that nobody answers, plain components, and the ten of ``ours``.

It runs in the process of the runner, without a server. Each hook is asked as
``qpsmtpd/server/protocol.py`` does it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from timeit import Timer

from zope.interface import implementer
from zope.interface.interface import InterfaceClass

from benchmarks.measurements import Options, say
from benchmarks.servers.ours import CHAIN, configure
from benchmarks.tables import Table
from qpsmtpd.chain import Chain
from qpsmtpd.component import component
from qpsmtpd.configuration.load import control_files, load
from qpsmtpd.interfaces import HOOKS, IData, IRcpt
from qpsmtpd.message import Message
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.spool import Spool

COUNTS = (0, 1, 2, 5, 10, 20, 50)

MESSAGE = (
    b"From: <sender@client.example>\r\nTo: <recipient@mail.example>\r\n"
    b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-Id: <1.2@client.example>\r\n\r\n"
).ljust(4094, b"x") + b"\r\n"

#: What the hooks of a session receive, and what has to be put back before each is asked again.
HOOKS_OF_OURS = {
    "pre_connection": ("session", ""),
    "connect": ("session", ""),
    "ehlo": ("session, 'client.example'", ""),
    "mail": ("transaction, sender", ""),
    "rcpt": ("transaction, recipient", "transaction.trace = None"),
    "data": ("transaction", ""),
    "data_post": ("transaction", "transaction.message = Message(spool)"),
    "reset_transaction": ("transaction", ""),
}


@implementer(IRcpt, IData)
@component
class Plain:
    """Declines at once."""

    def rcpt(self, transaction: Transaction, recipient: Address) -> None:
        return None

    def data(self, transaction: Transaction) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Question:
    """A hook of a chain, with how many components have it."""

    title: str
    components: int
    timer: Timer


def no_service(interface: InterfaceClass) -> object:
    return None  # nobody is asked anything


def question(title: str, chain: Chain, hook: str, arguments: str, before: str = "") -> Question:
    session = Session("127.0.0.1", 49152, "127.0.0.1", 25)
    sender = Address.parse("<sender@client.example>")
    transaction = session.transaction = Transaction(session, sender, {})
    spool = Spool(262_144, None)
    spool.write(MESSAGE)
    transaction.message = Message(spool)
    timer = Timer(
        f"{before}\nask = chain.{hook}\nif ask is not None: ask({arguments})",
        globals={
            "Message": Message,
            "chain": chain,
            "recipient": Address.parse("<recipient@mail.example>"),
            "sender": sender,
            "session": session,
            "spool": spool,
            "transaction": transaction,
        },
    )
    return Question(title, sum(link.answers(HOOKS[hook]) for link in chain.links), timer)


def questions() -> Iterator[Question]:
    for hook in ("data", "rcpt"):
        for count in COUNTS:
            chain = Chain(Plain() for _ in range(count))
            yield question(f"plain, {hook}", chain, hook, HOOKS_OF_OURS[hook][0])
    with tempfile.TemporaryDirectory() as folder:
        config = configure(Path(folder), CHAIN)
        ours = load(control_files([str(config)], {}, folder), {}, no_service).chain
    for hook, (arguments, before) in HOOKS_OF_OURS.items():
        yield question(f"ours, {hook}", ours, hook, arguments, before)


def hooks(options: Options) -> Table:
    """Microseconds that a hook costs, by what answers it."""
    asked = list(questions())
    numbers = [each.timer.autorange()[0] for each in asked]
    best = [float("inf")] * len(asked)
    for number in range(options.rounds):
        for place, each in enumerate(asked):
            took = each.timer.timeit(numbers[place]) / numbers[place] * 1e6
            best[place] = min(best[place], took)
        say(f"round {number + 1}: {len(asked)} hooks")
    table = Table("Hooks in a chain", ["hook", "components", "us", "us each"])
    for each, took in zip(asked, best, strict=True):
        share = f"{took / each.components:.3f}" if each.components else "-"
        table.rows.append([each.title, str(each.components), f"{took:.3f}", share])
    table.notes += [
        "plain: components that decline at once. 0 is a hook that nobody has.",
        f"ours: the ten components of the server of that name; a message of {len(MESSAGE)} octets,"
        " whose header section is found and read each time.",
        f"Each is the best of {options.rounds} interleaved rounds, in one process, without a"
        " server.",
    ]
    return table
