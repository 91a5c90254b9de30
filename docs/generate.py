"""Write the pages of docs/reference/ that have a source: `.venv/bin/python docs/generate.py`.

Run it from the checkout after a change to a docstring, a declaration, a reply or a citation.
`tests/test_docs.py` fails while the pages and the source disagree.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from qpsmtpd import interfaces
from qpsmtpd.component import Argument, PluginMaker
from qpsmtpd.configuration import describe, discovery, files, lines, reference
from qpsmtpd.configuration.plugins import COMMON_ARGUMENTS
from qpsmtpd.server.replies import REFUSALS
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.limits import BareNewlines, Limits
from qpsmtpd.verdicts import Verdict

CHECKOUT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = CHECKOUT / "docs" / "reference"

_NOTE: Final = "<!-- Made by docs/generate.py from {}. Change it there. -->\n\n"


def main() -> None:
    """Write what changed, and remove pages of plugins that are no more."""
    made = pages()
    for name in committed() - made.keys():
        (REFERENCE / name).unlink()
        print(f"removed docs/reference/{name}")
    for name, text in made.items():
        path = REFERENCE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/reference/{name}")


def pages() -> dict[str, str]:
    """All pages, by their path below docs/reference/."""
    makers = bundled()
    return {
        "hooks.md": hooks_page(),
        "control-files.md": control_files_page(makers),
        "replies.md": replies_page(),
        "rfc.md": rfc_page(),
        "plugins/README.md": plugins_page(makers),
        **{f"plugins/{maker.name}.md": plugin_page(maker) for maker in makers},
    }


def committed() -> set[str]:
    """The pages that are there and begin as those that this script writes."""
    mark = _NOTE.partition("{}")[0]
    return {
        str(path.relative_to(REFERENCE))
        for path in REFERENCE.rglob("*.md")
        if path.read_text(encoding="utf-8").startswith(mark)
    }


def bundled() -> list[PluginMaker]:
    """The bundled plugins, by name; not those that are installed beside them."""
    folder = str(CHECKOUT / "plugins") + os.sep
    makers = []
    for name in discovery.names():
        maker = discovery.find(name)
        if os.path.realpath(inspect.getfile(maker.component)).startswith(folder):
            makers.append(maker)
    return makers


# reStructuredText, as far as docstrings here have it, to Markdown.


def markdown(text: str) -> str:
    """A docstring as Markdown."""
    return _joined(_blocks(inspect.cleandoc(text).splitlines())) + "\n"


def _joined(blocks: Iterable[str]) -> str:
    text = before = ""
    for block in blocks:
        short = all(each.startswith("- ") and "\n\n" not in each for each in (before, block))
        text += ("\n" if short else "\n\n" if text else "") + block
        before = block
    return text


def _blocks(source: list[str]) -> Iterator[str]:
    position = 0
    while position < len(source):
        line = source[position]
        if not line.strip():
            position += 1
        elif re.fullmatch(r"=+( +=+)+", line):
            end = _table_end(source, position)
            yield _table(source[position:end])
            position = end
        elif line.startswith(" "):
            end = _indented_end(source, position)
            yield _fenced(source[position:end])
            position = end
        else:
            end = _paragraph_end(source, position)
            after = _indented_end(source, end)
            if end == position + 1 and end < len(source) and source[end].startswith(" "):
                if line.startswith("- "):
                    yield _inline(" ".join([line, *map(str.strip, source[end:after])]))
                else:
                    yield _definition(line, source[end:after])
                position = after
                continue
            paragraph = "\n".join(source[position:end])
            position = end
            if paragraph != "::":
                yield _inline(re.sub(r"::$", ":", paragraph))


def _paragraph_end(source: list[str], position: int) -> int:
    while position < len(source) and source[position].strip():
        position += 1
        if position < len(source) and source[position].startswith(" "):
            break
        if position < len(source) and source[position].startswith("- "):
            break
    return position


def _indented_end(source: list[str], position: int) -> int:
    end = position
    for number in range(position, len(source)):
        if source[number].startswith(" "):
            end = number + 1
        elif source[number].strip():
            break
    return end


def _table_end(source: list[str], position: int) -> int:
    rules = [n for n in range(position, len(source)) if re.fullmatch(r"=+( +=+)+", source[n])]
    blank = next((n for n in range(position, len(source)) if not source[n].strip()), len(source))
    return max(rule for rule in rules if rule < blank) + 1


def _table(source: list[str]) -> str:
    columns = [match.span() for match in re.finditer("=+", source[0])]
    columns[-1] = (columns[-1][0], 1000)
    rows: list[list[str]] = []
    for line in source[1:]:
        if line.startswith("="):
            continue
        cells = [line[start:end].strip() for start, end in columns]
        if rows and not all(cells):
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    head = rows.pop(0) if sum(line.startswith("=") for line in source) > 2 else [""] * len(columns)
    return table(
        [_inline(cell) for cell in head], [[_inline(cell) for cell in row] for row in rows]
    )


def _definition(term: str, body: list[str]) -> str:
    inner = _joined(_blocks(inspect.cleandoc("\n".join(["", *body])).splitlines()))
    indented = "\n".join(f"  {line}".rstrip() for line in inner.splitlines())
    return f"- {_inline(term)}\n\n{indented}"


def _fenced(body: list[str]) -> str:
    return "```text\n" + inspect.cleandoc("\n".join(["", *body])) + "\n```"


def _inline(text: str) -> str:
    """Literals, roles and characters that mean something else in Markdown."""
    parts = re.split(r"(``.+?``|:\w+:`[^`]+`)", text, flags=re.DOTALL)
    for number, part in enumerate(parts):
        if part.startswith("``"):
            parts[number] = f"`{part[2:-2]}`"
        elif number % 2:
            name = re.sub(r"^:\w+:`~?|`$", "", part)
            parts[number] = f"`{name.rpartition('.')[2] if '~' in part else name}`"
        else:
            parts[number] = part.replace("<", "&lt;")
    return "".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown."""
    all_rows = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"
        for row in all_rows
    )


