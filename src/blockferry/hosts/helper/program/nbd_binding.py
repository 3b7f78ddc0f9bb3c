"""libnbd's binding for Python, which comes with the distribution (Debian and Fedora: python3-libnbd)."""

from __future__ import annotations

import sys
from typing import Any

from blockferry.hosts.helper.program.refusing import CallRefused


def load() -> Any:
    """The module `nbd`. The helper starts without the distribution's modules, which is quicker. Raises Refused."""
    try:
        if "site" not in sys.modules:
            import site  # noqa: PLC0415 - see above

            site.main()
        import nbd  # noqa: PLC0415
    except ImportError:
        raise CallRefused("the host lacks libnbd for Python (the package python3-libnbd)") from None
    return nbd
