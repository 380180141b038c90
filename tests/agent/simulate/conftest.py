"""What the tests of simulations share."""

from collections.abc import Callable

import pytest

from fixtures.simulated_fleet import make_fleet
from joulefleet_agent.simulate.roster import SimServer


@pytest.fixture
def fleet() -> Callable[..., list[SimServer]]:
    """Makes the servers of a scenario of two hours; arguments replace its keys."""
    return make_fleet
