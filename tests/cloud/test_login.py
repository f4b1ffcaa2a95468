"""Operators' commands on another machine than the controller's."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from cloud_sync import identity
from tests.support.controller import AUTOGLM, Controller

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    """Whose tokens are to be renewed at each command."""
    one = start_controller(AUTOGLM_CLOUD_ACCESS_LIFE_S="5")
    one.run("users", "add", "olga", "--role", "operator", stdin=PASSWORD)
    return one


class Machine:
    """One where no controller is."""

    def __init__(self, folder: Path, controller: Controller) -> None:
        self.login_file = folder / "config" / "autoglm" / "cloud.json"
        self.fingerprint = identity.fingerprint((controller.data_dir / "ca.pem").read_bytes())
        self.url = controller.url
        self.variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AUTOGLM_")},
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
        }

    def run(self, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AUTOGLM, "cloud", *arguments],
            env=self.variables | more,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def log_in(self, *arguments: str, stdin: str = PASSWORD, **more: str) -> subprocess.CompletedProcess[str]:
        pinned = ("--ca-fingerprint", self.fingerprint)
        return self.run("login", self.url, *pinned, *arguments, stdin=stdin, **more)


@pytest.fixture
def machine(tmp_path: Path, controller: Controller) -> Machine:
    return Machine(tmp_path, controller)


def test_a_user_logs_in_once_and_every_command_works_until_the_logout(
    controller: Controller, machine: Machine
) -> None:
    refused = machine.run("nodes")
    assert refused.returncode == 1
    assert "autoglm cloud login" in refused.stderr
    done = machine.log_in("--user", "olga")
    assert (done.returncode, done.stderr) == (0, f"Logged in to {machine.url} as user:olga, role operator\n")
    assert machine.login_file.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in machine.login_file.read_text()
    assert machine.run("token").stdout.count(".") == 2
    kept = machine.login_file.read_text()
    assert machine.run("logout").returncode == 0
    assert not machine.login_file.exists()
    machine.login_file.write_text(kept)  # whoever copied it has nothing: the controller was told
    assert "Log in again" in machine.run("nodes").stderr


def test_a_token_that_is_over_is_renewed_also_by_two_commands_at_once(machine: Machine) -> None:
    assert machine.log_in("--user", "olga").returncode == 0
    first = json.loads(machine.login_file.read_text())
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: machine.run("nodes"), range(3)))
    assert [one.stderr for one in done if one.returncode] == []
    assert json.loads(machine.login_file.read_text())["refresh_token"] != first["refresh_token"]


def test_a_program_logs_in_by_its_secret(controller: Controller, machine: Machine) -> None:
    secret = controller.run("clients", "add", "robot", "--role", "operator").stdout.strip()
    assert machine.log_in("--client-id", "robot", AUTOGLM_CLOUD_CLIENT_SECRET=secret).returncode == 0
    assert "client:robot" in machine.run("whoami").stdout
    controller.run("clients", "disable", "robot")
    refused = machine.log_in("--client-id", "robot", stdin=secret)
    assert "account is disabled" in refused.stderr


def test_who_is_not_the_controller_that_was_meant_hears_no_password(machine: Machine) -> None:
    other = machine.run("login", machine.url, "--ca-fingerprint", "0" * 64, "--user", "olga", stdin=PASSWORD)
    assert other.returncode == 1
    assert "another fingerprint" in other.stderr
    unknown = machine.run("login", machine.url, "--user", "olga", stdin=PASSWORD)
    assert unknown.returncode == 1
    assert "--ca-fingerprint" in unknown.stderr
    assert machine.run("login", "http://203.0.113.1:8090", stdin=PASSWORD).returncode == 2
    assert not machine.login_file.exists()


def test_on_a_terminal_the_fingerprint_is_shown_and_the_password_is_not(machine: Machine) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(AUTOGLM, [AUTOGLM, "cloud", "login", machine.url], machine.variables)
    shown = ""
    with suppress(OSError):  # the command's end is the terminal's
        for prompt, answer in (("[y/N]", "y"), ("User:", "olga"), ("Password:", PASSWORD), ("\0", "")):
            until = time.monotonic() + 60
            while prompt not in shown and time.monotonic() < until:
                shown += os.read(terminal, 1000).decode()
            os.write(terminal, f"{answer}\n".encode())
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    assert machine.fingerprint in shown
    assert "as user:olga" in shown
    assert PASSWORD not in shown


def test_administrators_run_accounts_and_users_change_their_own_password(
    controller: Controller, machine: Machine
) -> None:
    short = controller.run("users", "add", "eve", stdin="too short", check=False)
    assert short.returncode == 1
    controller.run("users", "add", "eve", stdin=PASSWORD)
    controller.run("users", "role", "eve", "operator")
    [row] = [row for row in controller.run("users", "list").stdout.splitlines() if row.startswith("eve")]
    assert row.split("\t") == ["eve", "operator", "active", "never"]
    assert machine.log_in("--user", "eve").returncode == 0
    own = machine.run("users", "password", "eve", stdin=f"{PASSWORD}\nand another one\n")
    assert own.returncode == 0, own.stderr
    assert machine.log_in("--user", "eve", stdin="and another one").returncode == 0
    controller.run("users", "disable", "eve")
    assert "Log in again" in machine.run("nodes").stderr


def test_the_data_folder_makes_the_first_administrator_and_tells_the_fingerprint(
    controller: Controller, machine: Machine
) -> None:
    told = json.loads(controller.run("whoami", "--json").stdout)
    assert told["name"].startswith("local:")
    assert (told["role"], told["ca_fingerprint"]) == ("admin", machine.fingerprint)
