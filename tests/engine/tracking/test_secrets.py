"""Secrets in settings, and in the diff of uncommitted code."""

import shutil
import subprocess
from enum import Enum
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch.callbacks.timer import Interval

from project.engine.tracking import provenance
from project.engine.tracking.secrets import HIDDEN, redact_code, redact_setting, storable


@pytest.mark.parametrize(
    "setting",
    [
        "model.net.token_dim=192", "model.net.class_token=mean", "model.net.class_token=True", "data.tokenizer=bpe",
        "model.net.num_tokens=16", "model.net.max_token=2048", "model.net.key_dim=64", "data.public_key=ssh-rsa AAAA",
        "model.net.tokens=learned", "model.net.token_mixer=attention", "model.net.pad_token_id=50256",
        "model.net.classToken=mean", "model.net.use_token=true", "data.token=3", "data.password=None",
        "model.net.mask_token=zeros", "model.net.token_type_embeddings=sum", "data.monkey=see",
    ],
)  # fmt: skip
def test_a_setting_of_a_model_is_shown(setting: str) -> None:
    name, _, value = setting.partition("=")
    assert redact_setting(name, value) == value


@pytest.mark.parametrize(
    "name",
    [
        "api_token", "hf_token", "github_token", "HF_TOKEN", "GITHUB_TOKEN", "token", "authtoken", "hfToken",
        "wandb_token", "id_token", "access_token", "SLACK_TOKEN_PROD", "api_tokens", "use_auth_token", "api_key",
        "apikey", "password", "passwd", "db_password", "secret_key", "AWS_SECRET_ACCESS_KEY", "client_secret",
        "private_key", "credentials", "signing_key", "account_key", "passphrase", "session_token", "github_tokens",
        "hf_token_read",
    ],
)  # fmt: skip
def test_a_secret_is_hidden(name: str) -> None:
    assert redact_setting(f"data.{name}", "hunter2hunter2") == "***"


def test_a_number_can_be_a_password_but_not_a_token() -> None:
    assert redact_setting("data.password", "12345") == "***"
    assert redact_setting("data.api_token", "1234567890") == "***"


def test_settings_in_a_list_are_storable() -> None:
    class Kind(Enum):
        LARGE = 1

    given = Namespace(class_path="service.Client", init_args=Namespace(api_key="hunter2", unit=Interval.step, n=1))
    stored = storable("trainer.callbacks", [given, {"kind": Kind.LARGE, "password": "hunter2"}])
    assert stored[0].as_dict()["init_args"] == {"api_key": HIDDEN, "unit": "step", "n": 1}
    assert type(stored[0].init_args.unit) is str
    assert stored[1] == {"kind": "LARGE", "password": HIDDEN}


def test_code_keeps_everything_except_secrets() -> None:
    code = 'api_key = "abcdef"\ntoken_dim = "wide"\n{"password": "pw12"}\ntoken = tokenizer(text)\n'
    assert redact_code(code) == 'api_key = "***"\ntoken_dim = "wide"\n{"password": "***"}\ntoken = tokenizer(text)\n'


@pytest.mark.timeout(60)  # A regular expression that backtracks takes hours.
def test_a_long_line_is_redacted_quickly() -> None:
    line = "a" * 1_000_000
    assert redact_code(line) == line


def test_the_diff_restores_an_uncommitted_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path / "here"), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout

    here = tmp_path / "here"
    (here / "project").mkdir(parents=True)
    (here / "project/old.py").write_text("old = 1\n")
    (here / ".gitignore").write_text("ignored/\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(provenance, "_HERE", str(here / "project"))
    assert provenance.git_state()[1] == ""
    files = {"project/old.py": "old = 2\n", "project/mlp.py": "class MLP: pass\n", "configs/müll.yaml": "model: mlp"}
    for name, text in files.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    for name in ("ignored/big.py", ".env", ".mine.yaml", "notes.txt", "credentials.yaml", "server.pem"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("hunter2\n")
    (here / "table.json").write_text("hunter2", encoding="utf-16")
    (here / "huge.py").write_text("hunter2\n" * 100_000)
    tags, diff = provenance.git_state()
    assert tags["git.dirty"] == "true"
    assert "hunter2" not in diff
    (tmp_path / "git.diff").write_text(diff)
    shutil.copytree(here / ".git", tmp_path / "there/.git")
    here.rename(tmp_path / "before")
    (tmp_path / "there").rename(here)
    git("checkout", "-q", ".")
    git("apply", str(tmp_path / "git.diff"))
    assert {name: (here / name).read_text() for name in files} == files
