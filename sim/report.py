"""The report of a simulation: its pictures, and the folder with all of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from sim import flow_plot, page, plots, report_folder
from sim.report_folder import Planned, slug
from sim.study import PolicyStudy, Study


def plan(study: Study) -> list[Planned]:
    """Every picture of the report, in its order."""
    return [*_of_all(study), *(one for i, policy in enumerate(study.policies, 1) for one in _of_one(study, policy, i))]


def _of_all(study: Study) -> Iterator[Planned]:
    yield Planned(
        file="success-cost",
        section="cost",
        caption="Sessions resolved against dollars a session",
        alt="Every policy, arm and reference by dollars a session and share of sessions resolved; figures are in the "
        "tables above.",
        draw=plots.success_against_cost(study),
    )
    ends = "; ".join(f"{one.figures.name} ${one.utility.mean[-1]:,.2f}" for one in study.policies)
    yield Planned(
        file="utility",
        section="time",
        caption="Utility so far",
        alt=f"Dollars earned by the last session: {ends}.",
        draw=plots.utility(study),
    )
    ends = "; ".join(f"{one.figures.name} ${one.regret.mean[-1]:,.2f}" for one in study.policies)
    yield Planned(
        file="regret",
        section="time",
        caption="Regret so far, against the best fixed ladder in hindsight",
        alt=f"Dollars behind the best fixed ladder by the last session: {ends}.",
        draw=plots.regret(study),
    )


def _of_one(study: Study, policy: PolicyStudy, number: int) -> Iterator[Planned]:
    name, calibration = policy.figures.name, policy.figures.calibration
    ending = f"{number}-{slug(name)}".rstrip("-")
    last = policy.shares.of_arm[-1]
    most = int(last.argmax())
    yield Planned(
        file=f"shares-{ending}",
        section="shares",
        caption=name,
        alt=f"In the last window {100 * last[most]:.0f} % of sessions begin on {study.result.arms[most]}.",
        draw=plots.shares(study, policy),
    )
    if policy.reliability:
        yield Planned(
            file=f"success-calibration-{ending}",
            section="calibration",
            caption=f"{name}: success",
            alt="; ".join(f"foretold {one.foretold:.0%}, came {one.success:.0%}" for one in policy.reliability) + ".",
            draw=plots.reliability(study, policy),
        )
    if calibration is not None and calibration.cost_ratio is not None:
        yield Planned(
            file=f"cost-calibration-{ending}",
            section="calibration",
            caption=f"{name}: dollars",
            alt=f"Dollars spent over dollars foretold: {calibration.cost_ratio:.2f} overall, each arm apart.",
            draw=plots.cost_ratio(study, policy),
        )
    resolved, unresolved = policy.flows.at(len(policy.flows.moves))[-2:].tolist()
    yield Planned(
        file=f"flows-{ending}",
        section="flows",
        caption=name,
        alt=f"Of {resolved + unresolved} sessions {resolved} end resolved and {unresolved} do not.",
        draw=flow_plot.flows(study, policy),
    )


def write(folder: Path, study: Study, *, on_picture: Callable[[], None]) -> None:
    """Writes the report; `on_picture` is called after each picture that `plan` has. Raises InvalidInput."""
    report_folder.write(folder, plan(study), lambda pictures: page.render(study, pictures), on_picture=on_picture)
