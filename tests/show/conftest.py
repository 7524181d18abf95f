"""A comparison of fakes with its page, made once."""

from __future__ import annotations

import pytest

from malmoi.compare.comparison import Comparison
from malmoi.show.comparison_report import write_comparison
from tests.compare.compared import compared_fakes


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """See `tests.compare.compared:compared_fakes`."""
    found = compared_fakes(tmp_path_factory.mktemp("compared"))
    write_comparison(found)
    return found
