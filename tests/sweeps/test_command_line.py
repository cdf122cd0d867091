from __future__ import annotations

from introspect.sweeps.command_line import with_first_choices
from tests.composing import CONFIGS


def test_the_config_of_a_sweep_has_the_first_choice_of_each_swept_group() -> None:
    given = ["-m", "experiment=scratch,kd", "seed=1,2", "model=choice(a,b)", "trainer=cpu", "a.b={", "--cfg=job"]
    expected = [*given[:1], "experiment=scratch", *given[1:3], "model=a", *given[3:]]
    assert with_first_choices(given, CONFIGS) == expected
