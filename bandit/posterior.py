"""All that Thompson sampling has learned, as one immutable value: the fold over sessions, and its bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bandit import cost, drift, packing, success
from bandit.cost import CostPosterior, UsageSums
from bandit.features import Encoder, Scaling
from bandit.prior import Spread, WeightPrior, column_spreads, kinship
from bandit.progress_model import ProgressModel
from bandit.rows import Rows
from bandit.session import AttemptRow, SessionChange
from bandit.success import Evidence, SuccessPosterior, attenuation
from bandit.types import Arm, Figure

Floats = npt.NDArray[np.float64]

WINDOW_SESSIONS = 4000
"""Sessions that the posterior is refitted on exactly; when there are more, the oldest quarter becomes a summary."""

_FIGURE_SCALE = 0.6
"""How much narrower an arm's own prior is where a benchmark figure says where it stands."""


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """All that was learned: an immutable value, from which any decision or further learning starts."""

    arms: tuple[Arm, ...]
    encoder: Encoder
    scaling: Scaling
    rows: Rows
    evidence: Evidence
    """Of success, from sessions that have left the window."""
    old_usage: UsageSums
    """Of cost, likewise."""
    success: SuccessPosterior
    cost: CostPosterior
    latency: CostPosterior | None = None
    """Of seconds in place of usage, from the window alone. None until a decision priced them and one was told."""
    progress: ProgressModel = field(default_factory=ProgressModel.start)
    """Of what reports on running attempts say."""

    @classmethod
    def start(cls, arms: Sequence[Arm]) -> "Posterior":
        """The prior, before any outcome."""
        encoder = _with_figures(Encoder(), arms)
        width = len(encoder.columns)
        rows = Rows.empty(width)
        blank = SuccessPosterior(
            mean=np.zeros((len(arms), width)),
            covariance=np.zeros((len(arms), width, len(arms), width)),
            sigma=success.PRIOR_SIGMA,
            detection=0.97,
            false_alarm=0.03,
        )
        usage = UsageSums.of(rows, np.zeros((0, width + cost.ATTEMPT_COLUMNS)), len(arms))
        return _fit(
            tuple(arms),
            encoder,
            Scaling.fit(encoder, rows.x),
            rows,
            Evidence.none(len(arms), width),
            usage,
            blank,
            timed=False,
        )

    def fold(self, arms: Sequence[Arm], changes: Sequence[SessionChange]) -> "Posterior":
        """The posterior after a block of changed sessions; arms may have been added or changed."""
        known = tuple(arms)
        changes = [change for change in changes if change.after != change.before]
        if not changes and known == self.arms:
            return self
        encoder = _with_figures(self.encoder, known)
        encoder = encoder.grow(row.decision.situation.features for change in changes for row in change.after)
        n_arms, width = len(known), len(encoder.columns)
        index = {arm.id: k for k, arm in enumerate(known)}
        in_window = set(self.rows.session_ids)
        late = [change for change in changes if change.before and change.session_id not in in_window]
        rows = self.rows.update(changes, encoder, index, cost.usage_of)
        evidence = self.evidence.pad(n_arms, width)
        old_usage = self.old_usage.pad(n_arms, width + cost.ATTEMPT_COLUMNS)
        started = _padded(self.success, n_arms, width)
        scaling = _scaling(self.scaling.pad(width), Scaling.fit(encoder, rows.x), evidence, old_usage)
        if late:
            evidence, old_usage = _without(evidence, old_usage, late, encoder, scaling, index, started)
        if changes and (changed := drift.changed(rows, n_arms)):
            rows = drift.forget(rows, scaling.apply(rows.x), started.mean, changed)
            evidence = drift.fade(evidence, started.mean, list(changed))
        if len(rows.lengths) > WINDOW_SESSIONS:
            # Those that leave are summarised where the posterior is now.
            prior, _ = _priors(known, encoder, started.sigma)
            started = success.fit(rows, scaling.apply(rows.x), prior, evidence, started)
        while len(rows.lengths) > WINDOW_SESSIONS:
            leaving = np.arange(len(rows.lengths)) < WINDOW_SESSIONS // 4
            old, rows = rows.select(leaving), rows.select(~leaving)
            x = scaling.apply(old.x)
            evidence += success.summarise(old, x, started)
            old_usage += UsageSums.of(old, cost.with_attempt(x, old.attempt), n_arms)
        timed = self.latency is not None or any(_priced(row) for change in changes for row in change.after)
        folded = _fit(known, encoder, scaling, rows, evidence, old_usage, started, timed=timed)
        return replace(folded, progress=self.progress.fold(changes))

    def dump(self) -> bytes:
        """The posterior as bytes: equal posteriors give equal bytes."""
        return packing.pack(
            {
                "arms": self.arms,
                "columns": self.encoder.columns,
                "cap": self.encoder.cap,
                **_fields("scaling", self.scaling),
                **_fields("rows", self.rows),
                **_fields("evidence", self.evidence),
                **_fields("old_usage", self.old_usage),
                **_fields("success", self.success),
                **_fields("cost", self.cost),
                **(_fields("latency", self.latency) if self.latency is not None else {}),
                **_fields("progress", self.progress),
            }
        )

    @classmethod
    def load(cls, blob: bytes) -> "Posterior":
        """The inverse of `dump`."""
        packed = packing.unpack(blob)

        def part(name: str) -> dict[str, object]:
            prefix = name + "."
            return {key[len(prefix) :]: value for key, value in packed.items() if key.startswith(prefix)}

        rows = part("rows")
        rows["session_ids"] = tuple(rows["session_ids"])  # type: ignore[arg-type]
        progress = part("progress")
        progress["session_ids"] = tuple(progress["session_ids"])  # type: ignore[arg-type]
        return cls(
            arms=packing.convert(packed["arms"], tuple[Arm, ...]),
            encoder=Encoder(columns=tuple(packed["columns"]), cap=packed["cap"]),
            scaling=Scaling(**part("scaling")),  # type: ignore[arg-type]
            rows=Rows(**rows),  # type: ignore[arg-type]
            evidence=Evidence(**part("evidence")),  # type: ignore[arg-type]
            old_usage=UsageSums(**part("old_usage")),  # type: ignore[arg-type]
            success=SuccessPosterior(**part("success")),  # type: ignore[arg-type]
            cost=CostPosterior(**part("cost")),  # type: ignore[arg-type]
            latency=CostPosterior(**latency) if (latency := part("latency")) else None,  # type: ignore[arg-type]
            progress=ProgressModel(**progress),  # type: ignore[arg-type]
        )


