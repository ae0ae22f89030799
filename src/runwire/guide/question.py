"""What a question asks for: its terms, and the query that finds them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["MAX_TERMS", "alternatives", "folder_weight", "follows_up", "match_expression", "stem", "terms_of"]

MAX_TERMS: Final = 24  # a pasted page is cut here: each term is one index look-up
_MAX_TERM_CHARS: Final = 64
_WORD: Final = re.compile(r"[^\W_]+(?:[_'’.-][^\W_]+)*")
_SUFFIXES: Final = ("ations", "ation", "ings", "ing", "ers", "er", "ed", "es", "s", "e")

# Words that say how something is asked, not what about. `runwire` is every page's subject.
_STOP_TEXT: Final = """
    a about after again all also am an and any anybody anyone anything are as ask at away be because been before
    being between but by can could describe did difference do does doesn't doing don't exactly explain for from
    get gets getting give given go goes going good got had happen happened happening happens has have having he
    hello help her here hey hi him his how i i'm if in into is isn't it it's its just know let like made make
    makes many may me mean meaning means might mine more most much must my need needed needs no not now of off
    ok okay on once one only or other our out own per please possible really runwire same say see shall she
    should show so some somebody someone something such support supported supports tell than thank thanks that
    that's the their them then there these they thing things this those through to too try up us use used uses
    using very via want was way we well were what what's whatever when where whether which while who whom whose
    why will with within without won't work working works would yes yet you your yours
"""
_STOP_WORDS: Final = frozenset(_STOP_TEXT.split())
# Verbs in two words become one term; the index finds it as the phrase.
_TWO_WORDS: Final = re.compile(r"\b(sign|log)(ing|ged)?[ -](in|out)\b")
# "tokens per second" asks for a figure, neither for tokens nor for seconds: one term, found only as that phrase.
_RATE: Final = re.compile(
    r"\b(\w+)(?: per (?=(?:second|minute|hour|day|month|core|machine|server|process)\b)|/(?=(?:s|sec|min)\b))(\w+)"
)
_GOES_ON: Final = re.compile(r"^\s*(and|but|or|also|what about|how about|so|then|ok|okay)\b", re.IGNORECASE)
_POINTS_BACK: Final = re.compile(r"^\s*why\b|\b(it|its|that|this|these|those|them)\b", re.IGNORECASE)
# "How do I install it?" means Runwire, whatever was spoken of before.
_ABOUT_DOING: Final = re.compile(r"\b(i|we|you|one)\b", re.IGNORECASE)

# What newcomers say -> what the documentation says. Keys are stems.
_ALSO: Final[dict[str, tuple[str, ...]]] = {
    "abort": ("cancel",),
    "account": ("user",),
    "asynchronous": ("async",),
    "browser": ("page",),
    "crash": ("kill", "killed", "lost"),
    "csp": ("content security policy",),
    "cost": ("price",),
    "db": ("database",),
    "die": ("kill", "killed", "lost"),
    "disconnect": ("reconnect", "lost connection"),
    "env": ("environment", "RUNWIRE"),
    "endpoint": ("route", "GET"),
    "error": ("failed", "agent_failed"),
    "fail": ("failed", "agent_failed"),
    "function": ("tool",),
    "http": ("curl",),
    "js": ("javascript", "browser"),
    "javascript": ("browser",),
    "kubernet": ("cluster",),
    "log-in": ("sign in", "sign-in"),
    "login": ("sign in", "sign-in"),
    "log-out": ("revoke", "logout"),
    "offset": ("seq", "position"),
    "password": ("sign in",),
    "postgr": ("PostgreSQL",),
    "reboot": ("restart",),
    "reload": ("reconnect",),
    "signin": ("sign in", "sign-in"),
    "runwir": ("what Runwire is",),
    "sse": ("text/event-stream", "server-sent events"),
    "stop": ("cancel", "drain"),
    "timeout": ("deadline",),
    "websocket": ("socket",),
    "ws": ("socket", "WebSocket"),
}


# How somebody asks leans towards one kind of page; slightly, between sections that fit alike.
_LEANINGS: Final = (
    (re.compile(r"^\s*how (do|can|could|should|to)\b|\bexample\b", re.IGNORECASE), {"how-to": 1.12, "tutorial": 1.08}),
    (re.compile(r"^\s*why\b", re.IGNORECASE), {"adr": 1.35, "explanation": 1.1}),
    (re.compile(r"^\s*(what|which|list)\b", re.IGNORECASE), {"reference": 1.06, "explanation": 1.08}),
    (re.compile(r"^\s*(how does|how is|does|is|are|who)\b", re.IGNORECASE), {"explanation": 1.12}),
)
# Decision records answer newcomers' questions less well than pages that were written for them.
_FOLDERS: Final = {"adr": 0.8}


def folder_weight(question: str, folder: str) -> float:
    """Return how well pages of a folder suit the way a question is asked, around 1."""
    leaning = next((weights for pattern, weights in _LEANINGS if pattern.search(question)), {})
    return _FOLDERS.get(folder, 1.0) * leaning.get(folder, 1.0)


def stem(word: str) -> str:
    """Return a word's rough stem, good enough to compare two words of one text."""
    lowered = word.lower()
    for suffix in _SUFFIXES:
        if lowered.endswith(suffix) and len(lowered) - len(suffix) >= 3:
            return lowered[: -len(suffix)]
    return lowered


def terms_of(question: str) -> list[str]:
    """Return what a question asks about: lower-case words, each once, in order, at most `MAX_TERMS`."""
    terms: list[str] = []
    for match in _WORD.finditer(_RATE.sub(r"\1-per-\2", _TWO_WORDS.sub(r"\1-\3", question.lower()))):
        word = match.group().replace("’", "'").removesuffix("'s")
        if len(word) < 2 or len(word) > _MAX_TERM_CHARS or word in _STOP_WORDS or word in terms:
            continue
        terms.append(word)
        if len(terms) == MAX_TERMS:
            break
    # "What is Runwire?" asks about the product itself.
    return terms or (["runwire"] if "runwire" in question.lower() else [])


def alternatives(term: str) -> tuple[str, ...]:
    """Return the term and the words that the documentation may use for it."""
    return (term, *_ALSO.get(stem(term), ()))


def match_expression(words: Iterable[str]) -> str:
    """Return an FTS5 expression that matches any of the words.

    Each is a string in FTS5's own quotes (a quote is doubled), so that no operator, column name or
    parenthesis of a question is ever syntax.
    """
    quoted = ('"' + word.replace('"', '""').replace("\x00", "") + '"' for word in words)
    return " OR ".join(quoted)


def follows_up(question: str, terms: Sequence[str]) -> bool:
    """Return whether a question leans on the one before it."""
    if not terms:
        return True
    if _GOES_ON.search(question):
        return len(terms) <= 3
    return len(terms) == 1 and _POINTS_BACK.search(question) is not None and _ABOUT_DOING.search(question) is None