def code(text: str) -> str:
    """A literal in a line."""
    return f"`{text}`" if "`" not in text else f"`` {text} ``"


# Hooks.


def hooks_page() -> str:
    """What the interfaces say of themselves."""
    tree = ast.parse(inspect.getsource(interfaces))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    parts = [
        _NOTE.format("qpsmtpd/interfaces.py") + "# Hooks\n",
        markdown(_after_first(interfaces.__doc__).partition("\n")[2].partition(". ")[2]),
        "What each refusal is said with is in [replies](replies.md). A verdict is made with the\n"
        "functions of `qpsmtpd/verdicts.py`: `None`, `OK`, `accept(text)`, `deny(text, status)`,\n"
        "`defer(text, status)`, each of the last two with `disconnect=True` to close the\n"
        "connection, and `answer(reply)`.\n",
        table(
            ["hook", "sort", "fires"],
            (
                [
                    f"[`{hook.name}`](#{hook.name})",
                    _sort(hook),
                    _inline(_fires(hook)),
                ]
                for hook in interfaces.HOOKS.values()
            ),
        )
        + "\n",
    ]
    asked = _asked()
    for hook in interfaces.HOOKS.values():
        parts.append(f"## {hook.name}\n")
        said = f"`{hook.interface.__name__}`, a {_sort(hook)}"
        if _sort(hook) == "question":
            said += " answered with " + " or ".join(f"`{each.__name__}`" for each in hook.answers)
        parts.append(
            said + (".\n" if hook.name in asked else "; the server does not ask it yet.\n")
        )
        parts.append(_interface(classes[hook.interface.__name__]))
    parts.append("## Middleware\n")
    parts.append("`IMiddleware`\n")
    parts.append(_interface(classes["IMiddleware"]))
    parts.append("## Start and stop\n")
    parts.append("`ILifecycle`\n")
    parts.append(_interface(classes["ILifecycle"]))
    return "\n".join(parts)


def _asked() -> set[str]:
    """The hooks that somebody in the framework asks the chain at."""
    source = "".join(path.read_text(encoding="utf-8") for path in _sources("qpsmtpd"))
    asked = set(re.findall(r"\bchain\.(\w+)", source)) | set(
        re.findall(r'_simple\("(\w+)"', source)
    )
    # These are looked up by names made of a command's or a mechanism's, and by the chain itself.
    asked |= {name for name in interfaces.HOOKS if re.search("_parse$|_pre$|^auth_", name)}
    return asked | {"deny", "ok"}


