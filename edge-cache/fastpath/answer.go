package fastpath

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/net/http/httpguts"

	"github.com/meridian-video/meridian/edge-cache/deliver"
	"github.com/meridian-video/meridian/edge-cache/pages"
)

// Answer is a whole response.
type Answer struct {
	Head *Head
	// Values are what Head leaves open, in its order.
	Values Values
	// More has fields to come after those of Head, none of them open; nil without.
	More *Head
	Body []byte
	// Slot is where a copy of Body, or of the Whole it is a part of, may be; nil where
	// there is to be none.
	Slot  *pages.Slot
	Whole []byte
	// Stored has the body in a file, in place of Body: Part of it. It is for requests
	// that take Files, and released when the answer has ended.
	Stored Stored
	Part   deliver.Span
	// Kind is the responder's own.
	Kind int
}

// Stored is a body in a file on disk, of which the kernel's memory may have less than all.
type Stored interface {
	// File is the file's descriptor, valid until Release, and where the body begins.
	File() (fd int, at int64)
	// Load brings a part of the body into the kernel's memory. It waits for the disk.
	Load(offset, length int64) error
	// Failed is told that the kernel couldn't read the file.
	Failed(err error)
	Release()
}

// Object is a body that lies in memory or, OnDisk, in a file alone.
type Object interface {
	Stored
	OnDisk() bool
	// Whole is the body in memory, Slot its place for a copy.
	Whole() []byte
	Slot() *pages.Slot
}

// Take has the answer's body from an object: a part of it, which may be all, or nothing.
func (a *Answer) Take(o Object, part deliver.Span) {
	switch {
	case part.Length == 0:
		o.Release()
		return
	case o.OnDisk():
		a.Stored, a.Part = o, part
		return
	}
	a.Whole, a.Slot = o.Whole(), o.Slot()
	a.Body = a.Whole[part.Start : part.Start+part.Length]
}

// copied returns the copy that the answer can be sent from, to be released, and where
// Body begins in it; nil while there is none.
func (a *Answer) copied(window *pages.Window) (*pages.Copy, int64) {
	if window == nil || a.Slot == nil || len(a.Body) < pages.MinSize {
		return nil, 0
	}
	if a.Whole == nil {
		return window.Get(a.Slot, a.Body), 0
	}
	// Parts of one array end in the same place.
	at := cap(a.Whole) - cap(a.Body)
	if at < 0 || at+len(a.Body) > len(a.Whole) || &a.Whole[at] != &a.Body[0] {
		return nil, 0
	}
	return window.Get(a.Slot, a.Whole), int64(at)
}

// Values are as many as a head may leave open; the rest is zero.
type Values [4]Value

// Value is the end of a field's value: Text, or Number where that is empty.
type Value struct {
	Text   string
	Number int64
}

// Append writes the value.
func (v Value) Append(b []byte) []byte {
	if v.Text != "" {
		return append(b, v.Text...)
	}
	return strconv.AppendInt(b, v.Number, 10)
}

// HeadField is a field of a prepared head.
type HeadField struct {
	Name, Value string
	// Open: a value of the answer follows Value.
	Open bool
}

// Head is a response head prepared for many answers.
type Head struct {
	// Status is 0 for fields that come behind another head's.
	Status int
	Fields []HeadField
	// Memo is for what a version of HTTP makes of the head.
	Memo atomic.Value
	// Part is the head of an answer with a part of the same body; nil until it is stored.
	Part atomic.Pointer[Head]

	text []string // of HTTP/1.1, between what is open
}

// NewHead prepares a head whose fields go out as given. At most as many are open as
// an answer has values.
func NewHead(status int, fields []HeadField) *Head {
	h := &Head{Status: status, Fields: fields}
	var b strings.Builder
	if status != 0 {
		fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	}
	for _, f := range fields {
		b.WriteString(f.Name + ": " + f.Value)
		if f.Open {
			h.text = append(h.text, b.String())
			b.Reset()
		}
		b.WriteString("\r\n")
	}
	h.text = append(h.text, b.String())
	if len(h.text) > len(Values{})+1 {
		panic(fmt.Sprintf("a head leaves %d values open", len(h.text)-1))
	}
	return h
}

var newlines = strings.NewReplacer("\n", " ", "\r", " ")

// SortedFields are the fields net/http writes for h, in its order.
func SortedFields(h http.Header) []HeadField {
	var fields []HeadField
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, v := range values {
			fields = append(fields, HeadField{Name: name, Value: strings.Trim(newlines.Replace(v), " \t")})
		}
	}
	slices.SortStableFunc(fields, func(a, b HeadField) int { return cmp.Compare(a.Name, b.Name) })
	return fields
}

// appendHead writes the head as HTTP/1.1 has it, with the empty line after it.
func (a *Answer) appendHead(b []byte) []byte {
	for i, t := range a.Head.text {
		if i > 0 {
			b = a.Values[i-1].Append(b)
		}
		b = append(b, t...)
	}
	if a.More != nil {
		b = append(b, a.More.text[0]...)
	}
	return append(b, "\r\n"...)
}
