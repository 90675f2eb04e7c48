"""What comes with MILI beside its code: ``config`` and ``models``."""

import site
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def shipped(name: str) -> Path:
    """A folder of the repository or, where a wheel was installed, its copy in ``share/mili``.

    Args:
        name: Path of the folder in the repository.
    """
    # Beside an installed package other projects may have a folder of that name.
    if (ROOT / "pyproject.toml").exists() and (ROOT / name).exists():
        return ROOT / name
    # Where pip puts it: into the environment, or with --target, or with --user.
    places = [Path(base, "share", "mili", name) for base in (sysconfig.get_path("data"), ROOT, site.getuserbase())]
    return next((place for place in places if place.exists()), places[0])
