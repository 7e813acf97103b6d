"""Converts pickled weights to safetensors in a sandboxed process.

Nothing else in eoaug reads a pickle.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from eoaug.errors import GeneratorError
from eoaug.generators.checkpoints.hub import find
from eoaug.generators.checkpoints.safe_read import read_header

__all__ = ["convert_weights"]


_NAMES = {
    "diffusion_pytorch_model": "diffusion_pytorch_model",
    "pytorch_model": "model",
    "pytorch_lora_weights": "pytorch_lora_weights",
    "learned_embeds": "learned_embeds",
}
"""Stem of a pickled file, and of the safetensors file written for it."""

_TIMEOUT_S = 3600
_MEMORY_FACTOR = 3
"""Address space of the child in sizes of the file, in addition to what torch itself maps."""

_CHILD = """
import resource, sys
source, target, memory = sys.argv[1], sys.argv[2], int(sys.argv[3])
import torch
from safetensors.torch import save_file
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.", "socket.", "ctypes.",
             "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link", "os.symlink", "shutil.", "webbrowser.",
             "pty.", "os.kill", "urllib.", "ftplib.")
WRITING = ("w", "a", "x", "+")
def watch(event, args):
    # Forbidden even if the unpickler allowed it: to start programs, connect, delete, import or write elsewhere.
    if event == "open":
        path, mode = str(args[0]), args[1] or ""
        if any(sign in mode for sign in WRITING) and path != target:
            raise PermissionError(f"writing {path}")
    elif event.startswith(FORBIDDEN):
        raise PermissionError(event)
sys.addaudithook(watch)
state = torch.load(source, map_location="cpu", weights_only=True)
if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
    state = state["state_dict"]
if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
    sys.exit("holds something else than tensors by name")
save_file({str(k): v.contiguous().clone() for k, v in state.items()}, target, metadata={"format": "pt"})
"""


def convert_weights(folder: str | Path) -> list[Path]:
    """Write a safetensors file next to every pickled weight file of a checkpoint; the pickles are kept.

    Each file is read by ``torch.load(weights_only=True)`` in a separate process, without the parent's
    environment, with limits on memory and time, and with an audit hook that forbids starting programs, opening
    connections, loading native libraries and writing any file but the result.

    Parameters
    ----------
    folder
        A checkpoint, or one of its components.

    Returns
    -------
    list of pathlib.Path
        The files written.

    Raises
    ------
    GeneratorError
        A file holds something else than tensors, or there is nothing to convert.
    """
    root = find(folder)
    written = []
    for source in sorted(path for path in root.rglob("*.bin") if path.stem in _NAMES):
        target = source.with_name(f"{_NAMES[source.stem]}.safetensors")
        if not target.exists():
            _convert(source, target)
            written.append(target)
    if not written and not any(root.rglob("*.safetensors")):
        raise GeneratorError(
            f"{root} holds no weights to convert",
            f"it should hold {', '.join(f'{name}.bin' for name in _NAMES)}",
        )
    return written


def _convert(source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
        converted = Path(scratch) / "weights.safetensors"
        memory = _MEMORY_FACTOR * source.stat().st_size + 2**30
        command = [sys.executable, "-I", "-c", _CHILD, str(source), str(converted), str(memory)]
        environment = {"PATH": "", "HOME": scratch, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GeneratorError(
                f"converting {source} took more than {_TIMEOUT_S} s", "do not use it"
            ) from error
        if done.returncode or not converted.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise GeneratorError(
                f"{source} holds something else than weights: {last[:300]}",
                "do not use it; get safetensors from its authors",
            )
        read_header(converted)
        converted.replace(target)
