"""The settings: what cannot be read, what is unsafe, what is not installed."""

from __future__ import annotations

from runwire.app.doctor.finding import Finding, by_sentence, fault, fine, warning
from runwire.app.doctor.subject import Subject
from runwire.settings import Judged, Settings

__all__ = ["examine_extras", "examine_settings", "unreadable"]

_OTHERWISE = "correct it where it stands; `runwire config explain NAME` says what may be there"


def unreadable(judged: Judged) -> list[Finding]:
    """Return the faults because of which it is not known what the settings are."""
    return [_of(sentence) for sentence in judged.faults]


def examine_settings(judged: Judged, subject: Subject) -> list[Finding]:
    """Say which settings are in force, and which of them are unsafe."""
    loaded, settings = subject.loaded, subject.settings
    given = [source for source in loaded.sources.values() if source != "default"]
    by = f" ({', '.join(_grouped(given))})" if given else ""
    roles = f"role{'s' * (len(settings.roles) > 1)} {', '.join(settings.roles)}"
    said = f"{settings.environment}, {roles}; {len(given)} of {len(Settings.model_fields)} set{by}"
    return [
        fine("settings", said),
        *(fault(rule.settings[0], f"{rule.sentence} (rule {rule.id})", rule.fix) for rule in judged.refused),
        *(
            warning(rule.settings[0], f"{rule.sentence} (rule {rule.id}, which allow_unsafe lets pass)", rule.fix)
            for rule in loaded.allowed
        ),
    ]


async def examine_extras(subject: Subject) -> list[Finding]:
    """Look whether everything is installed that the settings need."""
    return [
        fault(f"extra {name}", "is not installed, and the settings need it", f"pip install 'runwire[{name}]'")
        for name in subject.missing_extras
    ]


def _of(sentence: str) -> Finding:
    # `RUNWIRE_X: is empty; give it a value.`
    what, has_what, rest = sentence.partition(": ")
    if not has_what:
        what, rest = "settings", sentence
    return by_sentence(what, rest, otherwise=_OTHERWISE, between="; ")


def _grouped(sources: list[str]) -> list[str]:
    """Return where settings come from; variables are many, and only counted."""
    variables = sum(source.startswith("RUNWIRE_") for source in sources)
    others = sorted({source for source in sources if not source.startswith("RUNWIRE_")})
    return [*others, *([f"{variables} by variables"] if variables else [])]
