"""The commands of a page and their marks are found, however they are written."""

from __future__ import annotations

import pytest

from tests.documented import commands_of, first_job, sweep_values

PAGE = """# Title

Call `python train.py experiment=kd`, `experiment=at` or `python`; see `uv run train.py a=1` \\
and nothing else.

```
pip install uv && uv run pytest   # both
python train.py -m seed=1,2 \\
    'a=range(0, 2)'
money = 3
```

```text
python train.py is what it printed
```

<!-- not run: needs a GPU: trainer=gpu -->
<!-- not run: needs a hub: model=x -->

| you type | |
|---|---|
| `python train.py trainer=gpu` | marked |
| `python train.py trainer=cpu` | not |
| `python evaluate.py model=x` | marked |

<!-- not run: needs a cluster -->
```bash
FOO=1 python train.py b=1
```

`pytest` alone is a word, `wandb login` a command.
"""


def test_commands_and_marks() -> None:
    assert [(command.words, command.reason) for command in commands_of(PAGE, "page")] == [
        (("python", "train.py", "experiment=kd"), None),
        (("python", "train.py", "a=1"), None),
        (("pip", "install", "uv"), None),
        (("pytest",), None),
        (("python", "train.py", "-m", "seed=1,2", "a=range(0, 2)"), None),
        (("python", "train.py", "trainer=gpu"), "needs a GPU"),
        (("python", "train.py", "trainer=cpu"), None),
        (("python", "evaluate.py", "model=x"), "needs a hub"),
        (("FOO=1", "python", "train.py", "b=1"), "needs a cluster"),
        (("wandb", "login"), None),
    ]


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("<!-- not run: no time -->\n`python a.py b`\n", "not run: no time: expected one of"),
        ("<!-- not run: needs a GPU -->\nNothing.\n", "marks no command"),
        ("<!-- not run: needs a GPU: x=1 -->\n`python a.py x=2`\n", "marks no command"),
        ("```bash\npython a.py\nperl b.pl\n```\n", "not a command: perl b.pl"),
    ],
)
def test_marks_that_mean_nothing(page: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        list(commands_of(page, "page"))


def test_values_of_a_sweep() -> None:
    assert sweep_values("a=1,2") == ["1", "2"]
    assert sweep_values("a=range(0,3)") == ["0", "1", "2"]
    assert sweep_values("a=interval(0.5,1)") == ["0.5"]
    assert sweep_values("a=[1,2]") == []
    assert (first_job("a=x,y"), first_job("a=x")) == ("a=x", "a=x")
