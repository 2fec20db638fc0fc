"""What the head sends for `preload`: the program of a template, as an archive that a host's Python imports.

Only texts: which Python runs them is not known here. How the archive is used is `template`'s business.
"""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from functools import cache
from importlib import resources

PROGRAM = ("imports", "preload")  # modules of this package
# Whatever goes wrong, the script itself must not be run: it would be given what is no argument of any job.
# This is the only part that has to be understood by every Python that a venv may have.
ENTRANCE = """\
import os
try:
    from pisa_fab.preload import main
    found = main()
except BaseException:
    import sys
    sys.excepthook(*sys.exc_info())
    os._exit(70)
if found is not None:
    raise found
"""


@cache
def template_parcel() -> str:
    """Give the archive, compressed, in letters that a message can hold."""
    folder = resources.files("pisa_fab")
    archive = io.BytesIO()
    # Stored as they are: otherwise jobs would find `zlib` imported.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr("sitecustomize.py", ENTRANCE)
        file.writestr("pisa_fab/__init__.py", "")
        for name in PROGRAM:
            file.writestr(f"pisa_fab/{name}.py", folder.joinpath(f"{name}.py").read_bytes())
    return base64.b64encode(zlib.compress(archive.getvalue())).decode("ascii")
