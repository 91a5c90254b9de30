"""The documentation says what is so: pages made from the source, links, and tutorials as typed."""

import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.testing import ComponentTestCase

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"

#: Seconds that a server of a tutorial gets for a line in its log.
PATIENCE = 60


def pages() -> list[Path]:
    """Every page that a reader of the repository comes to."""
    return [CHECKOUT / "README.md", CHECKOUT / "CHANGES.md", *sorted(DOCS.rglob("*.md"))]


def links(page: str) -> list[str]:
    """The targets of a page's links; what stands in code is none."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    # A link's text may be code. What is code around brackets is not a link.
    text = re.sub(r"(?<!\[)`[^`\n]*`(?!\])", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: str) -> set[str]:
    """What a link can name behind ``#``, as GitHub makes it of headings."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """A page's code blocks: the paragraph before it, its language, and its text."""
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    if len(found) * 2 != page.count("```"):
        raise AssertionError("a code block does not end")
    before = [page[: each.start()].rstrip().rpartition("\n\n")[2] for each in found]
    return [(text, each[1], each[2]) for text, each in zip(before, found, strict=True)]


class GeneratedTests(SynchronousTestCase):
    """``docs/generate.py``."""

    def setUp(self) -> None:
        self.generate: dict[str, Any] = runpy.run_path(str(DOCS / "generate.py"))

    def test_pages_are_up_to_date(self) -> None:
        """The pages are what the script writes; it is `.venv/bin/python docs/generate.py`."""
        made = self.generate["pages"]()
        old = [
            name
            for name, text in made.items()
            if not (DOCS / "reference" / name).is_file()
            or (DOCS / "reference" / name).read_text(encoding="utf-8") != text
        ]
        self.assertEqual(old, [], "run .venv/bin/python docs/generate.py")
        self.assertEqual(self.generate["committed"](), made.keys())

    def test_markdown(self) -> None:
        """What docstrings are made of is there in Markdown: literals, lists, tables, code."""
        text = """First ``a|b`` of :class:`~x.Y` & <z>.

        ::

            rcpt_ok  # code

        ``one``
            A term's
            meaning.
        - an item
          of two lines
        - another

        =====  ======
        head   second
        =====  ======
        cell   one,
               two
        =====  ======
        """
        self.assertEqual(
            self.generate["markdown"](text),
            "First `a|b` of `Y` & &lt;z>.\n\n"
            "```text\nrcpt_ok  # code\n```\n\n"
            "- `one`\n\n  A term's\n  meaning.\n\n"
            "- an item of two lines\n- another\n\n"
            "| head | second |\n| --- | --- |\n| cell | one, two |\n",
        )

    def test_citations(self) -> None:
        """Citations are found across lines, several sections of one RFC are several."""
        text = "# RFC 5321,\n# 4.5.2 and 4.1; RFC 3463).\n(RFC 5280, A.1) RFC 5321, appendix D."
        self.assertEqual(
            list(self.generate["citations"](text)),
            [(5321, "4.5.2"), (5321, "4.1"), (3463, ""), (5280, "A.1"), (5321, "appendix D")],
        )


class LinkTests(SynchronousTestCase):
    def test_links(self) -> None:
        """Every relative link of every page leads to a file, and to a heading of it."""
        broken = []
        for page in pages():
            for link in links(page.read_text(encoding="utf-8")):
                if re.match(r"[a-z]+:", link):
                    continue
                path, _, anchor = unquote(link).partition("#")
                target = page.parent / path if path else page
                if not target.exists() or (
                    anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
                ):
                    broken.append(f"{page.relative_to(CHECKOUT)}: {link}")
        self.assertEqual(broken, [])

    def test_every_page_is_linked(self) -> None:
        """Every page can be reached from the front page."""
        reached = set()
        waiting = [DOCS / "README.md"]
        while waiting:
            page = waiting.pop()
            if page in reached or page.suffix != ".md":
                continue
            reached.add(page)
            for link in links(page.read_text(encoding="utf-8")):
                if not re.match(r"[a-z]+:", link):
                    waiting.append((page.parent / link.partition("#")[0]).resolve())
        pages = set(DOCS.rglob("*.md")) - set(DOCS.glob("examples/**/*.md"))
        self.assertEqual(pages - reached, set())


class ParserTests(SynchronousTestCase):
    """What the tests above rest on."""

    def test_links(self) -> None:
        """Links are found in text, also around code, and not in code."""
        page = "[a](b.md) [`c`](d.md#e)\n`[f](g.md)`\n```\n[h](i.md)\n```\n"
        self.assertEqual(links(page), ["b.md", "d.md#e"])

    def test_anchors(self) -> None:
        """A heading's anchor is its words, in lower case, with hyphens."""
        self.assertEqual(anchors("# A `b_c` d!\n```\n# e\n```\n"), {"a-b_c-d"})

    def test_blocks(self) -> None:
        """A block comes with the paragraph before it."""
        self.assertEqual(blocks("a\n\nb:\n\n```sh\nc\nd\n```\n"), [("b:", "sh", "c\nd\n")])


