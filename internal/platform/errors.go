package platform

import "fmt"

// Code says what kind of error an operation on a region ended with.
type Code string

// Codes of errors of regions.
const (
	NotRunning    Code = "not_running"
	UnknownRegion Code = "unknown_region"
	NotIsolated   Code = "not_isolated"
	AlreadyKilled Code = "already_killed"
	AlreadyDown   Code = "already_stopped"
	AlreadyHung   Code = "already_hung"
	NotDown       Code = "not_down"
	NotHung       Code = "not_hung"
	NotSilent     Code = "not_silent"
	NoDisk        Code = "no_disk"
	NotFull       Code = "not_full"
	NotUp         Code = "not_up"
	Busy          Code = "busy"
	Interrupted   Code = "interrupted"
	BadRequest    Code = "bad_request"
	Failed        Code = "failed"
)

// Error is an operation on a region that can't be done. It matches with
// errors.Is an Error of the same code, and crosses the control socket whole.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Is matches by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

func refuse(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
