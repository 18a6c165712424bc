"""Runs Patroni, whose versions before 3.1 can lose acknowledged commits.

A leader that stood still for longer than its lease (its machine was paused, its
processes were stopped) finds its lease expired when it goes on. Before 3.1 Patroni
then takes a new lease and writes the leader key again without looking whose it
is: it takes it from the leader elected meanwhile, whose members rewind to the old
one and drop all they had acknowledged since. Two corrections:

1. The leader key is written again only if it is still the one this member knew
   (Patroni's pull request 2689, in 3.0.3).
2. A primary without the key races for it, under synchronous replication, only if
   it is one of the members that have every acknowledged commit (after its pull
   request 2787, in 3.1).
"""

import sys
import time

from patroni import ha
from patroni.__main__ import main
from patroni.dcs import Leader, catch_return_false_exception, etcd3
from patroni.version import __version__


@catch_return_false_exception
def update_leader(self):
    retry = self._retry.copy()

    def bounded(*args, **kwargs):
        kwargs["retry"] = retry
        return retry(*args, **kwargs)

    self._run_and_handle_exceptions(self._do_refresh_lease, True, retry=bounded)
    if not self._lease:
        return False
    leader = self.cluster and self.cluster.leader
    if not isinstance(leader, Leader):
        return False
    if leader.session == self._lease:
        return True
    retry.deadline = retry.stoptime - time.time()
    if retry.deadline < 1:
        raise etcd3.Etcd3Error("update_leader timeout")
    ours = self._run_and_handle_exceptions(
        self._client.put, self.leader_path, self._name, self._lease, None, leader.index, retry=bounded)
    return bool(ours)


upstream_is_healthiest_node = ha.Ha.is_healthiest_node


def is_healthiest_node(self):
    sync = self.cluster.sync
    if (self.is_synchronous_mode() and not self.is_paused() and not self.cluster.failover
            and not sync.is_empty and not sync.matches(self.state_handler.name)):
        return False
    return upstream_is_healthiest_node(self)


version = tuple(int(n) for n in __version__.split(".")[:3])
if version < (3, 0, 3):
    etcd3.Etcd3._update_leader = update_leader
if version < (3, 1, 0):
    ha.Ha.is_healthiest_node = is_healthiest_node

if __name__ == "__main__":
    sys.exit(main())
