"""The attributes of `Set-Cookie`, checked once. Browsers accept a cookie that passes (RFC 6265bis, section 4.1)."""

import re
from typing import Final

from otel_sessions._core.exceptions import ConfigError

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""The name of a header or a cookie (RFC 9110, section 5.6.2)."""
_SECURE_NAMES: Final = ("__host-", "__secure-", "__http-")
_VALUE: Final = re.compile(r"[ -:<-~]*")
"""No semicolon and no control character."""
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_LONGEST_NAME: Final = 4096 - 256
"""Bytes. Browsers take 4096 bytes for name and value, and the id needs the rest (RFC 6265bis, section 5.7)."""
_LONGEST_PATH: Final = 1024
"""Bytes. Browsers ignore an attribute with a longer value (RFC 6265bis, section 5.6)."""
_LONGEST_DOMAIN: Final = 253
_LONGEST_LABEL: Final = 63
"""Characters of a host's name, and of each label of the name (RFC 1035, section 2.3.4)."""
_LONGEST_SECONDS: Final = 400 * 86_400
"""Browsers keep a cookie no longer than this, whatever its Max-Age is (RFC 6265bis, section 5.5)."""


def attributes(
    *, name: str, same_site: str, path: str, domain: str | None, max_age: int | None, partitioned: bool
) -> str:
    """Return the text after `name=value`, without Secure. Raises `ConfigError` if browsers would reject the cookie."""
    _check_name(name)
    _check(name, same_site, path, domain)
    _check_switch("partitioned", partitioned)
    parts = [f"Path={path}"]
    parts += [] if domain is None else [f"Domain={domain}"]
    parts += [] if max_age is None else [f"Max-Age={_checked_seconds(max_age)}"]
    parts += ["HttpOnly", f"SameSite={same_site}"]
    parts += ["Partitioned"] if partitioned else []
    return "".join(f"; {part}" for part in parts)


def is_token(name: object) -> bool:
    """Return whether a header or a cookie can have this name."""
    return isinstance(name, str) and _TOKEN.fullmatch(name) is not None


def always_secure(*, name: str, same_site: str, partitioned: bool, secure: bool | None) -> bool | None:
    """Return whether the cookie is always Secure, or None if the request decides.

    Browsers accept some cookies only with Secure. Raises `ConfigError` if `secure` is False for such a cookie.
    """
    if secure is not None:
        _check_switch("secure", secure, " or None")
    needs = {
        "a name that begins with __Host-, __Secure- or __Http-": name.lower().startswith(_SECURE_NAMES),
        "same_site='None'": same_site == "None",
        "partitioned=True": partitioned,
    }
    needed = [what for what, applies in needs.items() if applies]
    if needed and secure is False:
        raise ConfigError(f"secure=False does not go with {needed[0]}: browsers reject such a cookie")
    return True if needed else secure


def renewal(max_age: int | None) -> float | None:
    """Return the seconds after which a cookie in use is sent again: half of the time that browsers keep the cookie."""
    return None if max_age is None else min(max_age, _LONGEST_SECONDS) / 2


def _check_name(name: str) -> None:
    if not is_token(name):
        raise ConfigError(f"the name of a cookie takes letters, digits and !#$%&'*+-.^_`|~, not {name!r}")
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"the name of a cookie takes at most {_LONGEST_NAME} bytes, not {len(name)}")


def _check_switch(key: str, value: object, more: str = "") -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{key} takes True or False{more}, not {value!r}")


def _check(name: str, same_site: str, path: str, domain: str | None) -> None:
    if same_site not in ("Lax", "Strict", "None"):
        raise ConfigError(f"same_site takes Lax, Strict or None, not {same_site!r}")
    if not str(path).startswith("/") or not _VALUE.fullmatch(path):  # also refuses values that are not texts
        raise ConfigError(f"path takes a path that begins with / and has no semicolon, not {path!r}")
    if len(path) > _LONGEST_PATH:
        raise ConfigError(f"path takes at most {_LONGEST_PATH} bytes, not {len(path)}")
    if domain is not None and not _is_host_name(domain):
        raise ConfigError(f"domain takes a host's name, as in 'example.org', not {domain!r}")
    if name.lower().startswith("__host-") and (path != "/" or domain is not None):
        raise ConfigError("a cookie whose name begins with __Host- takes path='/' and no domain")


def _is_host_name(domain: object) -> bool:
    """Return whether browsers accept this domain. They reject an address: its cookies must have no Domain."""
    if not isinstance(domain, str) or not _DOMAIN.fullmatch(domain):
        return False
    name = domain.removeprefix(".")
    fits = len(name) <= _LONGEST_DOMAIN and all(len(label) <= _LONGEST_LABEL for label in name.split("."))
    return fits and not name.rpartition(".")[2].isdigit()


def _checked_seconds(max_age: object) -> int:
    if isinstance(max_age, bool) or not isinstance(max_age, int) or max_age < 1:
        raise ConfigError(f"max_age takes a whole number of seconds of at least 1, not {max_age!r}")
    return max_age
