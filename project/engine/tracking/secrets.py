"""Redaction of secrets: passwords in URIs, settings with secret names, tokens of the environment."""

import os
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from jsonargparse import Namespace

HIDDEN = "***"

_PASSWORD = re.compile(r"(?<=://)([^\s:/@'\"]*):([^\s/'\"]+)@")
_TOKEN_AS_USER = re.compile(r"(?<=://)[^\s:/@'\"]{16,}@")
_QUERY = re.compile(r"(?i)([?&](?:sig|signature|token|key|api_?key|password|secret)=)[^&\s'\"]+")
_SECRET_NAME = re.compile(
    "(?i)SECRET|PASSW|PASSPHRASE|CREDENTIAL|"
    "(?:API|ACCESS|AUTH|BEARER|GITHUB|GITLAB|HF|REFRESH|SESSION)_?TOKEN|"
    "(?:API|ACCESS|PRIVATE|SIGNING|ENCRYPTION|ACCOUNT|AUTH|SSH)_?KEY"
)
# A setting that ends with `token`, or a variable with it, unlike `token_dim` and `MAX_TOKENS`.
_TOKEN_NAME = re.compile("(?i:token)$|TOKEN(?!IZ|S)")
_TOKEN_OF_A_MODEL = re.compile(
    "(?i)(?<![a-z])(?:bos|class|cls|dist|end|eos|extra|global|image|mask|max|min|n|num|pad|patch|prefix|prompt|query|"
    "register|sep|sos|special|start|text|unk|video|visual)_?token$"
)
_NO_SECRET = re.compile(r"None|True|False|true|false|")
_COUNT = re.compile(r"-?\d{1,5}(\.\d*)?")
_ASSIGNED = re.compile(r"""(?<![\w-])([\w-]++)(["']?\s*[:=]\s*)(["'])([^"'\n]+)\3""")
_SHORTEST = 6


@lru_cache(4096)  # The names of all variables are checked for each setting.
def is_secret_name(name: str) -> bool:
    """Return whether a variable, setting or file has the name of a secret, like `hf_token` and unlike `mask_token`."""
    is_token = _TOKEN_NAME.search(name) and not _TOKEN_OF_A_MODEL.search(name)
    return bool(is_token or _SECRET_NAME.search(name))


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
    for name in list(os.environ):  # a copy, because threads of libraries set and remove variables
        value = os.environ.get(name, "")
        if is_secret_name(name):
            yield value
        elif match := _PASSWORD.search(value):
            yield match[2]


def redact_setting(name: str, value: str) -> str:
    """Hide a setting's value if its name or its content marks a secret."""
    last = name.rpartition(".")[2]
    harmless = _NO_SECRET.fullmatch(value) or (_COUNT.fullmatch(value) and not _SECRET_NAME.search(last))
    return HIDDEN if is_secret_name(last) and not harmless else redact(value)


def storable(name: str, value: Any) -> Any:
    """Return a setting as a file of settings can hold it: without secrets, also in the arguments of its classes."""
    match value:
        case Enum():
            return value.value if isinstance(value, str) else value.name
        case str():
            return redact_setting(name, value)
        case Namespace():
            stored = value.clone()
            for key, part in vars(value).items():
                stored[key] = storable(key, part)
            return stored
        case dict():
            return {key: storable(str(key), part) for key, part in value.items()}
        case list():
            return [storable(name, part) for part in value]
    return value


def redact_code(text: str) -> str:
    """Hide literals that source code assigns to names of secrets, and everything that `redact` hides."""
    return redact(
        _ASSIGNED.sub(
            lambda found: f"{found[1]}{found[2]}{found[3]}{redact_setting(found[1], found[4])}{found[3]}", text
        )
    )


def redact_options(argv: Sequence[str]) -> list[str]:
    """Hide secret values of a command line's options."""
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
