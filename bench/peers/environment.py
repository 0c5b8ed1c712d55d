"""Environments for peers whose requirements do not fit ours."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent
ENVIRONMENTS = PEERS.parents[1] / ".venv" / "peers"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made on first use from `<peer>.txt`."""
    folder, requirements = ENVIRONMENTS / peer, PEERS / f"{peer}.txt"
    python, done = folder / "bin" / "python", folder / requirements.name
    if not done.is_file() or done.read_text() != requirements.read_text():
        print(f"installing {peer} in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--quiet", "--requirement", requirements]
        subprocess.run(install, check=True)
        done.write_text(requirements.read_text())
    return python
