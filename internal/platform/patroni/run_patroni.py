"""Runs Patroni, whose versions before 3.1 can lose acknowledged commits.

A leader that stood still for longer than its lease (its machine was paused, its
processes were stopped) finds its lease expired when it goes on. Before 3.1 Patroni
then takes a new lease and writes the leader key again without looking whose it
is: it takes it from the leader elected meanwhile, whose members rewind to the old
one and drop all they had acknowledged since. Four corrections:

1. The leader key is written again only if it is still the one this member knew
   (Patroni's pull request 2689, in 3.0.3).
2. A primary without the key races for it, under synchronous replication, only if
   it is one of the members that have every acknowledged commit (after its pull
   request 2787, in 3.1).
3. A new etcd cluster says that it is version 3.0 until its members have told each
   other theirs. Who asks just then waits and asks again, instead of talking to it
   as to that version, and being refused, for as long as it lives.

And five additions:

1. The primary keeps etcd's leader away from its own region. When both are lost
   together, etcd elects a leader first, which gives the lost primary's lease its
   whole time to live anew: writes come back two seconds later.
2. The next leader fetches what another standby received of the lost one's log and
   it did not. Else that standby, the only one that is left to confirm commits, had
   to be wound back first, for which pg_rewind copies all of the log over the
   distance between the regions.
3. A member that was away for longer than the leader keeps its log is copied anew:
   it could never follow again.
4. Where the configuration has a section "backup", the primary makes base backups
   with pgBackRest, a full one each week and each day what changed since.
5. Patroni takes the settings of the cluster (section "bootstrap", "dcs") from the
   file only when it makes the cluster. The primary gives it those of a file that has
   changed: other round-trip times, or what a later version found better. What is
   changed with patronictl stays until then.
"""

import copy
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time

import etcd
import yaml

from patroni import ha
from patroni.__main__ import main
from patroni.dcs import Leader, catch_return_false_exception, etcd3
from patroni.postgresql import Postgresql
from patroni.postgresql.connection import get_connection_cursor
from patroni.utils import patch_config
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


upstream_ensure_version_prefix = etcd3.Etcd3Client._ensure_version_prefix


def ensure_version_prefix(self, base_uri, **kwargs):
    try:
        upstream_ensure_version_prefix(self, base_uri, **kwargs)
    except ValueError as e:  # "not_decided"
        raise etcd.EtcdException("etcd's members haven't agreed on their version: %s" % e)
    if self.version_prefix != "/v3":
        raise etcd.EtcdException("etcd's members haven't agreed on their version: it is %s" % (self._cluster_version,))


etcd3.Etcd3Client._ensure_version_prefix = ensure_version_prefix

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


# The longest that the next leader waits for what others have: a connection and some
# megabytes from the farthest region. Without it is promoted as it is.
CATCH_UP = 4

upstream_ha_init = ha.Ha.__init__
upstream_pre_promote = Postgresql._pre_promote


def ha_init(self, *args, **kwargs):
    upstream_ha_init(self, *args, **kwargs)
    self.state_handler.ha = self
    threading.Thread(target=rescue, args=(self,), daemon=True).start()


def pre_promote(self):
    try:
        catch_up(self.ha)
    except Exception:
        log.exception("promoted without what other members may have")
    return upstream_pre_promote(self)


def catch_up(ha):
    """Fetches the write-ahead log that another standby received and this one didn't.

    It is of commits that nobody was told of: acknowledged ones are here. The next look
    at whom this member has to follow corrects what is left in its settings, should it
    not become the leader.
    """
    own, lost = ha.state_handler, ha.cluster.sync.leader
    others = [m for m in ha.cluster.members if m.name not in (own.name, lost) and m.api_url and m.conn_url]
    if not others:
        return
    deadline = time.time() + CATCH_UP
    ahead = max(ha.fetch_nodes_statuses(others), key=lambda s: (s.reachable and s.in_recovery, s.wal_position))
    had = at = received(own)
    if not ahead.reachable or not ahead.in_recovery or ahead.wal_position <= at:
        return
    own.follow(ahead.member, do_reload=True)
    while at < ahead.wal_position and time.time() < deadline:
        time.sleep(0.05)
        at = received(own)
    log.info("%d of %d bytes of the log fetched from %s before the promotion", at - had, ahead.wal_position - had, ahead.member.name)


def value(postgresql, statement):
    with postgresql.connection().cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def received(postgresql):
    return value(postgresql, "SELECT pg_catalog.pg_wal_lsn_diff("
                 "greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()), '0/0')::bigint")


# How long a member must have received nothing before it is asked whether it can.
STRANDED = 20


def rescue(ha):
    """Copies this member anew once it lacks what its leader doesn't keep any more."""
    at, since = None, time.time()
    while True:
        time.sleep(LOOK)
        try:
            now = received(ha.state_handler) if follows(ha) and not streams(ha.state_handler) else None
            if now is None or now != at:
                at, since = now, time.time()
            elif time.time() - since > STRANDED and stranded(ha, at):
                log.warning("the leader doesn't keep the log from byte %d on: this member is copied anew", at)
                log.info("copy: %s", ha.reinitialize() or "begun")
                at = None
        except Exception as e:  # whatever it is, the next look may find better
            log.info("whether this member can follow isn't known: %r", e)


def follows(ha):
    own, cluster = ha.state_handler, ha.cluster
    return (cluster and cluster.leader and cluster.leader.name != own.name and not ha.is_paused()
            and not cluster.sync.matches(own.name) and own.role == "replica" and own.state == "running")


def streams(postgresql):
    return value(postgresql, "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming')")


