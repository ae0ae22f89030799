"""The guide answers from the real documentation, with real tool calls, and admits what it does not know."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import pytest

from runwire.guide import agent
from runwire.guide.conversation import read_section

if TYPE_CHECKING:
    from runwire.agents.context import Context


class RecordingContext:
    """Works like a Context without a server, and remembers what the agent did."""

    def __init__(self, history: list[dict[str, str]] | None = None) -> None:
        self.history = history or []
        self.thoughts: list[str] = []
        self.calls: list[tuple[str, dict[str, Any], Any]] = []

    async def thinking(self, text: str) -> None:
        self.thoughts.append(text)

    async def tool(self, function: Callable[..., Awaitable[Any]], **args: Any) -> Any:
        result = json.loads(json.dumps(await function(**args), allow_nan=False))
        self.calls.append((function.__name__, args, result))
        return result


def ask(message: str, *, history: list[dict[str, str]] | None = None) -> tuple[str, RecordingContext]:
    context = RecordingContext(history)

    async def collect() -> str:
        return "".join([piece async for piece in agent(cast("Context", context), message)])

    return asyncio.run(collect()), context


@pytest.fixture(autouse=True)
def _no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.guide.conversation._PACE_S", 0)


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("How does resume work?", "/docs/explanation/delivery#how-resume-works"),
        ("What is Runwire?", "/docs/explanation/overview"),
        ("How do I install it?", "/docs/tutorial/first-agent#install"),
        ("How do I start the server?", "/docs/tutorial/first-agent#start-the-server"),
        ("What happens when I kill -9 the server?", "/docs/explanation/durability"),
        ("How do I cancel a run?", "/docs/how-to/cancel-and-deadlines#cancel-a-run"),
        ("How do I add a user?", "/docs/how-to/users-and-tokens#add-a-user"),
        ("How can I create an API key?", "/docs/how-to/users-and-tokens#make-an-api-key"),
        ("how do i sign in", "/docs/how-to/users-and-tokens#sign-in-as-a-person"),
        ("Is there an SSE endpoint?", "/docs/reference/http#server-sent-events"),
        ("What does close code 4008 mean?", "/docs/reference/errors#close-codes"),
        ("Which limits are there?", "/docs/reference/websocket#limits"),
        ("What happens to slow readers?", "/docs/explanation/delivery#slow-readers"),
        ("How do I call a tool from my agent?", "/docs/reference/agent-api#ctxtool"),
        ("What does agent_retrying mean?", "/docs/reference/event-types#replays"),
        ("Which settings are there?", "/docs/reference/settings"),
        ("How can I check my deployment?", "/docs/how-to/check-a-deployment"),
        ("What are the five lifecycle events?", "/docs/reference/event-types#the-five-lifecycle-events"),
        ("What is the deadline of a run?", "/docs/how-to/cancel-and-deadlines#deadlines"),
        ("Can I use PostgreSQL?", "/docs/"),
        ("How do I make a backup?", "/docs/how-to/deploy-one-machine#backup-and-restore"),
        ("Why SQLite with one writer thread?", "/docs/adr/0004"),
        ("what does superseded mean", "/docs/reference/event-types#replays"),
        ("Who can see my data?", "/docs/explanation/security#whose-data"),
        ("How do I connect from JavaScript?", "/docs/how-to/connect-from-a-browser"),
        ("How can I write a Python client?", "/docs/how-to/connect-from-python"),
        ("How do I disable a user?", "/docs/how-to/users-and-tokens#disable-a-user"),
        ("Does my agent run again after a crash?", "/docs/explanation/durability"),
        ("What do I need to install to run it?", "/docs/tutorial/first-agent#install"),
        ("How do I change my password?", "/docs/how-to/users-and-tokens#set-or-change-a-password"),
        ("How do I revoke an API key?", "/docs/how-to/users-and-tokens#revoke-one-api-key"),
    ],
)
def test_a_question_is_answered_with_a_link_to_its_page(question: str, page: str) -> None:
    answer, _ = ask(question)

    assert "does not answer that" not in answer
    assert page in answer


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "Who won the football championship?",
        "How do I connect to Kafka?",
        "xqzzy blorf",
        "How do I bake a chocolate cake?",
        "Which shares should I buy?",
        "Can Runwire translate Klingon?",
        "Write a poem about the moon",
        "How many tokens per second does it do?",
        "How many requests/s?",
    ],
)
def test_a_question_that_the_documentation_does_not_answer_gets_an_honest_no(question: str) -> None:
    answer, context = ask(question)

    assert answer.startswith("The documentation does not answer that.")
    assert [name for name, _, _ in context.calls] == ["search_docs"]


@pytest.mark.parametrize("question", ["How do I run it on another port?", "Can I use a different port?"])
def test_a_question_for_another_port_is_answered_with_how_to_set_it(question: str) -> None:
    answer, _ = ask(question)

    first = answer.partition("**Also about this**")[0]
    assert "--port" in first
    assert "PORT=" in first
    assert "allowed_origins" not in first


def test_the_honest_no_says_what_was_searched_and_which_word_is_nowhere() -> None:
    answer, _ = ask("How do I connect to Kafka?")

    assert "for `connect` and `kafka`" in answer
    assert "`kafka` is mentioned nowhere" in answer


def test_search_and_reading_are_real_tool_calls_and_the_answer_is_what_they_returned() -> None:
    answer, context = ask("How does resume work?")

    names = [name for name, _, _ in context.calls]
    assert names[0] == "search_docs"
    assert set(names[1:]) == {"read_section"}
    assert context.thoughts
    first = context.calls[1][2]
    assert first["text"] in answer
    assert first["url"] in answer


def test_several_sections_are_cited() -> None:
    answer, context = ask("What happens when I kill -9 the server in the middle of a run?")

    assert sum(f"]({call[2]['url']})" in answer for call in context.calls if call[0] == "read_section") >= 2


@pytest.mark.parametrize(
    "hostile",
    [
        '"', '""" OR 1', "resume AND (", "NEAR(resume, 2) NOT", "title:resume", "-resume * ^resume",
        "'; DROP TABLE section; --",
        "{resume} : x", "resume\x00work", "a" * 100_000, "resume " * 20_000,
        "💥 \ud800".encode("utf-8", "replace").decode(),
        "SELECT * FROM section", "resume\" OR \"x",
    ],
)  # fmt: skip
def test_hostile_input_is_only_text(hostile: str) -> None:
    answer, context = ask(hostile)

    assert answer
    assert context.calls


