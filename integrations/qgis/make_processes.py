"""Write `processes.json` of the plugin from the options that the verbs declare: run it when an option has changed.

python integrations/qgis/make_processes.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eoaug.services.ogc import process_description
from eoaug.verbs.options import OWN_OPTIONS, shared_options

TARGET = Path(__file__).parent / "eoaug_processing" / "processes.json"
LEFT_OUT = ("layout", "metadata")
"""Options whose value is no single word of the command line."""


def processes() -> list[dict[str, Any]]:
    """Return id, description and options of each verb."""
    found = []
    for verb in OWN_OPTIONS:
        described = process_description(verb)
        options = [
            n
            for n in {**OWN_OPTIONS[verb], **shared_options()}
            if n in described["inputs"] and n not in LEFT_OUT
        ]
        wanted = {name: described["inputs"][name] for name in options}
        found.append({"id": described["id"], "description": described["description"], "inputs": wanted})
    return found


if __name__ == "__main__":
    TARGET.write_text(json.dumps(processes(), indent=1) + "\n", "utf-8")
