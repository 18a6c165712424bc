// Package vtt reads WebVTT as ffmpeg writes it and cuts it into the segments of
// an HLS rendition (RFC 8216bis 3.1.4, W3C WebVTT).
package vtt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Cue is one text and when it is shown.
type Cue struct {
	Start, End time.Duration
	// Settings follow the times: "line:0 align:start".
	Settings string
	// Text has no empty lines.
	Text string
}

// maxCues bounds a track: one each second for a day.
const maxCues = 100_000

// Parse reads a WebVTT file. Blocks that aren't cues and cues that end before
// they start are left out; times in hours beyond maxHours are an error.
func Parse(b []byte) ([]Cue, error) {
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "\uFFFD").Replace(strings.ToValidUTF8(string(b), "\uFFFD"))
	text = strings.TrimPrefix(text, "\uFEFF")
	if !strings.HasPrefix(text, "WEBVTT") {
		return nil, errors.New("webvtt: doesn't begin with WEBVTT")
	}
	_, text, _ = strings.Cut(text, "\n")
	var out []Cue
	for block := range strings.SplitSeq(text, "\n\n") {
		block = strings.Trim(block, "\n")
		first, rest, _ := strings.Cut(block, "\n")
		if !strings.Contains(first, "-->") { // an identifier, or no cue at all
			first, rest, _ = strings.Cut(rest, "\n")
		}
		start, tail, ok := strings.Cut(first, "-->")
		if !ok {
			continue
		}
		tail = strings.TrimSpace(tail)
		end, settings, _ := strings.Cut(tail, " ")
		c := Cue{Settings: strings.TrimSpace(settings), Text: strings.ReplaceAll(rest, "-->", "->")}
		var err error
		if c.Start, err = parseTime(strings.TrimSpace(start)); err == nil {
			c.End, err = parseTime(end)
		}
		if err != nil {
			return nil, err
		}
		if c.End <= c.Start || strings.TrimSpace(c.Text) == "" {
			continue
		}
		if out = append(out, c); len(out) > maxCues {
			return nil, fmt.Errorf("webvtt: more than %d cues", maxCues)
		}
	}
	slices.SortStableFunc(out, func(a, b Cue) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	return out, nil
}

// maxHours keeps times far from overflow.
const maxHours = 1000

// parseTime reads "[hh:]mm:ss.mmm".
func parseTime(s string) (time.Duration, error) {
	fields := strings.Split(s, ":")
	bad := fmt.Errorf("webvtt: time %q", s)
	if len(fields) == 2 {
		fields = append([]string{"0"}, fields...)
	}
	if len(fields) != 3 {
		return 0, bad
	}
	h, err1 := strconv.ParseUint(fields[0], 10, 16)
	m, err2 := strconv.ParseUint(fields[1], 10, 8)
	sec, millis, ok := strings.Cut(fields[2], ".")
	n, err3 := strconv.ParseUint(sec, 10, 8)
	ms, err4 := strconv.ParseUint(millis, 10, 16)
	if errors.Join(err1, err2, err3, err4) != nil || !ok || len(millis) != 3 || h > maxHours || m > 59 || n > 59 {
		return 0, bad
	}
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(n)*time.Second + time.Duration(ms)*time.Millisecond, nil
}

// Cut shifts cues by -zero and divides them into segments of the given length
// that cover all of total; a cue is in every segment it is shown in.
func Cut(cues []Cue, zero, total, length time.Duration) [][]byte {
	n := max(1, int((total+length-1)/length))
	parts := make([]bytes.Buffer, n)
	for i := range parts {
		parts[i].WriteString("WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n")
	}
	for _, c := range cues {
		c.Start, c.End = max(0, c.Start-zero), min(total, c.End-zero)
		if c.End <= c.Start {
			continue
		}
		for i := int(c.Start / length); i < n && time.Duration(i)*length < c.End; i++ {
			p := &parts[i]
			fmt.Fprintf(p, "\n%s --> %s", stamp(c.Start), stamp(c.End))
			if c.Settings != "" {
				p.WriteString(" " + c.Settings)
			}
			p.WriteString("\n" + c.Text + "\n")
		}
	}
	out := make([][]byte, n)
	for i := range parts {
		out[i] = parts[i].Bytes()
	}
	return out
}

func stamp(d time.Duration) string {
	ms := d.Milliseconds()
	return fmt.Sprintf("%02d:%02d:%02d.%03d", ms/3_600_000, ms/60_000%60, ms/1000%60, ms%1000)
}