def _fires(hook: interfaces.Hook) -> str:
    text = _first(hook.interface.__doc__).removeprefix("A notice: ")
    return text[:1].upper() + text[1:]


def _sort(hook: interfaces.Hook) -> str:
    if hook.notice:
        return "notice"
    return "decision" if Verdict in hook.answers else "question"


def _interface(node: ast.ClassDef) -> str:
    parts = [markdown(ast.get_docstring(node) or "")]
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            result = f" -> {ast.unparse(each.returns)}" if each.returns else ""
            signature = f"{each.name}({ast.unparse(each.args)}){result}"
            parts.append(f"```python\n{signature}\n```\n")
            parts.append(_method(ast.get_docstring(each) or ""))
        elif isinstance(each, ast.Assign) and isinstance(each.value, ast.Call):
            [target], [text] = each.targets, each.value.args
            parts.append(
                f"Attribute {code(ast.unparse(target))}: {_inline(ast.literal_eval(text))}\n"
            )
    return "\n".join(parts)


def _method(text: str) -> str:
    """A method's docstring; its fields become a list."""
    prose, *fields = re.split(r"\n*^:(?=\w)", inspect.cleandoc(text), flags=re.MULTILINE)
    parts = [markdown(prose)]
    items = []
    for field in fields:
        name, _, meaning = field.partition(":")
        words = name.split()
        term = f"`{words[1]}`" if len(words) > 1 else words[0]
        items.append(f"- {term}: {_inline(' '.join(meaning.split()))}")
    if items:
        parts.append("\n".join(items) + "\n")
    return "\n".join(parts)


