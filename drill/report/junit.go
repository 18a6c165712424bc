package report

import (
	"encoding/xml"
	"fmt"
	"io"

	"github.com/meridian-video/meridian/drill/score"
)

type suites struct {
	XMLName xml.Name `xml:"testsuites"`
	Name    string   `xml:"name,attr"`
	Time    string   `xml:"time,attr"`
	Suites  []suite  `xml:"testsuite"`
}

type suite struct {
	Name      string     `xml:"name,attr"`
	Tests     int        `xml:"tests,attr"`
	Failures  int        `xml:"failures,attr"`
	Errors    int        `xml:"errors,attr"`
	Time      string     `xml:"time,attr"`
	Timestamp string     `xml:"timestamp,attr"`
	Cases     []testCase `xml:"testcase"`
}

type testCase struct {
	Name    string   `xml:"name,attr"`
	Class   string   `xml:"classname,attr"`
	Time    string   `xml:"time,attr"`
	Failure *problem `xml:"failure,omitempty"`
	Error   *problem `xml:"error,omitempty"`
	Out     string   `xml:"system-out,omitempty"`
}

type problem struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
}

// JUnit writes a suite for each scenario, with a case for each objective. What
// is unsure counts as failed: it has shown nothing.
func (r Report) JUnit(w io.Writer) error {
	out := suites{Name: "meridian drill", Time: fmt.Sprintf("%.3f", r.Seconds)}
	for _, x := range r.Runs {
		s := suite{Name: x.Name, Time: fmt.Sprintf("%.3f", x.Seconds), Timestamp: x.Began.Format("2006-01-02T15:04:05")}
		add := func(c testCase) {
			c.Class, c.Time = "drill."+x.Name, "0"
			if s.Tests++; c.Failure != nil {
				s.Failures++
			}
			if c.Error != nil {
				s.Errors++
			}
			s.Cases = append(s.Cases, c)
		}
		if x.Error != "" {
			add(testCase{Name: "run", Error: &problem{x.Error, "run"}})
		}
		for _, st := range x.Steps {
			c := testCase{Name: "step " + st.What}
			if st.Error != "" {
				c.Error = &problem{st.Error, "step"}
			}
			add(c)
		}
		for _, res := range x.Results {
			if res.Verdict == score.Measured {
				continue
			}
			text := fmt.Sprintf("%s, goal %s, without a fault %s", Number(res.Value, res.Unit), goal(res), Number(res.Control, res.Unit))
			c := testCase{Name: res.Name, Out: text}
			if res.Verdict != score.Pass {
				c.Failure = &problem{res.Title + ": " + text + " " + res.Note, string(res.Verdict)}
			}
			add(c)
		}
		out.Suites = append(out.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(out); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
