"""Why this model? What the server tells of a decision or a session, for a terminal."""

from collections.abc import Sequence

from pointsman.v1 import routing_pb2 as pb
from server.console import tables
from server.console.output import Output, moment
from server.words import plain


def session(found: pb.GetSessionResponse, decisions: Sequence[pb.GetDecisionResponse], output: Output) -> None:
    """A session's course, then each of its decisions."""
    output.line(plain(found.explanation.title) or f"session {plain(found.session_id)}", style="bold")
    if found.erased:
        output.line("Its features have been erased on request.")
    for sentence in found.explanation.sentences:
        output.line(plain(sentence))
    for each in decisions:
        output.line()
        output.line("─" * min(output.width, 80), style="dim")
        decision(each, output)


def decision(found: pb.GetDecisionResponse, output: Output) -> None:
    """One decision: why, what was known, what was believed of each arm, under which rules, and how it went."""
    why, *others = found.explanation or [pb.ExplanationSection(title=found.arm)]
    output.line(plain(why.title), style="bold")
    output.line(
        f"Attempt {found.attempt} of session {plain(found.session_id)}, decided {moment(found.at)}.", style="dim"
    )
    output.line()
    _words(why, output)
    output.line()
    output.line("What was believed of each arm", style="bold")
    tables.scores(found.scores, found.arm, output)
    for section in others:
        output.line()
        output.line(plain(section.title), style="bold")
        _words(section, output)
    output.line()
    if found.confirmed:
        output.line("Confirmed: recomputed from the log, the decision comes out the same.", style="green")
    else:
        output.line(f"Not confirmed: {plain(found.unconfirmed_reason)}.", style="yellow")


def _words(section: pb.ExplanationSection, output: Output) -> None:
    for sentence in section.sentences:
        output.line(plain(sentence))
    if section.facts:
        output.facts([(plain(fact.name), plain(fact.value)) for fact in section.facts])
