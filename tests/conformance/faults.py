"""Which wrong server must be named by which case, and by no other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.conformance import faulty_commands as wrong
from tests.conformance import faulty_servers as faulty
from tests.conformance.faulty_servers import fabricated
from tests.conformance.minimal_server import Agent, MinimalServer, with_tool, without_tools

BUDGET = {"reply_ms": 900.0, "first_event_ms": 900.0, "gap_ms": 900.0, "end_to_end_ms": 2_400.0, "cancel_ms": 600.0}
"""What the wrong servers overstep by half, and the right one keeps even on a machine that is busy."""


@dataclass(frozen=True)
class Fault:
    """A wrong server, the case that must name it, and the others that do too because it breaks what they promise."""

    server: type[MinimalServer]
    case: str
    also: tuple[str, ...] = ()
    agent: Agent = with_tool
    elsewhere: tuple[str, ...] = ()  # cases of other categories that it breaks as well
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def category(self) -> str:
        return self.case.partition("/")[0]

    @property
    def cases(self) -> set[str]:
        return {self.case, *(f"{self.category}/{name}" for name in self.also)}

    def __str__(self) -> str:
        return f"{self.server.__name__}-{self.case}"


FAULTS = (
    Fault(faulty.Mute, "golden_path/welcome"),
    Fault(faulty.BreaksAtOnce, "golden_path/welcome"),
    Fault(faulty.HeartbeatOnly, "golden_path/answered"),
    Fault(faulty.Breaks, "golden_path/answered"),
    Fault(faulty.Silent, "golden_path/ends"),
    Fault(faulty.Hangs, "golden_path/ends"),
    Fault(faulty.LosesTheEnd, "golden_path/ends"),
    Fault(faulty.LosesOne, "golden_path/no_hole"),
    Fault(faulty.WrongPrev, "golden_path/no_hole"),
    Fault(faulty.DoublesOne, "golden_path/once"),
    Fault(faulty.SwapsTwo, "golden_path/ordered"),
    Fault(faulty.Canned, "golden_path/fresh"),
    Fault(faulty.CannedWithNewIds, "golden_path/fresh"),
    Fault(faulty.CannedFromThePast, "golden_path/fresh"),
    Fault(faulty.FabricatesTools, "golden_path/fresh"),
    Fault(faulty.TwoTerminals, "golden_path/lifecycle"),
    Fault(faulty.TalksAfterTheEnd, "golden_path/lifecycle"),
    Fault(faulty.StartsTwice, "golden_path/lifecycle"),
    Fault(faulty.UnpairedTool, "golden_path/tools_paired"),
    Fault(faulty.EndsAToolTwice, "golden_path/tools_paired"),
    Fault(MinimalServer, "golden_path/tools_paired", agent=fabricated),
    Fault(MinimalServer, "golden_path/five", agent=without_tools),
    Fault(faulty.WrongText, "golden_path/text"),
    Fault(faulty.WrongShape, "golden_path/frames"),
    Fault(faulty.EventsFirst, "golden_path/reply_first"),
    Fault(faulty.ForgetsTheAnswer, "golden_path/snapshot_agrees"),
    Fault(faulty.ForgetsKeys, "golden_path/idempotent", elsewhere=("concurrency/same_key",)),
    Fault(faulty.RepeatsForTheSameBody, "golden_path/idempotent", elsewhere=("concurrency/same_key",)),
    Fault(faulty.TakesAnyBody, "golden_path/idempotent"),
    Fault(faulty.OtherHistoryOverHttp, "golden_path/sse_agrees"),
    Fault(faulty.OtherPage, "golden_path/page_agrees"),
    Fault(wrong.TabsDiffer, "ordering/two_tabs"),
    Fault(wrong.PrevPerSocket, "ordering/threads_apart"),
    Fault(wrong.BackwardsBatch, "ordering/pipelined"),
    Fault(faulty.ResumesWithAHole, "resume/cut_at_every_event"),
    Fault(faulty.ResumesFromZero, "resume/cut_at_every_event"),
    Fault(faulty.ForgetsLaterRuns, "resume/cut_at_random"),
    Fault(faulty.TrimsSilently, "resume/replay_from_0"),
    Fault(faulty.RewritesHistory, "resume/replay_is_live"),
    Fault(faulty.ThinLifecycle, "resume/views_agree"),
    Fault(faulty.LosesInOldRuns, "resume/every_position"),
    Fault(faulty.LosesInOldLifecycles, "resume/every_position_lifecycle"),
    Fault(faulty.IgnoresTheHead, "resume/beyond_the_end"),
    Fault(faulty.IgnoresTheLog, "resume/another_log"),
    Fault(faulty.NeverResets, "resume/beyond_the_end", also=("another_log",)),
    Fault(faulty.ResetsToNowhere, "resume/beyond_the_end", also=("another_log",)),
    Fault(faulty.SseStartsOver, "resume/sse_resumes"),
    Fault(faulty.SseNeverEnds, "resume/sse_resumes"),
    Fault(faulty.WrongPosition, "resume/position_frame"),
    Fault(wrong.InventsTools, "terminal/no_tools"),
    Fault(wrong.TellsTheReason, "terminal/failure"),
    Fault(wrong.CompletesFailures, "terminal/failure"),
    Fault(wrong.NoDeadline, "terminal/deadline"),
    Fault(wrong.TalksLate, "terminal/stays_ended"),
    Fault(wrong.Broadcasts, "isolation/nothing_crosses"),
    Fault(wrong.ListsAll, "isolation/lists"),
    Fault(wrong.SharesKeys, "isolation/own_keys"),
    Fault(wrong.LetsAnybodyFollow, "isolation/forged_frames"),
    Fault(wrong.TellsWhatThereIs, "isolation/forged_frames"),
    Fault(wrong.RoutesTellWhatThereIs, "isolation/forged_routes"),
    Fault(wrong.DeafToHello, "auth/ways_in"),
    Fault(wrong.TicketsForEver, "auth/ticket_once"),
    Fault(wrong.ShowsToNobody, "auth/no_credentials"),
    Fault(wrong.TakesUnsigned, "auth/forged"),
    Fault(wrong.TakesUnsignedOverHttp, "auth/forged"),
    Fault(wrong.ExplainsRefusals, "auth/forged"),
    Fault(wrong.TakesExpired, "auth/expired"),
    Fault(wrong.AnyOrigin, "auth/origin"),
    Fault(wrong.TokenInAddress, "auth/query"),
    Fault(wrong.RefreshesAnybody, "auth/refresh"),
    Fault(wrong.IgnoresRevocation, "auth/revocation", options={"budget": {"revocation_ms": 500}}),
    Fault(wrong.CancelsNothing, "cancel/stops"),
    Fault(wrong.StartsWhatWasCancelled, "cancel/queued"),
    Fault(wrong.CancelsTheEnded, "cancel/ended"),
    Fault(wrong.AcknowledgesUnknown, "input/frames"),
    Fault(wrong.StartsForBadInput, "input/starts_nothing"),
    Fault(wrong.ShrugsAtNonsense, "input/broken_frames"),
    Fault(wrong.TakesAnySize, "input/too_big"),
    Fault(wrong.BreaksAtBodies, "input/bodies"),
    Fault(wrong.RunsAtOnce, "concurrency/one_at_a_time"),
    Fault(wrong.NeverRejects, "concurrency/reject"),
    Fault(wrong.NeverInterrupts, "concurrency/interrupt"),
    Fault(wrong.KeysPerSocket, "concurrency/same_key"),
    Fault(wrong.StallsForOne, "slow_reader/neighbours"),
    Fault(wrong.DropsForTheSlow, "slow_reader/catches_up"),
    Fault(wrong.HidesWaits, "waits/asks"),
    Fault(wrong.TakesAnyWait, "waits/unknown_wait"),
    Fault(wrong.MishearsAnswers, "waits/goes_on"),
    Fault(wrong.LastAnswerWins, "waits/first_wins"),
    Fault(wrong.NeverOpens, "breaker/opens"),
    Fault(wrong.OpensSilently, "breaker/says_when"),
    Fault(wrong.StaysOpen, "breaker/closes"),
    Fault(wrong.RepliesLate, "timing/reply"),
    Fault(wrong.StartsLate, "timing/first_event"),
    Fault(wrong.PausesInTheMiddle, "timing/gap"),
    Fault(wrong.Crawls, "timing/end_to_end"),
    Fault(wrong.ForgetsAtDeath, "crash/survives"),
    Fault(wrong.RetriesSilently, "crash/is_told"),
)
