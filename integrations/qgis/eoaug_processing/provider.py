"""The provider and its algorithms, one for each process in `processes.json`, which `eoaug process` wrote."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsProcessingProvider,
)

PROCESSES = json.loads(Path(__file__).with_name("processes.json").read_text("utf-8"))
SOURCE, OUT = "SOURCE", "OUT"
USUAL = ("generator", "mask", "factor", "times", "strength", "steps", "uncertainty")
"""Options that are shown at once; the others are advanced."""


def command():
    """Return the command `eoaug`."""
    found = os.environ.get("EOAUG") or shutil.which("eoaug")
    if not found:
        raise QgsProcessingException(
            "the command eoaug is not on the path\n  -> install eoaug in a Python 3.12, and set EOAUG to its command"
        )
    return found


def parameter(name, described):
    """Return the parameter of an option, from its JSON schema."""
    schema, text = described["schema"], described["description"]
    default, optional = schema.get("default"), not described["minOccurs"]
    if "enum" in schema:
        made = QgsProcessingParameterEnum(
            name, text, schema["enum"], defaultValue=default, optional=optional, usesStaticStrings=True
        )
    elif schema["type"] == "boolean":
        made = QgsProcessingParameterBoolean(name, text, defaultValue=default, optional=optional)
    elif schema["type"] in ("integer", "number"):
        whole = schema["type"] == "integer"
        kind = QgsProcessingParameterNumber.Integer if whole else QgsProcessingParameterNumber.Double
        made = QgsProcessingParameterNumber(name, text, kind, default, optional)
    else:
        made = QgsProcessingParameterString(name, text, defaultValue=default, optional=optional)
    if name not in USUAL and optional:
        made.setFlags(made.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
    return made


class Algorithm(QgsProcessingAlgorithm):
    """One verb."""

    def __init__(self, process):
        super().__init__()
        self._process = process
        self._options = process["inputs"]

    def name(self):
        """Return the name after the provider's."""
        return self._process["id"].removeprefix("eoaug-").replace("-", "_")

    def displayName(self):  # noqa: N802, D102
        return self.name().replace("_", " ").capitalize()

    def shortHelpString(self):  # noqa: N802, D102
        return self._process["description"]

    def createInstance(self):  # noqa: N802, D102
        return Algorithm(self._process)

    def initAlgorithm(self, config=None):  # noqa: N802, D102
        del config
        self.addParameter(QgsProcessingParameterFile(SOURCE, "GeoTIFF, netCDF file, or catalog.json"))
        for name, described in self._options.items():
            self.addParameter(parameter(name, described))
        self.addParameter(QgsProcessingParameterFolderDestination(OUT, "Catalog to write"))

    def processAlgorithm(self, parameters, context, feedback):  # noqa: N802
        """Run the command; what it prints goes to the log."""
        source = self.parameterAsFile(parameters, SOURCE, context)
        out = self.parameterAsString(parameters, OUT, context)
        words = [command(), self.name().replace("_", "-"), source, "--out", out]
        for name, described in self._options.items():
            if parameters.get(name) in (None, ""):
                continue
            flag = "--" + name.replace("_", "-")
            if described["schema"]["type"] == "boolean":
                words += [flag] if self.parameterAsBoolean(parameters, name, context) else []
            else:
                words += [flag, str(parameters[name])]
        feedback.pushCommandInfo(" ".join(words))
        # QGIS sets variables for its own Python and libraries, which must not reach another one.
        theirs = (
            "PYTHONHOME",
            "PYTHONPATH",
            "GDAL_DATA",
            "GDAL_DRIVER_PATH",
            "PROJ_LIB",
            "PROJ_DATA",
            "LD_LIBRARY_PATH",
        )
        environment = {name: value for name, value in os.environ.items() if name not in theirs}
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as running:
            lines = []
            for line in running.stdout:
                lines.append(line.rstrip())
                feedback.pushInfo(lines[-1])
                if feedback.isCanceled():
                    running.terminate()
        if running.returncode:
            raise QgsProcessingException("\n".join(lines[-3:]))
        return {OUT: out}


class Provider(QgsProcessingProvider):
    """The verbs."""

    def id(self):  # noqa: D102
        return "eoaug"

    def name(self):  # noqa: D102
        return "eoaug"

    def loadAlgorithms(self):  # noqa: N802, D102
        for process in PROCESSES:
            self.addAlgorithm(Algorithm(process))


class Plugin:
    """What QGIS loads."""

    def __init__(self):
        self._provider = None

    def initProcessing(self):  # noqa: N802
        """Register the provider; `qgis_process` calls this alone."""
        self._provider = Provider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self):  # noqa: N802, D102
        self.initProcessing()

    def unload(self):  # noqa: D102
        QgsApplication.processingRegistry().removeProvider(self._provider)
