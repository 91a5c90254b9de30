"""The bundled plugins, found by name along this package's path.

The path is extended by Twisted's plugin system: a distribution that ships
``qpsmtpd/plugins/NAME.py``, without an ``__init__.py`` beside it, adds a plugin.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