def stranded(ha, position):
    """Whether the leader has gone on and hasn't the segment of its log in which position is."""
    own = ha.state_handler
    if own.get_guc_value("restore_command"):
        return False  # an archive may have it
    leader = ha.cluster.leader.conn_kwargs(own.config.rewind_credentials)
    leader["dbname"] = own.database
    with get_connection_cursor(connect_timeout=ANSWER, options="-c statement_timeout=%d" % (1000 * ANSWER), **leader) as cursor:
        cursor.execute("SELECT pg_catalog.pg_current_wal_lsn() > at AND NOT EXISTS ("
                       "SELECT FROM pg_catalog.pg_ls_waldir() WHERE substr(name, 9) = substr(pg_catalog.pg_walfile_name(at), 9))"
                       " FROM (SELECT '0/0'::pg_lsn + %s AS at) AS here", (position,))
        return cursor.fetchone()[0]


ha.Ha.__init__ = ha_init
Postgresql._pre_promote = pre_promote

upstream_start = Postgresql.start


def start(self, *args, **kwargs):
    port = self.config.get("listen").rpartition(":")[2]
    lock = os.path.join(self.config.get("parameters")["unix_socket_directories"], ".s.PGSQL.%s.lock" % port)
    try:
        unlock(lock, self.data_dir)
    except Exception:
        log.exception("%s stays", lock)
    return upstream_start(self, *args, **kwargs)


def unlock(lock, data_dir):
    """Removes a socket's lock unless a process of the server of data_dir holds it.

    Nobody else starts servers there, and every process of one works in its data
    directory. Of a process of another user, whose directory isn't shown, PostgreSQL
    knows that it isn't the one.
    """
    try:
        with open(lock) as f:
            pid = f.readline().strip()
    except FileNotFoundError:
        return
    try:
        if pid.isdigit() and os.path.samefile("/proc/%s/cwd" % pid, data_dir):
            return
    except (FileNotFoundError, PermissionError):
        pass
    os.remove(lock)
    log.info("%s of process %s, which isn't PostgreSQL's, removed", lock, pid)


Postgresql.start = start

DAY = 24 * 60 * 60
# What a base backup may take, and the pause after one that failed.
BACKUP, PAUSE = DAY, 60


def due(info, now):
    """The type of base backup that is due, None if none is; info is what pgBackRest tells."""
    backups = [b for stanza in info for b in stanza.get("backup", []) if not b.get("error")]
    if not any(now - b["timestamp"]["stop"] < 7 * DAY for b in backups if b["type"] == "full"):
        return "full"
    if not any(now - b["timestamp"]["stop"] < DAY for b in backups):
        return "diff"
    return None


def back_up(dcs, settings):
    command = ["pgbackrest", "--config=" + settings["config"], "--stanza=" + settings["stanza"]]
    env = {**os.environ, "PGPASSWORD": settings["password"]}

    def run(*args):
        done = subprocess.run([*command, *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BACKUP)
        if done.returncode:
            raise RuntimeError("pgbackrest %s: %s" % (args[-1], done.stdout + done.stderr))
        return done.stdout

    while True:
        time.sleep(LOOK)
        try:
            cluster = dcs.cluster
            if not cluster or not cluster.leader or cluster.leader.name != dcs._name:
                continue
            run("stanza-create")
            kind = due(json.loads(run("--output=json", "info")), time.time())
            if kind:
                run("--type=" + kind, "backup")
                log.info("base backup (%s) made", kind)
            # Asked again soon enough for tomorrow's.
            time.sleep(PAUSE)
        except Exception as e:  # this member may not lead any more; else the next try may do better
            log.warning("no base backup: %s", e)
            time.sleep(PAUSE)


# The cluster's settings say by this name of which file they are.
APPLIED = "applied"


def keep_settings(dcs, wanted):
    while True:
        time.sleep(LOOK)
        try:
            apply_settings(dcs, wanted)
        except Exception as e:  # whatever it is, the next look may find better
            log.info("the cluster's settings stay as they are: %r", e)


def apply_settings(dcs, wanted):
    """Gives the cluster the settings of this member's file if it is the primary and they are new."""
    cluster = dcs.cluster
    if not cluster or not cluster.leader or cluster.leader.name != dcs._name or not cluster.config or not cluster.config.data:
        return
    name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    settings = copy.deepcopy(cluster.config.data)
    if settings.get(APPLIED) == name:
        return
    differ = patch_config(settings, wanted)
    settings[APPLIED] = name
    # Only over those that were read: somebody may just change them, too.
    if dcs.set_config_value(json.dumps(settings, separators=(",", ":")), cluster.config.index) and differ:
        log.info("the cluster has the settings of this member's file")


upstream_init = etcd3.Etcd3.__init__


def init(self, *args, **kwargs):
    upstream_init(self, *args, **kwargs)
    threading.Thread(target=keep_apart, args=(self,), daemon=True).start()
    with open(sys.argv[-1]) as f:
        config = yaml.safe_load(f)
    if config.get("backup"):
        threading.Thread(target=back_up, args=(self, config["backup"]), daemon=True).start()
    wanted = config.get("bootstrap", {}).get("dcs")
    if wanted:
        threading.Thread(target=keep_settings, args=(self, wanted), daemon=True).start()


etcd3.Etcd3.__init__ = init

version = tuple(int(n) for n in __version__.split(".")[:3])
if version < (3, 0, 3):
    etcd3.Etcd3._update_leader = update_leader
if version < (3, 1, 0):
    ha.Ha.is_healthiest_node = is_healthiest_node

if __name__ == "__main__":
    sys.exit(main())
