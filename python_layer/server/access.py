"""Who may use the server, and how much."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from python_layer.server.keys import ApiKeys, load_keys
from python_layer.server.rate_limits import RateLimits
from python_layer.utils.settings import Settings

KEYS_VARIABLE = "MILI_API_KEYS"
ADMIN_VARIABLE = "MILI_ADMIN_KEY"
MOST_BODY_BYTES = 8 * 2**20
BODY_SECONDS = 60.0


@dataclass(frozen=True)
class Access:
    """What is asked of a request before anything else is done for it.

    Attributes:
        keys: One of these; anybody may come where there are none.
        admin: What /metrics needs instead, where there are any.
        limits: Of requests and tokens in a minute.
        max_body_bytes: Of a body.
        body_timeout: Most seconds until a body is there.
        cors_origins: Whose pages may use the server from a browser.
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    admin: ApiKeys = field(default_factory=ApiKeys)
    limits: RateLimits = field(default_factory=RateLimits)
    max_body_bytes: int = MOST_BODY_BYTES
    body_timeout: float = BODY_SECONDS
    cors_origins: tuple[str, ...] = ()


def access_of(settings: Settings, environment: Mapping[str, str]) -> Access:
    """What the settings ask for, with the keys of the environment.

    Raises:
        ConfigError: As :func:`~python_layer.server.keys.load_keys`.
    """
    return Access(
        keys=load_keys(settings.api_keys_file, KEYS_VARIABLE, environment),
        admin=load_keys(settings.admin_key_file, ADMIN_VARIABLE, environment),
        limits=RateLimits(settings.requests_per_minute, settings.tokens_per_minute),
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        cors_origins=settings.cors_origins,
    )


def is_public(host: str) -> bool:
    """Whether other machines may reach a server that listens on an address."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
