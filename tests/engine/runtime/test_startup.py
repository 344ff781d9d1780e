"""What a command shows before it imports its libraries, and how a signal ends it then."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, at, clean_environment

from project.data import Digits
from project.engine.runtime.startup import is_first_process

# The first import of a large library ends a command with a signal.
TRAP = "import os, signal, time\nos.kill(os.getpid(), signal.{})\ntime.sleep(9)\n"
LOADING = {
    "project.fit": "fit: loading torch, lightning and mlflow",
    "project.sweep": "sweep: loading torch, lightning and optuna",
    "project.evaluate": "evaluate: loading torch, lightning and mlflow",
    "project.compare": "compare: loading mlflow",
    "project.sync": "sync: loading mlflow",
    "project.ui": "ui: loading mlflow",
}


def interrupted_in_the_imports(
    module: str, folder: Path, term: str | None, environment: dict[str, str], signum: str = "SIGINT"
) -> str:
    """Return what a command prints on a terminal, or in a pipe if `term` is None; and wait for its exit code."""
    for library in ("torch", "mlflow", "jsonargparse"):
        (folder / f"{library}.py").write_text(TRAP.format(signum))
    paths = f"{folder}{os.pathsep}{clean_environment()['PYTHONPATH']}"
    environment = clean_environment() | {"TERM": term or "xterm", "PYTHONUTF8": "1", "PYTHONPATH": paths} | environment
    reading, writing = os.pipe() if term is None else pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", module], cwd=folder, env=environment, stdin=writing, stdout=writing, stderr=writing
    )
    os.close(writing)
    printed = b""
    with suppress(OSError), open(reading, "rb", buffering=0) as stream:  # noqa: PTH123  # Linux: EIO ends a terminal.
        while chunk := stream.read(4096):
            printed += chunk
    assert command.wait() == (130 if signum == "SIGINT" else 143), printed
    return printed.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("module", LOADING)
def test_a_command_shows_an_activity_before_its_imports_and_removes_it(module: str, tmp_path: Path) -> None:
    printed = interrupted_in_the_imports(module, tmp_path, "xterm", {})
    assert printed == f"\r\x1b[K{LOADING[module]}\r\x1b[Kinterrupted\n"


def test_a_terminal_without_control_codes_gets_a_line(tmp_path: Path) -> None:
    line = LOADING["project.fit"]
    assert interrupted_in_the_imports("project.fit", tmp_path, "dumb", {}) == f"{line}\n\ninterrupted\n"


# `typing_extensions` is the first of all libraries.
@pytest.mark.parametrize("library", ["torch", "typing_extensions"])
@pytest.mark.parametrize("signum", ["SIGINT", "SIGUSR1"])
def test_a_signal_in_the_imports_is_one_line_in_a_pipe(library: str, signum: str, tmp_path: Path) -> None:
    (tmp_path / f"{library}.py").write_text(TRAP.format(signum))
    assert interrupted_in_the_imports("project.fit", tmp_path, None, {}, signum) == "interrupted\n"


def test_only_the_first_process_shows_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(rank, "1")
            assert not is_first_process(), rank
    assert interrupted_in_the_imports("project.fit", tmp_path, "xterm", {"RANK": "1"}) == ""


def printed_by(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder,
        env=clean_environment() | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_that_does_not_exist_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    program = """if True:
        import runpy, sys
        for name, *rest in (["evaluate"], ["predict", "image.png"], ["export"]):
            sys.argv = [name, "0123abcd", *rest]
            try:
                runpy.run_module(f"project.{name}", run_name="__main__", alter_sys=True)
            except SystemExit as end:
                print(name, end.code, "torch" in sys.modules)
        import project.clean
        from project.compare import main
        try:
            main(["0123abcd", "0"])
        except SystemExit as end:
            print("compare", end.code, "torch" in sys.modules)
    """
    with at(tmp_path):
        done = printed_by(program, tmp_path)
    assert done.stdout == "evaluate 2 False\npredict 2 False\nexport 2 False\ncompare 2 False\n", done.stderr
    assert done.stderr.count("got run '0123abcd', which is not in sqlite:///") == 4


@pytest.mark.faults
def test_the_first_step_needs_no_library_of_images_plots_or_statistics(tmp_path: Path) -> None:
    """The number of modules decides when the first step begins; most of these cost half a second each."""
    program = """if True:
        import gc, json, os, sys
        from project.engine.runtime.startup import begin_command
        begin_command("loading")
        from project.fit import main
        from lightning import Callback
        assert not gc.isenabled()
        class First(Callback):
            def on_train_batch_end(self, *_):
                print(json.dumps(sorted(sys.modules)), gc.isenabled(), gc.get_freeze_count() > 100_000, flush=True)
                os._exit(0)
        from project.engine.runtime.exit import exit_without_teardown
        with exit_without_teardown():
            main([], [First()])
    """
    with at(tmp_path):  # A first fit leaves the digits in files, so that a second one does not import scikit-learn.
        Digits().load("train")
        Digits().load("test")
    done = printed_by(program, tmp_path)
    listed, _, collects = done.stdout.splitlines()[-1].rpartition("] ")
    assert collects == "True True", done.stderr
    loaded = set(json.loads(f"{listed}]"))
    unused = {"matplotlib", "mlflow.pyfunc.model", "mlflow.pytorch", "optuna", "scipy.signal", "scipy.stats", "sklearn",
              "torchmetrics.functional.image", "torchmetrics.text", "torchvision"}  # fmt: skip
    assert loaded & unused == set()
