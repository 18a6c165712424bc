package patroni

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A new etcd cluster's first word on its version is waited out.
func TestEtcdThatBegins(t *testing.T) {
	python(t, `
import etcd, json, run_patroni as r

class Client(r.etcd3.Etcd3Client):
    username = password = None
    version_prefix, _cluster_version = "/v3beta", None
    def __init__(self):
        pass

class Http:
    def __init__(self, cluster):
        self.cluster = cluster
    def urlopen(self, *args, **kwargs):
        answer = type("", (), {})()
        answer.status, answer.data = 200, json.dumps({"etcdserver": "3.4.23", "etcdcluster": self.cluster}).encode()
        return answer

for cluster, ready in [("not_decided", False), ("3.0.0", False), ("3.4.0", True), ("3.5.0", True)]:
    c = Client()
    c.http = Http(cluster)
    try:
        c._ensure_version_prefix("http://etcd")
        assert ready and c.version_prefix == "/v3", cluster
    except etcd.EtcdException:
        assert not ready, cluster
`)
}

// Which base backup is due, by what pgBackRest tells of those there are.
func TestBaseBackupsDue(t *testing.T) {
	python(t, `
import run_patroni as r
now = 100 * r.DAY
def info(*backups):
    return [{"backup": [{"type": kind, "error": error, "timestamp": {"stop": now - days * r.DAY}} for kind, days, error in backups]}]
for want, got in [
    ("full", r.due([], now)),
    ("full", r.due([{"backup": []}], now)),
    (None, r.due(info(("full", 0.5, False)), now)),
    ("diff", r.due(info(("full", 1.5, False)), now)),
    (None, r.due(info(("full", 1.5, False), ("diff", 0.5, False)), now)),
    ("full", r.due(info(("full", 7.5, False), ("diff", 0.5, False)), now)),
    ("full", r.due(info(("full", 0.5, True)), now)),
]:
    assert want == got, (want, got)
`)
}

func TestSocketLocks(t *testing.T) {
	python(t, `
import os, run_patroni as r, subprocess, sys, tempfile
home = tempfile.mkdtemp()
data, lock = os.path.join(home, "data"), os.path.join(home, ".s.PGSQL.5432.lock")
os.mkdir(data)
server = subprocess.Popen(["sleep", "60"], cwd=data)
other = subprocess.Popen(["sleep", "60"], cwd=home)
gone = subprocess.Popen(["true"])
gone.wait()
try:
    r.unlock(lock, data)  # there is none
    for what, left in [(server.pid, True), (other.pid, False), (gone.pid, False), ("", False), ("x", False)]:
        with open(lock, "w") as f:
            f.write("%s\n%s\n" % (what, data))
        r.unlock(lock, data)
        assert os.path.exists(lock) == left, what
finally:
    server.kill(), other.kill()
    server.wait(), other.wait()
`)
}

// The cluster has what its primary's file says, also after it was made, and what its
// operator changed since.
func TestSettingsOfAFileThatChanged(t *testing.T) {
	python(t, `
import json, run_patroni as r
from patroni.dcs import ClusterConfig

class Leader:
    name = "eu"

class Cluster:
    leader = Leader()

class DCS:
    def __init__(self, name, settings):
        self._name, self.cluster, self.writes = name, Cluster(), 0
        self.cluster.config = ClusterConfig.from_node(7, json.dumps(settings))
    def set_config_value(self, value, index):
        assert index == self.cluster.config.index, "it is compared"
        self.writes += 1
        self.cluster.config = ClusterConfig.from_node(index + 1, value)
        return True
    def data(self):
        return {k: v for k, v in self.cluster.config.data.items() if k != r.APPLIED}

before = {"ttl": 5, "pause": True, "postgresql": {"parameters": {"wal_keep_size": "128MB", "max_connections": 300}}}
wanted = {"ttl": 9, "postgresql": {"parameters": {"wal_keep_size": "256MB"}}}
after = {"ttl": 9, "pause": True, "postgresql": {"parameters": {"wal_keep_size": "256MB", "max_connections": 300}}}

follower = DCS("us", before)
r.apply_settings(follower, wanted)
assert follower.writes == 0

primary = DCS("eu", before)
for _ in range(3):
    r.apply_settings(primary, wanted)
assert primary.writes == 1, primary.writes
assert primary.data() == after, primary.data()

primary.set_config_value(json.dumps({**primary.cluster.config.data, "ttl": 20}), primary.cluster.config.index)
r.apply_settings(primary, wanted)
assert primary.data()["ttl"] == 20, "an operator's change stays"
r.apply_settings(primary, {"ttl": 10})
assert primary.data()["ttl"] == 10, "until the file changes"

unread = DCS("eu", None)
r.apply_settings(unread, wanted)
assert unread.writes == 0, "a cluster that begins has none yet"
`)
}

// python runs a script that may import Program.
func python(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run_patroni.py"), Program, 0o600))
	cmd := exec.Command(Interpreter, "-c", script)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+dir, "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}
