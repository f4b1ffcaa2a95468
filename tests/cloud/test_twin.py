"""The twin never goes back by what it hears, and always by what it suffers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.messages import Desired, Item
from cloud_sync.twin import ATTEMPTS, Twin


def desired(epoch: int, generation: int) -> Desired:
    return Desired(epoch=epoch, generation=generation, settings={"priority": generation % 10})


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("heard"), st.integers(1, 3), st.integers(1, 6)),
        st.tuples(st.sampled_from(["started", "applied", "restart", "passed", "failed"])),
    ),
    max_size=30,
)


@given(_steps)
def test_a_document_is_never_followed_by_an_older_one(steps: list[tuple[object, ...]]) -> None:
    twin, newest, good = Twin(), (0, 0), None
    for name, *rest in steps:
        match name:
            case "heard":
                one = desired(*rest)  # type: ignore[arg-type]
                after = twin.heard(one, watch=[])
                assert (after is None) == ((one.epoch, one.generation) <= newest)
                if after is not None:
                    twin, newest = after, (one.epoch, one.generation)
                    assert twin.active == one
            case "started":
                twin = twin.started()
            case "applied":
                twin = twin.applied({"priority": Item(state="applied")})
                assert twin.observed == (twin.newest.generation if twin.newest else 0)
            case "restart":
                observed = twin.observed
                twin = twin.applied({"priority": Item(state="needs_restart")})
                assert twin.observed == observed
            case "passed":
                twin = twin.passed()
                good = twin.active
            case "failed":
                twin = twin.failed("unwell")
                assert twin.active == good
        assert twin.trial is None or twin.trial.attempts <= ATTEMPTS
        assert Twin.model_validate_json(twin.model_dump_json(exclude_defaults=True)) == twin


def test_one_that_the_agent_does_not_survive_is_taken_back_after_two_starts() -> None:
    twin = Twin().heard(desired(1, 1), watch=[])
    assert twin is not None
    twin = twin.passed().heard(desired(1, 2), watch=[])
    assert twin is not None
    for _ in range(ATTEMPTS):
        twin = twin.started()
        assert twin.settings == {"priority": 2}
    twin = twin.started()
    assert twin.settings == {"priority": 1}
    assert twin.items["priority"].state == "rolled_back"
    assert twin.observed == 2


def test_what_was_in_force_in_a_former_epoch_says_nothing_of_this_one() -> None:
    """A controller that was restored begins with lower generations."""
    twin = Twin().heard(desired(1, 9), watch=[])
    assert twin is not None
    twin = twin.applied({"priority": Item(state="applied")}).heard(desired(2, 5), watch=[])
    assert twin is not None
    assert twin.observed == 0
    assert twin.applied({"priority": Item(state="pending")}).observed == 0
    assert twin.applied({"priority": Item(state="applied")}).observed == 5
