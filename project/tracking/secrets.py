"""What must not leave this machine: passwords in addresses, and tokens of the environment."""

import os
import re

_PASSWORD = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s/@'\"]+@")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
_SHORTEST = 6
_HIDDEN = "***"


def redact(text: str) -> str:
    """Hide passwords in URIs and the values of environment variables whose names look like tokens."""
    text = _PASSWORD.sub(rf"\1:{_HIDDEN}@", text)
    for name in list(os.environ):  # a copy at once: threads of libraries set and remove variables
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name):
            text = text.replace(value, _HIDDEN)
    return text


def redact_setting(name: str, value: str) -> str:
    """Hide a setting's value where its own name, or what it holds, says that it is secret."""
    secret = _SECRET_NAME.search(name.rpartition(".")[2]) and value not in ("None", "")
    return _HIDDEN if secret else redact(value)
