"""Ask the server of this container how it is: `healthcheck.py live|started|ready`. Exit status 0: well.

With Python alone: the image has no curl. It does not go through a proxy that the container may be told to use.
"""

import http.client
import os
import sys

_PATIENCE_S = 4.0  # less than the probe's own time-out, so that the reason is said


def main() -> int:
    """Ask; say why not on standard error."""
    path = f"/health/{sys.argv[1] if len(sys.argv) > 1 else 'live'}"
    environ = os.environ  # noqa: TID251 - no part of the package: it must not load it
    port = int(environ.get("RUNWIRE_MANAGEMENT_PORT") or environ.get("RUNWIRE_PORT") or 8000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(1_000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 1
    sys.stderr.write(f"{path}: {answer.status} {said}\n")
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
