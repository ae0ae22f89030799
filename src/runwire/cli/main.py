"""The verbs of `runwire` (PROTOCOL §6). Each is a few lines: what it does lives in the rooms below."""

from __future__ import annotations

import typer

from runwire.cli import (
    accounts,
    audit,
    belongings,
    check,
    cluster,
    doctor,
    keys,
    listen,
    members,
    migrate,
    project,
    serve,
    sign_ins,
    storage,
)

__all__ = ["app"]

app = typer.Typer(
    help="Runwire: a self-hosted, real-time server for AI agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # errors are ours to word; tracebacks belong to bugs only
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("dev")(serve.dev)
app.command("serve")(serve.serve)
app.command("cluster")(cluster.cluster)
app.command("new")(project.new)
app.command("run")(listen.run)
app.command("tail")(listen.tail)
app.command("replay")(listen.replay)
app.command("answer")(listen.answer)
app.command("retry")(listen.retry)
app.command("check")(check.check)
app.command("members")(members.members)
app.command("audit")(audit.audit)
app.command("migrate")(migrate.migrate)
app.command("version")(project.version)
accounts.user.command("sessions")(sign_ins.sessions)
accounts.user.command("sign-out")(sign_ins.sign_out)
accounts.user.command("invite")(sign_ins.invite)
accounts.user.command("reset")(sign_ins.reset)
accounts.user.command("export")(belongings.export)
accounts.user.command("erase")(belongings.erase)
app.add_typer(accounts.user, name="user", help="Who there is, what they may, and how they come in.")
app.add_typer(keys.token, name="token", help="API keys.")
app.add_typer(keys.signing_key, name="signing-key", help="The keys that sign access tokens.")
app.add_typer(doctor.doctor, name="doctor", help="Whether what should agree does.")
app.add_typer(storage.storage, name="storage", help="Figures, compaction, backup, export and import of the database.")
