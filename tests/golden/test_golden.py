"""The Python runtime gives what it gave when the golden cases were written."""

import pytest

from tame_deploy import errors
from tests.golden.replay import Runner, read_cases


@pytest.fixture(scope="module")
def runner(demo_export):
    with Runner(demo_export) as opened:
        yield opened


@pytest.mark.parametrize("case", read_cases(), ids=lambda case: case["name"])
def test_golden(runner, case):
    if "error" in case:
        with pytest.raises(getattr(errors, case["error"])):
            runner.run(case)
    else:
        runner.run(case).check(case["expected"])
