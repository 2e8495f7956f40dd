"""The lab's scenarios by name. A scenario is a chain of steps, each an artifact: what passed is not done again until
the code it depends on, or what went into it, has changed."""

from tests.lab.scenarios import plain, raid, thick, thin
from tests.lab.scenarios.base import Scenario

SCENARIOS: dict[str, Scenario] = {
    each.name: each for each in (*thick.SCENARIOS, *thin.SCENARIOS, *raid.SCENARIOS, *plain.SCENARIOS)
}
