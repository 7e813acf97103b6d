"""OGC API - Processes: descriptions of the verbs as processes, generated from the options that they declare.

They describe jobs: a process takes the source and the parameters of a job, and gives the address of a catalog. A server
that runs them is no part of eoaug; `execution_job` turns a request of its client into the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from eoaug.errors import ParameterError, did_you_mean
from eoaug.generators.base import Verb
from eoaug.generators.registry import available
from eoaug.jobs.config import Job, read_job
from eoaug.verbs.options import OWN_OPTIONS, Option, shared_options

__all__ = ["execution_job", "process_description"]

_SOURCE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "catalog": ("Name of a catalog that the server offers.", {"type": "string"}),
    "collections": ("Collections to read.", {"type": "array", "items": {"type": "string"}}),
    "ids": ("Items to read.", {"type": "array", "items": {"type": "string"}}),
    "bbox": (
        "West, south, east, north in degrees.",
        {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
    ),
    "datetime": ("Instant or interval of RFC 3339.", {"type": "string"}),
    "bands": ("Bands to read.", {"type": "array", "items": {"type": "string"}}),
}
_TYPES: Mapping[Any, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}
_RESULT = "result"


def process_description(verb: Verb) -> dict[str, Any]:
    """Return a verb as a process of OGC API - Processes - Part 1 (18-062r2).

    Parameters
    ----------
    verb
        ``"inpaint"``, ``"extend"``, ``"super_resolve"`` or ``"synthesize"``.

    Returns
    -------
    dict
        JSON values: id, version, inputs with their schemas, and the output.

    Examples
    --------
    >>> process_description("super_resolve")["inputs"]["factor"]["schema"]
    {'type': 'integer', 'default': 2}
    """
    from importlib.metadata import version

    options = _options(verb)
    inputs = {
        name: {"title": name, "description": text, "schema": schema, "minOccurs": int(name == "catalog")}
        for name, (text, schema) in _SOURCE.items()
    }
    inputs |= {
        name: {
            "title": name,
            "description": option.help,
            "schema": _schema(option),
            "minOccurs": int(option.required),
        }
        for name, option in options.items()
    }
    return {
        "id": f"eoaug-{verb.replace('_', '-')}",
        "version": version("eoaug"),
        "title": f"eoaug {verb}",
        "description": f"Applies {verb} to every item of a STAC catalog, and writes a catalog with every generated pixel marked.",
        "jobControlOptions": ["async-execute", "dismiss"],
        "outputTransmission": ["reference"],
        "inputs": inputs,
        "outputs": {
            _RESULT: {
                "title": "catalog",
                "description": "The STAC catalog that was written.",
                "schema": {"type": "string", "format": "uri", "contentMediaType": "application/json"},
            }
        },
    }


def execution_job(verb: Verb, inputs: Mapping[str, Any], *, catalogs: Mapping[str, str], out: str) -> Job:
    """Return the job of an execute request, which reads and writes only where the server says.

    Parameters
    ----------
    verb
        The verb of the process.
    inputs
        The member ``inputs`` of the request.
    catalogs
        Addresses of the catalogs that clients may read, by name.
    out
        Catalog that the job writes.

    Raises
    ------
    ParameterError
        An input that the process does not have, or that the job refuses.
    """
    options = _options(verb)
    job: dict[str, Any] = {"verb": verb, "source": {}, "parameters": {}, "output": {"catalog": out}}
    offered = {"catalog": catalogs, "generator": available()}
    for name, value in inputs.items():
        if name in offered and value not in offered[name]:
            # A client must not name folders of the server, nor hosts.
            raise ParameterError(f"{name}={value!r} is not offered", f"use one of {', '.join(offered[name])}")
        if name == "catalog":
            job["source"][name] = catalogs[value]
        elif name in _SOURCE:
            job["source"][name] = value
        elif name in options:
            path = (options[name].yaml or "").split(".")
            place = job
            for key in path[:-1]:
                place = place.setdefault(key, {})
            if path == ["parameters"]:
                job["parameters"][name] = value
            else:
                place[path[-1]] = value
        else:
            hint = did_you_mean(name, [*_SOURCE, *options])
            raise ParameterError(
                f"{name!r} is no input of {verb}", f"{hint} see the description of the process".lstrip()
            )
    return read_job(job)


def _options(verb: Verb) -> dict[str, Option]:
    """Return what a job may set, by name; the rest of a verb's arguments are objects of Python."""
    if verb not in OWN_OPTIONS:
        raise ParameterError(f"there is no process {verb!r}", f"use one of {', '.join(OWN_OPTIONS)}")
    options = {**OWN_OPTIONS[verb], **shared_options()}
    return {
        name: option for name, option in options.items() if option.yaml is not None and option.cli is not None
    }


def _schema(option: Option) -> dict[str, Any]:
    """Return the JSON schema of an option."""
    kind = option.cli
    if get_origin(kind) is Literal:
        schema: dict[str, Any] = {"type": "string", "enum": list(get_args(kind))}
    elif get_origin(kind) is list:
        schema = {"type": "array", "items": {"type": "string"}}
    elif option.metavar == "KEY=VALUE":
        schema = {"type": "object", "additionalProperties": {"type": "number"}}
    else:
        schema = {"type": _TYPES[kind]}
    return schema | ({} if option.default is None else {"default": option.default})
