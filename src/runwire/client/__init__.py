from runwire.client.connect import Client, Run, connect
from runwire.client.feed import Event, Reset
from runwire.client.http import Http
from runwire.client.sign_in import SignIn, sign_in
from runwire.client.token import Token

__all__ = ["Client", "Event", "Http", "Reset", "Run", "SignIn", "Token", "connect", "sign_in"]
