"""What steps cost is learnt from the steps, whatever mix of them comes, and follows the device's speed."""

from __future__ import annotations

import pytest

from agent.pace import LEAST, Pace

COSTS = {"few cores": (0.003, 0.0033, 0.0029), "matrix units": (0.020, 0.0008, 0.0004)}


class Device:
    """Steps last what its costs (seconds of a pass, a row, a prompt token) and its slowness make of them."""

    def __init__(self, costs: tuple[float, float, float]) -> None:
        self.pace = Pace(0.05, 512)
        self.costs, self.slowness = costs, 1.0
        for passes, rows, tokens in ((1, 1, 0), (1, 4, 0), (1, 1, 0), (1, 4, 0), (1, 0, LEAST)):
            self.step(passes, rows, tokens)

    def step(self, passes: int, rows: int, tokens: int) -> None:
        each, row, token = self.costs
        seconds = self.slowness * (each * passes + row * rows + token * tokens)
        self.pace.took(passes, rows, tokens, seconds)

    def right(self, rows: int) -> float:
        """Prompt tokens that cost as much as the decodes beside them."""
        each, row, token = self.costs
        return (each + row * rows) / token


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS.keys())
@pytest.mark.parametrize("slowness", [0.7, 1.0, 1.5])
def test_a_change_of_speed_is_not_taken_for_dearer_prompts(
    costs: tuple[float, float, float], slowness: float
) -> None:
    device = Device(costs)
    device.slowness = slowness
    for _ in range(300):  # a full house: each step has prompts
        device.step(2, 31, device.pace.piece(31))
    wanted = min(512.0, max(LEAST, device.right(31), (0.05 / slowness - costs[0] - 31 * costs[1]) / costs[2]))
    assert device.pace.piece(31) == pytest.approx(wanted, rel=0.25)


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS.keys())
def test_decodes_alone_tell_the_pass_from_the_rows(costs: tuple[float, float, float]) -> None:
    device = Device(costs)
    for at in range(100):
        device.step(1 + at % 2, 1 + at % 16, 0)
    assert device.pace.pass_s == pytest.approx(costs[0], rel=0.05)
    assert device.pace.row_s == pytest.approx(costs[1], rel=0.05)
