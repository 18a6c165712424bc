package tools

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// PostgresCredential is whom PostgreSQL, Patroni and etcd run as: nil, this
// process's user, unless that is root, as whom PostgreSQL refuses to run.
func PostgresCredential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w: PostgreSQL doesn't run as root and has no user here (%w); run `make install`", ErrMissing, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
