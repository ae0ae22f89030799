"""What goes out over a socket byte by byte, and how it is counted."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from runwire.gateway.metrics import Metrics
from runwire.gateway.socket_protocol import _text_head


@pytest.mark.parametrize("size_bytes", [0, 1, 125, 126, 127, 65_535, 65_536, 262_144])
def test_a_message_has_the_head_of_one_unmasked_text_frame(size_bytes: int) -> None:
    message = b"x" * size_bytes
    assert _text_head(size_bytes) + message == Frame(Opcode.TEXT, message).serialize(mask=False)


def test_what_was_sent_is_exported() -> None:
    metrics = Metrics()
    metrics.sent.messages += 2
    metrics.sent.size_bytes += 300
    lines = metrics.text().decode().splitlines()
    assert {"gateway_sent_messages_total 2.0", "gateway_sent_bytes_total 300.0"} <= set(lines)