class Tutorial:
    """A folder like the checkout, in which a tutorial is done as it says.

    ``sh`` is typed, ``./run`` in a terminal of its own; ``text`` is what the commands before it
    said, ``log`` what the server says; any other block is written to the file that the paragraph
    before it names. Nothing is installed, and the port is a free one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in (".venv", "docs", "plugins", "qpsmtpd", "twisted"):
            (folder / name).symlink_to(CHECKOUT / name)
        subprocess.run(["cp", "-r", CHECKOUT / "config", folder], check=True)
        script = (CHECKOUT / "run").read_text()
        line = "python3 .ci/environment.py\n"
        if line not in script:
            raise AssertionError("./run installs in another way")
        (folder / "run").write_text(script.replace(line, ""))
        (folder / "run").chmod(0o755)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port = str(unused.getsockname()[1])
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name in ("QMAIL", "QPSMTPD_CONFIG", "DATABYTES", "RELAYCLIENT"):
            self.environment.pop(name, None)
        self.server: subprocess.Popen[bytes] | None = None
        self.log = folder / "server.log"
        self.read = 0
        self.said = ""

    def follow(self, page: str) -> None:
        for before, kind, text in blocks(page):
            text = text.replace("2525", self.port)
            if kind == "sh" and text.startswith("./run"):
                self.stop()
                self.start(text)
            elif kind == "sh":
                self.type(text)
            elif kind == "text":
                for line in text.splitlines():
                    if line not in self.said:
                        raise AssertionError(f"{line!r} is not in:\n{self.said}")
            elif kind == "log":
                for line in text.splitlines():
                    self.wait_for(line)
            else:
                [name] = re.findall(r"`([^`\n]+)`[^`]*\Z", before)
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)

    def start(self, command: str) -> None:
        self.read = 0
        command = f"exec {command.strip()} --listen tcp:{self.port}:interface=127.0.0.1"
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                ["sh", "-eu", "-c", command],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            try:
                self.server.wait(PATIENCE)
            finally:
                self.server.kill()
                self.server.wait()
                self.server = None

    def wait_for(self, words: str) -> None:
        """Wait until the server has said something, behind what it was last asked for."""
        end = time.monotonic() + PATIENCE
        while True:
            log = self.log.read_text()
            found = log.find(words, self.read)
            if found >= 0:
                self.read = found + len(words)
                return
            if time.monotonic() > end:
                raise AssertionError(f"the server does not say {words!r}:\n{log}")
            time.sleep(0.02)

    def type(self, commands: str) -> None:
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        self.said = done.stdout
        if done.returncode:
            raise AssertionError(f"{commands}{done.stdout}")


class TutorialTests(SynchronousTestCase):
    def follow(self, *names: str) -> None:
        tutorial = Tutorial(Path(self.mktemp()).resolve())
        self.addCleanup(tutorial.stop)
        for name in names:
            tutorial.follow((DOCS / name).read_text(encoding="utf-8"))

    def test_first_server(self) -> None:
        """The tutorials work as typed, from ./run to a reload, and then with a plugin."""
        self.follow("tutorials/first-server.md", "tutorials/first-component.md")

    def test_tls_and_auth(self) -> None:
        """What the page configures encrypts a session and lets a user send anywhere."""
        self.follow("how-to/configure-tls-and-auth.md")

    def test_load_balancer(self) -> None:
        """Behind what the page configures, a PROXY header says who the client is."""
        self.follow("how-to/run-behind-a-load-balancer.md")

    def test_share_state(self) -> None:
        """What the page configures can be used, with the extra it names."""
        self.follow("how-to/share-state.md")

    def test_moves(self) -> None:
        """An installation of another server is looked at, and served, as the pages say."""
        for name in ("qpsmtpd", "qmail-smtpd", "haraka"):
            self.follow(f"how-to/move-from-{name}.md")


def example(name: str) -> dict[str, Any]:
    """What the Python blocks of a page define, run in their order."""
    found: dict[str, Any] = {"__name__": "example"}
    for _, kind, text in blocks((DOCS / name).read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, name, "exec"), found)
    return found


class ExampleTests(ComponentTestCase):
    def test_no_io(self) -> None:
        """The conversation with a machine goes as the page says, by its own assertions."""
        machine = example("explanation/no-io.md")["machine"]
        self.assertEqual(machine.outgoing(), b"")

    def test_middleware(self) -> None:
        """The page's middleware softens what stands behind it, and nothing else."""
        found = example("explanation/middleware.md")
        component, middleware = found["NoSales"](), found["SoftBounce"]()
        for chain, code in (([middleware, component], 450), ([component, middleware], 550)):
            conversation = self.open(*chain)
            conversation.greet()
            conversation.command("MAIL FROM:<a@client.example>")
            self.assertReply(conversation.command("RCPT TO:<sales@mail.example>"), code)
            self.assertReply(conversation.command("RCPT TO:<b@mail.example>"), 250)
