"""What operators see of telemetry on the command line."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from agent.cli.cloud.telemetry import sparkline
from tests.support.controller import AUTOGLM, Controller
from tests.support.node import Member, event, minute


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


@pytest.fixture(scope="module")
def member(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """It has told one of each."""
    member = Member(controller, tmp_path_factory.mktemp("member"), "teller")
    now = time.time()
    member.report(backlog={"logs": 7})
    member.send(
        events=[event(1, "model.failed", now - 5, model="magika")],
        logs=[event(1, "warning", now - 5, event="it is \x1b[31mhot", celsius=80)],
        samples=[event(1, "prompt", now - 5, prompt="hello")],
        metrics=[minute(n, now - 60 * n, up=[1, n, n, n, n]) for n in (1, 2, 3)],
    )
    yield member
    member.client.close()


def test_events_logs_and_samples_are_lines_and_json(controller: Controller, member: Member) -> None:
    mine = ("--node", member.name)
    assert "model.failed\tmodel=magika" in controller.run("events", *mine, "--since", "1h").stdout
    [told] = json.loads(controller.run("events", *mine, "--kind", "model.failed", "--json").stdout)
    assert told["body"] == {"model": "magika"}
    assert "warning\tit is  [31mhot celsius=80" in controller.run("logs", "--level", "warning").stdout
    assert "prompt=hello" in controller.run("samples", *mine).stdout


def test_series_are_numbers_in_a_pipe(controller: Controller, member: Member) -> None:
    assert controller.run("series").stdout.splitlines()[1].startswith("up\t1\t")
    shown = controller.run("series", "up", "--node", member.name, "--step", "1m").stdout.splitlines()
    assert [row.split("\t")[3:] for row in shown[1:]] == [["1", *[n] * 5] for n in "321"]
    [line] = json.loads(controller.run("series", "up", "--by", "node", "--json").stdout)["lines"]
    assert line["node"] == member.name


def test_a_curve_has_a_bar_for_each_step() -> None:
    assert sparkline([0, 1, None, 7]) == "▁▂ █"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([]) == ""


def test_the_list_of_nodes_says_what_waits_there(controller: Controller, member: Member) -> None:
    heads, row = (line.split("\t") for line in controller.run("nodes").stdout.splitlines())
    shown = dict(zip(heads, row, strict=True))
    assert (shown["BACKLOG"], shown["CLOCK"], shown["CONFIG"]) == ("7", "right", "1 behind")


def test_events_are_followed_as_they_come(controller: Controller, member: Member) -> None:
    command = [AUTOGLM, "cloud", "events", "--follow", "--json", "--node", member.name]
    with subprocess.Popen(command, env=controller.variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            begun = [json.loads(process.stdout.readline())["kind"] for _ in range(2)]
            assert begun == ["node.joined", "model.failed"]
            member.send(events=[event(2, "later")])
            assert json.loads(process.stdout.readline())["kind"] == "later"
        finally:
            process.kill()


def test_series_are_curves_on_a_terminal(controller: Controller, member: Member) -> None:
    ours, theirs = pty.openpty()
    command = [AUTOGLM, "cloud", "series", "up", "--last", "1h", "--step", "1m", "--by", "node"]
    try:
        done = subprocess.run(command, env=controller.variables, stdout=theirs, check=True, timeout=60)
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert f"{member.name} up" in shown
    assert "█▅▁" in shown
    assert "min 1  mean 2  max 3  last 1" in shown
