from runwire.app.tracing.ids import add_trace_id
from runwire.app.tracing.open import missing_extra, open_tracing

__all__ = ["add_trace_id", "missing_extra", "open_tracing"]
