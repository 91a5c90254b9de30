"""Folders of a test's own, for control files and for plugins."""

import os
import sys
from collections.abc import Iterable, Mapping
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

import qpsmtpd.plugins
from qpsmtpd.configuration.files import ControlFiles

__all__ = ["FolderTestCase"]


class FolderTestCase(SynchronousTestCase):
    """Writes files below a folder of its own, and leaves no plugin of it behind."""

    def setUp(self) -> None:
        self.top = os.path.abspath(self.mktemp())
        os.makedirs(self.at("config"))
        path = list(qpsmtpd.plugins.__path__)
        modules = set(sys.modules)
        self.addCleanup(self._forget, path, modules)

    def _forget(self, path: Iterable[str], modules: set[str]) -> None:
        qpsmtpd.plugins.__path__[:] = path
        for name in set(sys.modules) - modules:
            if name.startswith("qpsmtpd.plugins."):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                vars(sys.modules.get(parent, qpsmtpd.plugins)).pop(child, None)

    def at(self, path: str) -> str:
        return os.path.join(self.top, path)

    def write(self, path: str, text: str) -> str:
        path = self.at(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(dedent(text))
        return path

    def configure(self, texts: Mapping[str, str]) -> ControlFiles:
        """Write control files, by their names."""
        for name, text in texts.items():
            self.write(f"config/{name}", text)
        return ControlFiles([self.at("config")])

    def plain(self, error: BaseException) -> str:
        """What an error says, with ``TOP`` for the test's folder."""
        return str(error).replace(self.top, "TOP")
