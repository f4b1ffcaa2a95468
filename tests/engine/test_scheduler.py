"""The scheduler with an Engine that checks its KV cache: whatever comes and goes, every answer is right."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.engines.engine import EngineInfo
from agent.frames import Start
from agent.pace import Pace
from agent.request import Sampling
from agent.scheduler import MOVE_AFTER, Plan, Scheduler
from agent.sequence import Group, Sequence
from agent.text import Text
from agent.worker import carry_out
from tests.plugins.echo.echo_engine import VOCABULARY, EchoEngine

CONTEXT = 96


@dataclass
class House:
    """A Worker's loop without its process: the same verbs, driven by hand."""

    slots: int = 4
    piece: int | None = 16
    trims: bool = True
    pad: bool = True
    answers: dict[str, str] = field(default_factory=dict)
    widest: int = 0

    def __post_init__(self) -> None:
        self.engine = EchoEngine(EngineInfo("echo", self.slots, CONTEXT, VOCABULARY, "cpu", self.trims), 0)
        self.pace = Pace(0.05, 512, self.piece)
        if self.pad:
            self.pace.pass_s, self.pace.row_s = 1.0, 0.1
        self.scheduler = Scheduler(self.slots, CONTEXT, self.pace, self.trims)
        self.count = 0

    def add(self, text: str, priority: int = 5, n: int = 1, limit: int = 99) -> str:
        self.count += 1
        start = Start(f"r{self.count}", text, Sampling(), limit, (), n, priority, None, 1)
        prompt = self.engine.tokenize(text)
        group = Group(start, prompt, n)
        for index in range(n):
            sampler = self.engine.sampler(Sampling(), prompt, index)
            self.scheduler.add(
                Sequence(
                    group, index, min(limit, CONTEXT - len(prompt)), sampler, Text(), (-priority, self.count)
                )
            )
        return start.id

    def step(self) -> Plan:
        plan = self.scheduler.plan()
        if not plan.pieces:
            return plan
        drawn = carry_out(plan, self.engine)
        fitted = self.pace.pass_s, self.pace.row_s
        self.scheduler.done(plan, 0.01)
        self.pace.pass_s, self.pace.row_s = fitted  # costs as the test wants them
        for one, token in zip(plan.drawing, drawn, strict=True):
            one.sampler.accept(token.token)
            ends = self.engine.ends(token.token)
            chunk = one.take(token, self.engine.piece(token.token), ends, one.computed >= CONTEXT)
            key = f"{one.group.start.id}/{one.index}"
            if chunk:
                self.answers[key] = self.answers.get(key, "") + chunk.text
                if chunk.finish:
                    self.scheduler.finish(one)
        return plan

    def run(self) -> None:
        while self.scheduler.running or self.scheduler.waiting:
            assert self.step().pieces, "nothing to do, yet somebody waits"


WORDS = st.sampled_from(["system: be kind.", "user: ", "hello ", "abcdefghijklmnop", "x", "漢字"])
PROMPTS = st.lists(WORDS, min_size=1, max_size=4).map("".join)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(PROMPTS, st.integers(0, 9), st.integers(1, 3), st.integers(0, 6)), max_size=14),
    st.sets(st.integers(1, 14), max_size=4),
    st.sampled_from([None, 1, 16, 40]),
    st.booleans(),
    st.booleans(),
)
def test_every_answer_is_whole_whatever_comes_goes_and_is_shared(
    arrivals: list[tuple[str, int, int, int]],
    cancelled: set[int],
    piece: int | None,
    trims: bool,
    pad: bool,
) -> None:
    house = House(piece=piece, trims=trims, pad=pad)
    texts = {}
    for text, priority, n, steps in arrivals:
        request = house.add(text, priority, n)
        texts[request] = (text, n)
        for _ in range(steps):
            house.step()
        if house.count in cancelled:
            house.scheduler.remove(request)
            del texts[request]
    house.run()
    for request, (text, n) in texts.items():
        answer = text.rpartition("user: ")[2].encode()[: CONTEXT - len(text.encode())]
        for index in range(n):
            assert house.answers.get(f"{request}/{index}", "").encode()[: len(answer)] == answer


def test_a_shared_prefix_is_computed_once_even_when_all_arrive_together() -> None:
    house = House(slots=4)
    for question in ("one", "two", "three", "four"):
        house.add("system: a long shared system prompt of many words. user: " + question)
    computed = 0
    while house.scheduler.running or house.scheduler.waiting:
        computed += house.step().prompt_tokens
    assert computed < 60 + 4 * 8


def test_running_slots_stay_one_dense_run() -> None:
    house = House(slots=8, piece=400, pad=False)
    for letter, length in zip("abcdefgh", (50, 3, 50, 3, 50, 3, 50, 3), strict=True):
        house.add(letter * length)
    house.step()
    assert len(house.scheduler.running) == 8
    while len(house.scheduler.running) > 4:
        house.step()
    assert house.scheduler.slots.holes()
    for _ in range(4 * (MOVE_AFTER + 1)):
        house.step()
    assert len(house.scheduler.running) == 4
    assert not house.scheduler.slots.holes()


def test_a_newcomer_takes_a_hole_first() -> None:
    house = House(slots=8, piece=400, pad=False)
    for letter, length in zip("abc", (50, 3, 50), strict=True):
        house.add(letter * length)
    house.step()
    while len(house.scheduler.running) > 2:
        house.step()
    (hole,) = house.scheduler.slots.holes()
    house.add("user: new")
    house.step()
    assert hole in house.scheduler.slots.active


def with_one_decoding(piece: int) -> House:
    house = House(piece=piece)
    house.add("user: " + "a" * 40)
    while not house.scheduler.running or not house.scheduler.running[0].decoding:
        house.step()
    return house


def test_a_long_prompt_does_not_stall_others() -> None:
    house = with_one_decoding(piece=16)
    house.add("b" * 80)
    for _ in range(5):
        assert house.step().rows == 1, "the first one drew a token in every step"


def test_a_short_prompt_is_not_held_up_by_a_long_one() -> None:
    house = with_one_decoding(piece=10)
    house.add("b" * 90)
    house.step()
    short = house.add("user: c")
    while f"{short}/0" not in house.answers:
        house.step()
    assert [one.decoding for one in house.scheduler.running if one.group.start.id == "r2"] == [False]


def test_one_that_waits_for_a_shared_prefix_does_not_hold_up_others() -> None:
    house = House(piece=8)
    house.add("system: a long shared system prompt of many words. user: one")
    house.step()
    house.add("system: a long shared system prompt of many words. user: two")
    other = house.add("user: three")
    house.step()
    house.step()
    assert other in {one.group.start.id for one in house.scheduler.running}


def test_a_higher_priority_takes_the_next_slot() -> None:
    house = House(slots=1)
    house.add("user: first", 5)
    house.step()
    house.add("user: low", 1)
    high = house.add("user: high", 9)
    while house.scheduler.running and house.scheduler.running[0].group.start.id != high:
        house.step()
        assert not any(one.group.start.id == "r2" for one in house.scheduler.running)


def test_an_answer_that_meets_the_end_of_the_context_is_cut_with_length() -> None:
    house = House(slots=2)
    house.add("user: " + "z" * 80, limit=500)
    house.run()
    assert len(house.answers["r1/0"]) <= CONTEXT - 86
