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

And one addition: the primary keeps etcd's leader away from its own region. When
both are lost together, etcd elects a leader first, which gives the lost primary's
lease its whole time to live anew: writes come back two seconds later.
"""

import json
import logging
import sys
import threading
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


log = logging.getLogger(__name__)

# Seconds between two looks, and for one answer.
LOOK, ANSWER = 5, 3


def keep_apart(dcs):
    while True:
        time.sleep(LOOK)
        try:
            move_etcd_leader(dcs)
        except Exception as e:  # whatever it is, the next look may find better
            log.info("etcd's leader stays where it is: %r", e)


def move_etcd_leader(dcs):
    """Hands etcd's leadership over if this member is the primary and its region's etcd leads."""
    cluster = dcs.cluster
    if not cluster or not cluster.leader or cluster.leader.name != dcs._name:
        return
    client = dcs._client

    def ask(member, path, **body):
        response = client.http.request(
            "POST", member["clientURLs"][0] + client.version_prefix + path, body=json.dumps(body),
            headers={**client._get_headers(), "Content-Type": "application/json"}, timeout=ANSWER, retries=False)
        return client._handle_server_response(response)

    # Members of etcd are named by their regions, as Patroni's are.
    members = client.call_rpc("/cluster/member/list", {})["members"]
    own = next((m for m in members if m.get("name") == dcs._name), None)
    if not own or ask(own, "/maintenance/status")["leader"] != own["ID"]:
        return
    for other in members:
        if other is own or other.get("isLearner") or not other.get("clientURLs"):
            continue
        try:
            ask(other, "/maintenance/status")
        except Exception:
            continue  # not to one that can't be reached
        ask(own, "/maintenance/transfer-leadership", targetID=other["ID"])
        log.info("etcd's leader moved from %s to %s", own["name"], other["name"])
        return


upstream_init = etcd3.Etcd3.__init__


def init(self, *args, **kwargs):
    upstream_init(self, *args, **kwargs)
    threading.Thread(target=keep_apart, args=(self,), daemon=True).start()


etcd3.Etcd3.__init__ = init

version = tuple(int(n) for n in __version__.split(".")[:3])
if version < (3, 0, 3):
    etcd3.Etcd3._update_leader = update_leader
if version < (3, 1, 0):
    ha.Ha.is_healthiest_node = is_healthiest_node

if __name__ == "__main__":
    sys.exit(main())
