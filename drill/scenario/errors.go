package scenario

import (
	"fmt"
	"strings"
)

// Problem is one thing to change in a scenario file.
type Problem struct {
	// Line from 1; 0 when it concerns the whole file.
	Line int
	// Change says what is wrong and what to write instead.
	Change string
}

// Error is a scenario file that can't be used, with every problem found.
type Error struct {
	// File as it was named.
	File     string
	Problems []Problem
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.File + ": " + p.Change
		if p.Line > 0 {
			lines[i] = fmt.Sprintf("%s:%d: %s", e.File, p.Line, p.Change)
		}
	}
	return strings.Join(lines, "\n")
}
