"""Model files inside the wheels of other packages.

They are found without importing those packages, which would load native libraries that are not used here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from asr_proto.errors import SetupError


def wheel_file(package: str, path: str) -> Path:
    """The file at `path` inside an installed package. Raises SetupError where there is no such file."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, path)
        if file.is_file():
            return file
    raise SetupError(f"{package} with {path} is not installed: install the release of it that setup.cfg names")
