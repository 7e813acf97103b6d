"""Plugin of QGIS: the verbs of eoaug as algorithms of the toolbox.

QGIS has a Python of its own, often older than the one that eoaug needs, so the algorithms run the command `eoaug`.
"""


def classFactory(iface):  # noqa: N802 - the name that QGIS calls
    """Return the plugin."""
    from .provider import Plugin

    return Plugin()