def _first(text: str | None) -> str:
    """The first sentence or paragraph of a docstring."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def _after_first(text: str | None) -> str:
    return inspect.cleandoc(text or "").partition("\n\n")[2]


# Plugins.


def plugins_page(makers: list[PluginMaker]) -> str:
    """The list of plugins."""
    text = _NOTE.format("the modules in plugins/") + "# Plugins\n\n"
    text += (
        "The components that come with the server. A line of the control file `plugins` has a\n"
        "plugin's name and its arguments; the order of lines is the order of asking.\n"
        "`python -m qpsmtpd plugins NAME` says the same as the pages here.\n\n"
    )
    rows = [
        [f"[`{maker.name}`]({maker.name}.md)", _inline(_first(describe.manual(maker)))]
        for maker in makers
    ]
    text += table(["plugin", "what it does"], rows)
    text += "\n\n## Arguments that every plugin has\n\n"
    return text + _arguments(COMMON_ARGUMENTS.values()) + "\n"


def plugin_page(maker: PluginMaker) -> str:
    """One plugin: its manual, and what it declares."""
    up = "../" * maker.name.count("/")
    source = os.path.realpath(inspect.getfile(maker.component))
    text = _NOTE.format(os.path.relpath(source, CHECKOUT)) + f"# {maker.name}\n\n"
    text += markdown(describe.manual(maker))
    text += "\n## Declarations\n\n"
    order = list(interfaces.HOOKS)
    links = []
    for name in sorted(
        describe.hooks(maker),
        key=lambda each: order.index(each.split()[-1]) if each.split()[-1] in order else -1,
    ):
        target = name.removeprefix("around ")
        anchor = "middleware" if target == "all" else target
        links.append(f"[{name}]({up}../hooks.md#{anchor})")
    if "alsoProvides" in Path(source).read_text(encoding="utf-8"):
        links.append("others, by its arguments" if links else "by its arguments")
    text += f"Hooks: {', '.join(links)}.\n"
    if maker.services():
        asked = (code(service.interface.__name__) for service in maker.services())
        text += f"\nServices: {', '.join(asked)}.\n"
    if maker.arguments():
        text += "\n" + _arguments(maker.arguments()) + "\n"
    if maker.control_files() or maker.control_maps():
        text += "\n" + _plugin_files(maker) + "\n"
    return text + f"\n[Every plugin]({up}README.md#arguments-that-every-plugin-has) takes more.\n"


def _arguments(arguments: Iterable[Argument]) -> str:
    rows = []
    for argument in arguments:
        name = code(argument.name)
        if argument.positional:
            name += ", or without its name"
        if argument.many:
            name += ", several times"
        expects = "nothing" if argument.flag else _expects(argument.converter)
        default = "required" if argument.required else _default(argument.default)
        rows.append([name, _inline(expects), default, _inline(argument.help)])
    return table(["argument", "expects", "default", "meaning"], rows)


def _plugin_files(maker: PluginMaker) -> str:
    rows = [
        [
            code(file.name),
            _inline(_expects(file.converter)) + (", one line" if file.first else ""),
            _default(file.default),
            _inline(file.help),
        ]
        for file in maker.control_files()
    ]
    rows += [
        [code(each.file), "keys of a constant database", "", _inline(each.help)]
        for each in maker.control_maps()
    ]
    return table(["control file", "lines", "default", "meaning"], rows)


def _expects(converter: object) -> str:
    return str(getattr(converter, "expects", "a text"))


def _default(value: Any) -> str:
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, bool):
        return "`yes`" if value else "`no`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, tuple | frozenset | set):
        return ", ".join(sorted(code(str(each)) for each in value))
    if value == socket.gethostname():
        return "the host's name"
    return code(str(getattr(value, "value", value)))


# Control files.


def control_files_page(makers: list[PluginMaker]) -> str:
    """The engine's files, the plugins' files and the limits."""
    rows = [
        [
            code(file.name),
            _inline(file.help),
            code(file.example) if file.example else "",
            f"[`{maker.name}`](plugins/{maker.name}.md)",
        ]
        for maker in makers
        for file in maker.control_files()
        if file.name not in reference.ENGINE_FILES
    ]
    rows += [
        [code(each.file), _inline(each.help), "", f"[`{maker.name}`](plugins/{maker.name}.md)"]
        for maker in makers
        for each in maker.control_maps()
    ]
    source = "qpsmtpd/configuration/, qpsmtpd/smtp/limits.py and the plugins' declarations"
    parts = [
        _NOTE.format(source) + "# Control files\n",
        "## Where they are\n",
        "`--config DIR`, which may be given several times, names the folders, and nothing else is\n"
        "searched then. Without it:\n",
        markdown(_before_fields(_after_first(files.ControlFiles.from_environment.__doc__))),
        "For each file on its own, the last folder that has one of its name wins. Where none of\n"
        "them has a file `plugins`, the sample configuration in `config/` is used, and before\n"
        "the others.\n",
        "## Their form\n",
        markdown(_after_first(files.__doc__)),
        "### Lines of plugins and logging\n",
        markdown(_after_first(lines.__doc__).strip()),
        "## The engine's\n",
        table(
            ["file", "meaning", "default", "example", "also read by"],
            (
                [code(name), _inline(file.effect), file.default, code(file.example), file.known_to]
                for name, file in reference.ENGINE_FILES.items()
            ),
        )
        + "\n",
        "Of `plugins`, `logging`, `plugin_dirs`, `extensions` and `limits` every line counts, of\n"
        "the others the first. Files are read at the start and at a reload, each once. For all\n"
        "but `plugins`, `logging`, `plugin_dirs` and `loglevel`, components with the hook\n"
        "[`config`](hooks.md#config) are asked before.\n",
        "## The plugins'\n",
        table(["file", "meaning", "example", "read by"], sorted(rows)) + "\n",
        "The file `IP` is not read: `--listen` says where to listen.\n",
        "## Limits\n",
        "Each line of the file `limits` has a name and a number. Sizes are in octets and may end\n"
        "with `k`, `M` or `G`; times are in seconds and may end with `s`, `m`, `h` or `d`. 0\n"
        "is no limit.\n",
        _limits() + "\n",
        "## Environment\n",
        "What the Perl qpsmtpd or qmail-smtpd looks at. Where a variable holds for a client, it is\n"
        "looked for where tcpserver or inetd starts a process for each client; a server for many\n"
        "has no such variables.\n",
        table(
            ["variable", "holds for", "meaning", "example"],
            (
                [code(name), each.holds_for, each.effect, code(each.example) if each.example else ""]
                for name, each in reference.VARIABLES.items()
            ),
        )
        + "\n",
    ]
    return "\n".join(parts)


def _limits() -> str:
    engine, all_connections = Limits(), Settings(me="mail.example")
    meanings = {**_ivars(Limits.__doc__), **_ivars(Settings.__doc__)}
    policies = ", ".join(code(policy.value) for policy in BareNewlines)
    meanings["bare_newlines"] = (
        f"What a CR or LF that is not part of CR LF does to a message: {policies};"
        " see [bare newlines](../explanation/bare-newlines.md)."
    )
    rows = []
    given = [field.name for field in dataclasses.fields(Limits) if field.init]
    for name in [*given, "connections", "connections_per_address"]:
        default = getattr(engine, name, None)
        if default is None:
            default = getattr(all_connections, name)
        meaning = _inline(meanings[name].removesuffix("; 0 is no limit."))
        elsewhere = re.search(r"Control file `(\w+)`", meaning)
        where = f"(`{elsewhere[1]}`)" if elsewhere else code(name)
        shown = "(`timeout`)" if name in ("command_time", "content_time") else _default(default)
        rows.append([where, shown, meaning])
    return table(["limit", "default", "meaning"], rows)


def _ivars(text: str | None) -> dict[str, str]:
    found = re.findall(
        r"^:ivar (\w+): (.*?)(?=^:|\Z)", inspect.cleandoc(text or ""), re.MULTILINE | re.DOTALL
    )
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _before_fields(text: str) -> str:
    return re.split(r"^:\w", text, maxsplit=1, flags=re.MULTILINE)[0].rstrip()


# Replies.


def replies_page() -> str:
    """What verdicts are said with, and every other reply in the source."""
    rows = []
    for hook, refusals in REFUSALS.items():
        cells = [_said(*refusals.deny), _said(*refusals.defer)]
        closing = refusals.deny_disconnect or refusals.deny[0]
        rows.append([f"[{hook}](hooks.md#{hook})", *cells, f"{closing}, 421"])
    parts = [
        _NOTE.format("qpsmtpd/server/replies.py and the replies in qpsmtpd/") + "# Replies\n",
        "## Refusals\n",
        "What `deny` and `defer` are said with at each hook, unless the component gives a text,\n"
        "an enhanced status code or a code of its own. The last column has the codes with\n"
        "`disconnect`: a `defer` that closes the connection is a 421 whatever code the component\n"
        "gave.\n",
        table(["hook", "deny", "defer", "codes when the connection closes"], rows) + "\n",
        "## All others\n",
        "Replies of the engine itself. A name in braces stands for something of the session.\n",
        table(
            ["code", "status", "text", "where"],
            ([str(code_), status, text, where] for code_, status, text, where in _replies()),
        )
        + "\n",
    ]
    return "\n".join(parts)


def _said(number: int, text: str, status: str) -> str:
    return f"{number} {status} {_inline(text)}"


def _replies() -> list[tuple[int, str, str, str]]:
    found: dict[tuple[int, str, str], set[str]] = defaultdict(set)
    for path in _sources("qpsmtpd"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                reply = _literal_reply(node)
                if reply is not None:
                    found[reply].add(code(str(path.relative_to(CHECKOUT / "qpsmtpd"))))
    return sorted((*reply, ", ".join(sorted(where))) for reply, where in found.items())


def _literal_reply(node: ast.Call) -> tuple[int, str, str] | None:
    made = ast.unparse(node.func)
    if made == "Reply.plain":
        number, rest = ast.Constant(250), node.args
    elif made == "Reply" and node.args and isinstance(node.args[0], ast.Constant):
        number, *rest = node.args
    else:
        return None
    assert isinstance(number, ast.Constant)
    text = _text(rest[0]) if rest else ""
    if text is None:
        return None
    status = rest[1].value if len(rest) > 1 and isinstance(rest[1], ast.Constant) else ""
    return int(str(number.value)), str(status or ""), text


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return _inline(str(node.value))
    if isinstance(node, ast.JoinedStr):
        parts = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                parts.append(_inline(str(value.value)))
            elif isinstance(value, ast.FormattedValue):
                parts.append("{" + ast.unparse(value.value).rpartition(".")[2] + "}")
        return "".join(parts)
    if isinstance(node, ast.List):
        texts = [_text(each) for each in node.elts]
        return None if None in texts else " / ".join(each for each in texts if each)
    return None


def _sources(*folders: str) -> list[Path]:
    found = []
    for folder in folders:
        found += [path for path in (CHECKOUT / folder).rglob("*.py") if path.is_file()]
    # What lies behind the symbolic link to the plugins is theirs, and comes once.
    return sorted(path for path in found if "qpsmtpd/plugins/" not in str(path))


# RFCs.

_SECTION: Final = r"(?:appendix [A-Z]|[A-Z]\.\d|\d)[\d.]*"
_CITATION: Final = re.compile(
    rf"RFC (\d{{3,5}})(?:, ((?:{_SECTION})(?:(?:, | and |, and )(?:{_SECTION}))*))?"
)

_TITLES: Final = {
    1034: "Domain names: concepts and facilities",
    1035: "Domain names: implementation and specification",
    1413: "Identification protocol",
    1870: "Message size declaration",
    2034: "Enhanced error codes in SMTP",
    2047: "Non-ASCII text in header fields",
    2181: "Clarifications to the DNS",
    2195: "CRAM-MD5",
    2231: "Parameter values in MIME",
    2308: "Negative caching of DNS queries",
    2920: "Command pipelining",
    3030: "Large and binary messages (CHUNKING, BINARYMIME)",
    3207: "STARTTLS",
    3461: "Delivery status notifications",
    3463: "Enhanced status codes",
    3490: "Internationalised domain names",
    3596: "DNS extensions for IPv6",
    3848: "Transmission types in Received",
    4007: "IPv6 scoped addresses",
    4291: "IPv6 addressing",
    4468: "Message submission BURL",
    4616: "PLAIN",
    4954: "Authentication",
    5198: "Unicode for network interchange",
    5248: "The registry of enhanced status codes",
    5280: "X.509 certificates",
    5321: "Simple Mail Transfer Protocol",
    5322: "Internet message format",
    5452: "Making DNS more resilient against forged answers",
    5782: "DNS blocklists and whitelists",
    5892: "Code points in internationalised domain names",
    5952: "IPv6 addresses as text",
    6066: "TLS extensions",
    6152: "8BITMIME",
    6531: "SMTPUTF8",
    6533: "Internationalised delivery status notifications",
    6647: "Greylisting",
    6710: "Message transfer priorities",
    7208: "SPF",
    7293: "Require-Recipient-Valid-Since",
    7372: "Status codes for email authentication",
    7435: "Opportunistic security",
    7505: "Null MX",
    7914: "scrypt",
    8018: "Password-based cryptography (PBKDF2)",
    8314: "Cleartext considered obsolete: implicit TLS",
    8617: "ARC",
    8689: "REQUIRETLS",
    9106: "Argon2",
    9325: "Recommendations for TLS",
    9422: "The LIMITS extension",
}


def rfc_page() -> str:
    """Every citation in the source, by RFC and section."""
    found: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in _sources("qpsmtpd", "plugins"):
        name = str(path.relative_to(CHECKOUT))
        for number, section in citations(path.read_text(encoding="utf-8")):
            found[number][section].add(f"[`{name}`](../../{name})")
    parts = [
        _NOTE.format("the citations in qpsmtpd/ and plugins/") + "# RFCs\n",
        "Where the source cites a section of an RFC. A section that is not here is not\n"
        "necessarily ignored, but nothing in the source names it.\n",
    ]
    for number in sorted(found):
        title = f": {_TITLES[number]}" if number in _TITLES else ""
        parts.append(f"## RFC {number}{title}\n")
        sections = sorted(found[number], key=_by_number)
        rows = [[section, ", ".join(sorted(found[number][section]))] for section in sections]
        parts.append(table(["section", "cited in"], rows) + "\n")
    return "\n".join(parts)


def citations(text: str) -> Iterator[tuple[int, str]]:
    """RFC and section, ``""`` for an RFC as a whole, for each citation in a Python source."""
    joined = re.sub(r"\s+(?:#:?\s+)?", " ", text)  # a citation may go on in the next line
    for number, sections in _CITATION.findall(joined):
        for section in re.findall(_SECTION, sections) or [""]:
            yield int(number), section.rstrip(".")


def _by_number(section: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (10**6, part) for part in re.split(r"[. ]", section)
    ]


if __name__ == "__main__":
    main()
