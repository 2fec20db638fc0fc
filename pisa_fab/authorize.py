"""`check --install-key`: puts the user's public key where a password still works.

Usually the home is shared, and then one host is enough. So one goes first, alone; at the others the key is
looked for, and added where it is not there yet. Which also keeps a wrong password from being tried
everywhere, until an account is locked.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from pathlib import Path

from pisa_fab.diagnosis import KEY_REFUSED, HostReport, trouble_of
from pisa_fab.errors import UsageError
from pisa_fab.link import Dialogue
from pisa_fab.model import Cluster, Host
from pisa_fab.visits import Access, Visit, pay

TIMEOUT = 30.0  # seconds for each of the two rounds; a server may take its time after a wrong password
MOST_TRIES = 3  # hosts that may refuse a password one after the other, before it is not tried any more


def default_public_key(identities: Sequence[Path]) -> Path:
    """Give the public half of the first of these private keys that has one. Raises UsageError."""
    for identity in identities:
        public = identity.with_name(identity.name + ".pub")
        if public.is_file():
            return public
    raise UsageError("you have no public key that could be installed", "make a key: ssh-keygen -t ed25519")


def read_public_key(path: Path) -> tuple[str, str]:
    """Give what tells a public key from all others, and its whole line. Raises UsageError."""
    hint = "name the file that ends with .pub"
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    fields = keys[0].split() if len(keys) == 1 else []
    try:
        is_key = len(fields) > 1 and base64.b64decode(fields[1], validate=True)[4:].startswith(
            fields[0].encode("utf-8")
        )
    except binascii.Error:
        is_key = False
    if not is_key or not keys[0].isprintable():
        raise UsageError(f"{path}: is no public key", hint)
    return fields[1], keys[0]


def install_key(
    cluster: Cluster,
    access: Access,
    public_key: Path,
    reports: Sequence[HostReport],
    told: Callable[[str], None],
) -> list[str]:
    """Put a public key on the hosts that refused it, and give the names of those where it was not yet.

    `access` knows the password; `told` hears, in lines, of every host where it could not be done. Raises
    UsageError.
    """
    blob, line = read_public_key(public_key)
    refusing = {report.host for report in reports if report.verdict == KEY_REFUSED}
    hosts = [host for host in cluster.hosts if host.name in refusing]
    installed: list[str] = []

    def talk(visit: Visit, dialogue: Dialogue) -> None:
        visit.step = "putting the key there"
        dialogue.say({"op": "authorize", "blob": blob, "line": line})
        visit.found = dialogue.hear()["found"]

    def put(some: Sequence[Host]) -> bool:
        visits = pay(access.links(some), some, talk, TIMEOUT, told)
        for visit in visits:
            for problem in problems_of(visit):
                told(f"{visit.host.name}: {problem}")
        installed.extend(visit.host.name for visit in visits if visit.found.get("added"))
        return any("added" in visit.found for visit in visits)

    for tries, host in enumerate(hosts, start=1):
        if put([host]):
            if hosts[tries:]:
                put(hosts[tries:])
            break
        if tries == MOST_TRIES and hosts[tries:]:
            told(f"{MOST_TRIES} hosts did not let us in; the password is not tried on the others")
            break
    return installed


def problems_of(visit: Visit) -> list[str]:
    """Say what kept a key from being installed on a host, or will keep it from being used."""
    found = visit.found
    if "authorize_error" in found:
        return [f"the key could not be written: {found['authorize_error']}"]
    if "added" not in found and not visit.is_over:
        return [f"no answer within {TIMEOUT:.0f} s while {visit.step}"]
    if "added" not in found:
        is_refused = trouble_of(visit.reason).verdict == KEY_REFUSED
        return ["refuses the password, too" if is_refused else visit.reason]
    if found["home_is_open"]:
        return ["others may write into your home folder there, so sshd may ignore the key; chmod go-w ~"]
    return []