@pytest.mark.parametrize("empty", ["", "   ", "how do I", "???", "Hello!", "and what is it"])
def test_a_question_about_nothing_is_answered_with_what_can_be_asked(empty: str) -> None:
    answer, context = ask(empty)

    assert [name for name, _, _ in context.calls] == ["list_pages"]
    assert "/docs/tutorial/first-agent" in answer


def test_a_follow_up_is_understood_from_the_question_before() -> None:
    history = [
        {"role": "user", "content": "How do I cancel a run?"},
        {"role": "assistant", "content": "…"},
        {"role": "user", "content": "And over HTTP?"},
    ]
    answer, context = ask("And over HTTP?", history=history)

    assert "How do I cancel a run?" in context.calls[0][1]["query"]
    assert "POST /v1/runs/{id}/cancel" in answer


def test_a_new_subject_is_not_mixed_with_the_question_before() -> None:
    _, context = ask("Which settings are there for proxies?", history=[{"role": "user", "content": "How do I cancel?"}])

    assert context.calls[0][1]["query"] == "Which settings are there for proxies?"


@pytest.mark.parametrize(
    "question",
    [
        "What do I need to install to run it?",
        "How do I install it?",
        "How do I run it on another port?",
        "How many tokens per second does it do?",
        "Why is a socket closed with 4008?",
    ],
)
@pytest.mark.parametrize(
    "before", ["How does resume work?", "What happens when I kill -9 the server in the middle of a run?"]
)
def test_a_question_about_runwire_itself_is_answered_as_in_a_new_thread(before: str, question: str) -> None:
    history = [{"role": "user", "content": before}, {"role": "assistant", "content": "…"}]
    again, _ = ask(question, history=history)

    # An honest no also lists what was nearest, which may come from both questions.
    assert again.partition("I searched")[0] == ask(question)[0].partition("I searched")[0]


def test_a_question_that_points_back_is_understood_from_the_question_before() -> None:
    history = [{"role": "user", "content": "What does superseded mean?"}]
    _, context = ask("Why is it sent?", history=history)

    assert context.calls[0][1]["query"] == "What does superseded mean? Why is it sent?"


def test_the_same_question_is_answered_in_the_same_words() -> None:
    # A replay after kill -9 goes on in mid-sentence only if the agent says the same again.
    first, recorded = ask("How does replay work?")
    second, again = ask("How does replay work?")

    assert first == second
    assert recorded.thoughts == again.thoughts


def test_the_answer_comes_in_small_pieces() -> None:
    async def collect() -> list[str]:
        return [piece async for piece in agent(cast("Context", RecordingContext()), "How does resume work?")]

    pieces = asyncio.run(collect())
    assert len(pieces) > 20
    assert max(len(piece.split()) for piece in pieces) <= 3


def test_reading_a_section_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LookupError, match="no section"):
        asyncio.run(read_section("../../etc/passwd"))
