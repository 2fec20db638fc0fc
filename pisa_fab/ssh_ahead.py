"""`ssh -G` asked about many hosts side by side, in the background, before anybody needs the answers.

A head imports Fabric meanwhile. What ssh says of one host is `ssh_config`'s business, what follows for a
connection that of `pool`, which asks here for hosts and gateways alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from pisa_fab.model import Host
from pisa_fab.ssh_config import Address, OpenSSH, Settings, SshConfigError

ASKED_AT_ONCE = 8  # `ssh -G` side by side

Answer = Settings | SshConfigError


class Inquiry:
    """Questions to ssh that have been asked.

    Attributes:
        ssh: who is asked.
    """

    def __init__(self, ssh: OpenSSH, addresses: Iterable[Address]) -> None:
        """Ask about these addresses; returns at once."""
        self.ssh = ssh
        self._threads = ThreadPoolExecutor(ASKED_AT_ONCE)
        # Once, before several need it; as the first of them it never waits for the others.
        self._defaults: Future[object] = self._threads.submit(lambda: ssh.default_identities)
        self._asked = {address: self._threads.submit(self._ask, address) for address in addresses}

    def answers(self) -> Mapping[Address, Answer]:
        """Wait for all answers, and give them; no thread is left then."""
        self._threads.shutdown()
        return {address: asked.result() for address, asked in self._asked.items()}

    def _ask(self, address: Address) -> Answer:
        try:
            self._defaults.result()
            return self.ssh.ask(address)
        except (SshConfigError, ValueError) as error:
            return SshConfigError(str(error))


def ask_about(hosts: Iterable[Host]) -> Inquiry | None:
    """Ask about hosts as the user's own files have them; None where there is no ssh."""
    if not OpenSSH.is_here():
        return None
    return Inquiry(OpenSSH(), [Address(host.name, host.user, host.port) for host in hosts])
