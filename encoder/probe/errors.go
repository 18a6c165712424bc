package probe

import "fmt"

// Code says what is wrong with a source.
type Code string

// The codes of InputError.
const (
	CodeEmpty       Code = "empty"
	CodeNotMedia    Code = "not-media"
	CodeTruncated   Code = "truncated"
	CodeNoStreams   Code = "no-video-or-audio"
	CodeUnsupported Code = "unsupported-codec"
	CodeDimensions  Code = "dimensions-too-large"
	CodeTooSmall    Code = "dimensions-too-small"
	CodeDuration    Code = "duration-too-long"
	CodeStreams     Code = "too-many-streams"
	CodeDamaged     Code = "damaged"
	// CodeChanged is a file whose beginning promised something else; another run begins.
	CodeChanged Code = "not-as-it-began"
	// CodeProfile is what was asked for, not the file.
	CodeProfile Code = "unknown-profile"
)

// InputError is a source that can't be encoded, whoever tries.
type InputError struct {
	Code   Code
	Detail string
}

func (e *InputError) Error() string { return string(e.Code) + ": " + e.Detail }

func bad(code Code, format string, a ...any) error {
	return &InputError{Code: code, Detail: fmt.Sprintf(format, a...)}
}
