"""Policy files: a policy and the numbers it decides by, as TOML. Data, never code.

policy = "thompson"
alpha = 0.5
[objective]
preset = "best"
"""

from bandit import keys, objective
from bandit import policy as policies
from bandit.types import Objective, RouterSettings


class PolicyFile(keys.Strict, frozen=True, kw_only=True):
    """What a policy file says; a number that is None leaves the router's own."""

    policy: str
    """Specification of the policy, as on the command line."""
    alpha: keys.Positive | None = None
    exploration_floor: keys.Share | None = None
    draws: keys.Draws | None = None
    max_attempts: keys.Attempts | None = None
    objective: keys.ObjectiveKeys = keys.ObjectiveKeys()

    def over(self, settings: RouterSettings) -> RouterSettings:
        """A router's settings with what the file sets; the policy's version stays the caller's business."""
        fields = {**keys.given(self), "objective": self.objective.over(settings.objective)}
        return keys.changed(settings, **fields)


def parse(text: str) -> PolicyFile:
    """The policy file in a text. Raises InvalidInput naming the key: ``policy``, ``objective.quality_floor``, ….

    Whether the arms that the policy names are there is left to its `start`.
    """
    file = keys.loads(text, PolicyFile)
    policies.parse(file.policy)
    objective.require_whole(file.objective.over(Objective()))
    return file
