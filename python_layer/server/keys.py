"""API keys: kept as hashes, compared in constant time."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from python_layer.utils.errors import ConfigError, InvalidRequestError

PREFIX = "mili-"
SECRET_BYTES = 32
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_NAME = re.compile(r"[^\s:#][^\s:]{0,63}")


class ApiKeys:
    """Keys by the name of their owner.

    Args:
        digests: Name -> SHA-256 of the key, in hex. Keys are long and random, so that a plain hash can't be undone.
    """

    def __init__(self, digests: Mapping[str, str] | None = None) -> None:
        self._digests = {name: bytes.fromhex(digest) for name, digest in (digests or {}).items()}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, key: bytes) -> str | None:
        """The name of a key, None for one that is not known. Takes as long whichever it is."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def load_keys(file: str | None, variable: str, environment: Mapping[str, str]) -> ApiKeys:
    """The keys of a file and of an environment variable, both optional.

    Args:
        file: One ``name:sha256-hex`` in a line; empty lines and those that begin with # mean nothing.
        variable: Holds plain keys with commas between them; the n-th is called ``variable-n``.
        environment: Where it is looked up.

    Raises:
        ConfigError: The file can't be read, a line is wrong, a name is there twice, or there is no key where there
            should be some: a server that is meant to be closed must not be open by mistake.
    """
    digests = {} if file is None else _of_file(Path(file))
    if variable in environment:
        plain = [key.strip() for key in environment[variable].split(",") if key.strip()]
        if not plain:
            raise ConfigError(f"the environment sets {variable} to no key; give one, or unset it")
        digests |= {f"{variable}-{n}": _digest(key) for n, key in enumerate(plain, 1)}
    return ApiKeys(digests)


def new_key(name: str) -> tuple[str, str]:
    """A fresh key, and its line for the file.

    Raises:
        InvalidRequestError: The name can't be in a line of the file.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"the name is {name!r}; it must be 1 to 64 characters without spaces and colons, the first no #", "name"
        )
    key = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return key, f"{name}:{_digest(key)}"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _of_file(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the keys in {file} can't be read: {error}") from None
    digests: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        name, _, digest = line.rpartition(":")
        # The line itself is not shown: it may be a key that was put there by mistake.
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise ConfigError(f"{file}, line {number}: must be name:sha256-hex, as `mili keys new NAME` prints it")
        if name in digests:
            raise ConfigError(f"{file}, line {number}: the name {name!r} is there twice")
        digests[name] = digest
    if not digests:
        raise ConfigError(f"{file} holds no key; `mili keys new NAME` makes one")
    return digests
