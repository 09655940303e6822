"""The schedule by the clock."""

import math

import pytest

from localsgd.schedules import EverySeconds, RoundSoFar


@pytest.mark.parametrize("seconds", [0.5, 30.0])
def test_a_round_is_over_as_soon_as_its_time_is_up_and_not_before(seconds: float) -> None:
    just_before = math.nextafter(seconds, 0)
    asked = [RoundSoFar(steps=7, seconds=now, drift_norm=None) for now in (0.0, just_before, seconds, 2 * seconds)]
    assert [EverySeconds(seconds).is_over(so_far) for so_far in asked] == [False, False, True, True]