def _with_figures(encoder: Encoder, arms: Sequence[Arm]) -> Encoder:
    """The encoder with the categories that figures tell of, so that they count from the first session on."""
    told = {figure.category for arm in arms for figure in arm.figures if figure.category is not None}
    return encoder.grow({"category": category} for category in sorted(told))


def _fields(name: str, part: Any) -> dict[str, object]:
    return {f"{name}.{of.name}": getattr(part, of.name) for of in fields(part)}


def _padded(posterior: SuccessPosterior, n_arms: int, width: int) -> SuccessPosterior:
    """The posterior with its mean widened by zeros: where the next search for the mode starts."""
    k, d = posterior.mean.shape
    if (k, d) == (n_arms, width):
        return posterior
    mean = np.zeros((n_arms, width))
    mean[:k, :d] = posterior.mean
    return replace(posterior, mean=mean)


def _fit(
    arms: tuple[Arm, ...],
    encoder: Encoder,
    scaling: Scaling,
    rows: Rows,
    evidence: Evidence,
    old_usage: UsageSums,
    started: SuccessPosterior,
    *,
    timed: bool,
) -> Posterior:
    x = scaling.apply(rows.x)
    with_attempt = cost.with_attempt(x, rows.attempt)
    success_prior, cost_prior = _priors(arms, encoder, started.sigma)
    return Posterior(
        arms=arms,
        encoder=encoder,
        scaling=scaling,
        rows=rows,
        evidence=evidence,
        old_usage=old_usage,
        success=success.fit(rows, x, success_prior, evidence, started),
        cost=cost.fit(rows, with_attempt, cost_prior, old_usage),
        latency=cost.fit_latency(rows, with_attempt, _latency_prior(arms, encoder)) if timed else None,
    )


def _priced(row: AttemptRow) -> bool:
    """Whether a row was timed and its decision put a price on that."""
    return row.latency_seconds is not None and row.decision.situation.objective.latency_usd_per_second > 0.0


