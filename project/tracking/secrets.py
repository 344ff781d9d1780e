"""What must not leave this machine: passwords in addresses, settings with secret names, tokens of the environment."""

import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

HIDDEN = "***"

_PASSWORD = re.compile(r"(?<=://)([^\s:/@'\"]*):([^\s/'\"]+)@")
_TOKEN_AS_USER = re.compile(r"(?<=://)[^\s:/@'\"]{16,}@")
_QUERY = re.compile(r"(?i)([?&](?:sig|signature|token|key|api_?key|password|secret)=)[^&\s'\"]+")
_SECRET_NAME = re.compile(r"(?i)TOKEN(?!S$|IZ)|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY")
_SHORTEST = 6


def redact(text: str) -> str:
    """Hide passwords in URIs, those of the environment anywhere, and the values of variables named like secrets."""
    text = _PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = _TOKEN_AS_USER.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    for secret in _secrets_of_environment():
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN).replace(quote(secret, safe=""), HIDDEN)
    return text


def _secrets_of_environment() -> Iterator[str]:
    for name in list(os.environ):  # a copy at once: threads of libraries set and remove variables
        value = os.environ.get(name, "")
        if _SECRET_NAME.search(name):
            yield value
        elif match := _PASSWORD.search(value):
            yield match[2]


def redact_setting(name: str, value: str) -> str:
    """Hide a setting's value where its own name, or what it holds, says that it is secret."""
    secret = _SECRET_NAME.search(name.rpartition(".")[2]) and value not in ("None", "")
    return HIDDEN if secret else redact(value)


def redact_options(argv: Sequence[str]) -> list[str]:
    """Hide the values of a command line's options in the same way."""
    hidden: list[str] = []
    for word in argv:
        option, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            hidden.append(f"{option}={redact_setting(option, value)}")
        elif hidden and hidden[-1].startswith("--") and not word.startswith("--"):
            hidden.append(redact_setting(hidden[-1], word))
        else:
            hidden.append(redact(word))
    return hidden
