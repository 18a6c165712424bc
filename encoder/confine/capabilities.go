package confine

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var capabilityNames = map[int]string{unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SETGID: "CAP_SETGID", unix.CAP_KILL: "CAP_KILL",
	unix.CAP_SYS_NICE: "CAP_SYS_NICE", unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN"}

// lacking says which of the capabilities the worker hasn't.
func lacking(wanted ...int) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&head, &has[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	var missing []string
	for _, c := range wanted {
		if has[c/32].Effective&(1<<(c%32)) == 0 {
			missing = append(missing, capabilityNames[c])
		}
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("the worker lacks %s", strings.Join(missing, ", "))
}

// dropCapabilities takes all of the calling thread. With PR_SET_NO_NEW_PRIVS not even root
// gets them back by executing a program.
func dropCapabilities() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return os.NewSyscallError("capset", unix.Capset(&head, &none[0]))
}
