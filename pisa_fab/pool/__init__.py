"""The pool over SSH: the only room that imports Fabric and Paramiko.

`access` says how this user's connections are made, `links` are the connections, a Fabric `ThreadingGroup` of
them, `keys` is what both sides show each other, `troubles` what Fabric's and Paramiko's exceptions mean to a
person. What needs neither library is elsewhere: what OpenSSH's configuration says in `ssh_config`, which
private keys there are in `identities`, what known_hosts says in `known_hosts`.
"""

from pisa_fab.pool.access import Access, host_of
from pisa_fab.pool.links import LinkGroup, SSHLink

__all__ = ["Access", "LinkGroup", "SSHLink", "host_of"]