def _priors(arms: Sequence[Arm], encoder: Encoder, sigma: float) -> tuple[WeightPrior, WeightPrior]:
    """Of success and cost: centred on the arms' figures where they have any, else on an even chance and one dollar."""
    width = len(encoder.columns)
    success_mean = np.zeros((len(arms), width))
    cost_mean = np.zeros((len(arms), width + cost.ATTEMPT_COLUMNS))
    scale = np.ones(len(arms))
    for k, arm in enumerate(arms):
        figures = [_figure(arm, figure, sigma) for figure in arm.figures]
        if not figures:
            continue
        # Where there is no overall figure, the mean over the categories stands for one.
        overall = [told for told in figures if told.category is None] or figures
        base_logit = float(np.mean([told.logit for told in overall]))
        known = [told.log_usage for told in overall if told.log_usage is not None]
        base_log = float(np.mean(known)) if known else 0.0
        success_mean[k, 0], cost_mean[k, 0], scale[k] = base_logit, base_log, _FIGURE_SCALE
        for told in figures:
            at = encoder.index.get(f"c:category={told.category}")
            if told.category is not None and at is not None:
                success_mean[k, at] = told.logit - base_logit
                cost_mean[k, at] = told.log_usage - base_log if told.log_usage is not None else 0.0
    # An arm without figures is taken for one like those that have them, a new version for one like the old.
    with_figures = scale < 1.0
    if with_figures.any():
        success_mean[~with_figures, 0] = success_mean[with_figures, 0].mean()
        cost_mean[~with_figures, 0] = cost_mean[with_figures, 0].mean()
    predecessors = _predecessors(arms)
    for k, predecessor in enumerate(predecessors):
        if predecessor is not None and not arms[k].figures:
            for of_arms in (success_mean, cost_mean, scale):
                of_arms[k] = of_arms[predecessor]
    spreads = column_spreads(encoder.columns, success.SPREADS)
    return (
        WeightPrior.build(success_mean, spreads, scale, kinship(predecessors, success.VERSION_CORRELATION)),
        WeightPrior.build(cost_mean, _usage_spreads(encoder), scale, kinship(predecessors, cost.VERSION_CORRELATION)),
    )


def _latency_prior(arms: Sequence[Arm], encoder: Encoder) -> WeightPrior:
    """Of seconds: as wide as that of usage, around what is typical."""
    spreads = _usage_spreads(encoder)
    mean = np.zeros((len(arms), len(spreads)))
    mean[:, 0] = np.log(cost.TYPICAL_SECONDS)
    kin = kinship(_predecessors(arms), cost.VERSION_CORRELATION)
    return WeightPrior.build(mean, spreads, np.ones(len(arms)), kin)


def _predecessors(arms: Sequence[Arm]) -> list[int | None]:
    """The position of each arm's predecessor; None where it has none among the arms before it."""
    index = {arm.id: k for k, arm in enumerate(arms)}
    found = [index.get(arm.predecessor) for arm in arms]
    return [at if at is not None and at < k else None for k, at in enumerate(found)]


def _usage_spreads(encoder: Encoder) -> list[Spread]:
    return cost.column_spreads_with_attempt(column_spreads(encoder.columns, cost.SPREADS))


class _Told(NamedTuple):
    """What a figure says in the models' own terms."""

    category: str | None
    logit: float
    log_usage: float | None


def _figure(arm: Arm, figure: Figure, sigma: float) -> _Told:
    rate = min(max(figure.success_rate, 0.02), 0.98)
    log_usage = None
    if figure.cost_usd is not None:
        index = cost.price_index(arm.price) or 1.0
        log_usage = cost.log_usage_of(max(figure.cost_usd, 1e-6) / index)
    return _Told(figure.category, attenuation(sigma) * float(np.log(rate / (1.0 - rate))), log_usage)


def _scaling(old: Scaling, new: Scaling, evidence: Evidence, old_usage: UsageSums) -> Scaling:
    """The window's own scaling, but for columns of which the summaries hold something: their scale is part of it."""
    width = len(old.centre)
    held = np.einsum("kdkd->d", evidence.precision) + np.einsum("kdd->d", old_usage.square[:, :width, :width]) > 0.0
    return Scaling(centre=np.where(held, old.centre, new.centre), spread=np.where(held, old.spread, new.spread))


def _without(
    evidence: Evidence,
    old_usage: UsageSums,
    late: Sequence[SessionChange],
    encoder: Encoder,
    scaling: Scaling,
    index: dict[str, int],
    at: SuccessPosterior,
) -> tuple[Evidence, UsageSums]:
    """The summaries less what they hold of sessions that have changed since; those re-enter the window as they are.

    Exact for the cost's sums. For success the gradient at the present mode is taken out and the curvature kept,
    which is right to first order and keeps the summary positive semidefinite.
    """
    before = [SessionChange(session_id=change.session_id, before=(), after=change.before) for change in late]
    said = Rows.empty(len(encoder.columns)).update(before, encoder, index, cost.usage_of)
    if not len(said):
        return evidence, old_usage
    x = scaling.apply(said.x)
    less = Evidence(precision=evidence.precision, linear=evidence.linear - success.gradient(said, x, at))
    return less, old_usage - UsageSums.of(said, cost.with_attempt(x, said.attempt), len(index))
