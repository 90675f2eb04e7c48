"""What comes with MILI beside its code: ``config`` and ``models``."""

import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def shipped(name: str) -> Path:
    """A folder of the repository or, where a wheel was installed, its copy in the environment's ``share/mili``.

    Args:
        name: Path of the folder in the repository.
    """
    # Beside an installed package other projects may have a folder of that name.
    is_repository = (ROOT / "pyproject.toml").exists()
    return (ROOT if is_repository else Path(sysconfig.get_path("data"), "share", "mili")) / name
