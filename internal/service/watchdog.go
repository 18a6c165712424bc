package service

import (
	"context"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Watchdog is the setting of components that others wait for in the middle of a
// request. The zero value has none.
type Watchdog struct {
	Patience time.Duration `name:"watchdog" help:"Have the kernel end this process once it has stood still for so long, so that whoever waits for an answer learns that none will come. 0: never, for debuggers." default:"5s" env:"MERIDIAN_WATCHDOG"`
}

// leastPatience is what a machine that is merely busy may need.
const leastPatience = time.Second

// Validate refuses a patience that a busy machine would try.
func (w Watchdog) Validate() error {
	if w.Patience != 0 && w.Patience < leastPatience {
		return fmt.Errorf("--watchdog %s: want 0 or at least %s", w.Patience, leastPatience)
	}
	return nil
}

// sigevent is struct sigevent of the kernel (sigevent(7)), which reads 64 bytes.
type sigevent struct {
	value  uintptr
	signal int32
	notify int32
	_      [64 - unsafe.Sizeof(uintptr(0)) - 8]byte
}

// watch arms a timer of the kernel (timer_create(2)) that ends this process by
// SIGKILL after patience, and puts it off again and again until ctx ends. A process
// that is stopped, or whose runtime is stuck, can't; the kernel then closes its
// connections, which tells clients more than silence does.
func watch(ctx context.Context, patience time.Duration) (err error) {
	event, timer := sigevent{signal: int32(unix.SIGKILL)}, int32(0)
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&timer))); errno != 0 {
		return fmt.Errorf("watchdog: create its timer: %w", errno)
	}
	defer func() {
		if _, _, errno := unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(timer), 0, 0); errno != 0 && err == nil {
			err = fmt.Errorf("watchdog: delete its timer: %w", errno)
		}
	}()
	// Often enough that a tick or two may come late.
	tick := time.NewTicker(patience / 10)
	defer tick.Stop()
	for {
		at := unix.ItimerSpec{Value: unix.NsecToTimespec(patience.Nanoseconds())}
		if _, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(timer), 0, uintptr(unsafe.Pointer(&at)), 0, 0, 0); errno != 0 {
			return fmt.Errorf("watchdog: put it off: %w", errno)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
